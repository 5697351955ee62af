// SPDX-License-Identifier: Apache-2.0
#include "base/hash.h"

#include <xxhash.h>

#include "absl/strings/escaping.h"

namespace wideberth {
namespace {
std::string HexOf(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(canonical.digest), sizeof(canonical.digest)));
}
}  // namespace

std::string Fingerprint(absl::string_view bytes) {
  return HexOf(XXH3_128bits(bytes.data(), bytes.size()));
}

uint64_t Checksum(absl::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

Fingerprinter::Fingerprinter() : state_(XXH3_createState()) { XXH3_128bits_reset(state_); }
Fingerprinter::~Fingerprinter() { XXH3_freeState(state_); }
void Fingerprinter::Update(absl::string_view bytes) {
  XXH3_128bits_update(state_, bytes.data(), bytes.size());
}
std::string Fingerprinter::Hex() const { return HexOf(XXH3_128bits_digest(state_)); }

}  // namespace wideberth
