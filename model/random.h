// SPDX-License-Identifier: Apache-2.0
// Random numbers as a pure function of their place: no state to save, none to race for. Used for
// sampling, adapter initialisation and orders.
#pragma once

#include <array>
#include <cstdint>

namespace wideberth {

// Philox 4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011).
inline std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter,
                                      std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * counter[0], p1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

// Streams that are no sampling group.
inline constexpr uint64_t kAdapterStream = uint64_t{1} << 62;
inline constexpr uint64_t kPromptOrderStream = uint64_t{1} << 61;

// Uniform in [0, 1) with 53 bits, keyed by (run seed; group or stream, completion, position).
inline double UniformAt(uint64_t seed, uint64_t group, uint32_t completion, uint32_t position) {
  const auto bits = Philox(
      {static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32), completion, position},
      {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return static_cast<double>((uint64_t{bits[0]} << 32 | bits[1]) >> 11) * 0x1.0p-53;
}

}  // namespace wideberth
