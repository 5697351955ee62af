// SPDX-License-Identifier: Apache-2.0
// xxh3-128 fingerprints of weights, templates and texts, as 32 hex digits (canonical, big-endian
// byte order, like `xxhsum -H2`).
#pragma once

#include <string>

#include "absl/strings/string_view.h"

struct XXH3_state_s;

namespace wideberth {

std::string Fingerprint(absl::string_view bytes);

// The fingerprint of bytes that come in pieces. Not thread-safe.
class Fingerprinter {
 public:
  Fingerprinter();
  ~Fingerprinter();
  Fingerprinter(const Fingerprinter&) = delete;
  Fingerprinter& operator=(const Fingerprinter&) = delete;
  void Update(absl::string_view bytes);
  std::string Hex() const;

 private:
  XXH3_state_s* state_;
};

}  // namespace wideberth
