// SPDX-License-Identifier: Apache-2.0
// xxh3-128 fingerprints of weights, templates and texts, as 32 hex digits (canonical, big-endian
// byte order, like `xxhsum -H2`).
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

struct XXH3_state_s;

namespace wideberth {

std::string Fingerprint(absl::string_view bytes);

// xxh3-64, for what is checked piece by piece on its way. At over 10 GB/s it costs the weight wire
// nothing; a table-driven CRC-32 would cost it its gigabyte a second.
uint64_t Checksum(absl::string_view bytes);

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
