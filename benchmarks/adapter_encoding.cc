// SPDX-License-Identifier: Apache-2.0
// What a version costs in bytes and time: dense bf16 against what zstd makes of its difference from
// the version before. Reads safetensors files of consecutive versions, of one layout, in the order
// given: adapter_encoding FILE FILE... Values in float32 are rounded to bf16 first.
#include <zstd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

// Of this thread's work, so that other processes on the cores do not count.
double Now() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

// The tensors' bytes as bf16 words; empty where the file is no safetensors file.
std::vector<uint16_t> ReadWords(const char* path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  uint64_t header_bytes = 0;
  if (bytes.size() < 8) return {};
  std::memcpy(&header_bytes, bytes.data(), 8);
  if (header_bytes > bytes.size() - 8) return {};
  const bool wide = bytes.substr(8, header_bytes).find("\"F32\"") != std::string::npos;
  const size_t size = wide ? 4 : 2;
  std::vector<uint16_t> words((bytes.size() - 8 - header_bytes) / size);
  for (size_t i = 0; i < words.size(); ++i) {
    uint32_t bits = 0;
    std::memcpy(&bits, bytes.data() + 8 + header_bytes + i * size, size);
    // To the nearest, ties to even.
    words[i] = static_cast<uint16_t>(wide ? (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 : bits);
  }
  return words;
}

struct Cost {
  double bytes = 0, encode = 0, decode = 0;
};

// Both planes of the words' XOR with the version before, one after the other, through zstd.
Cost Planes(const std::vector<uint16_t>& before, const std::vector<uint16_t>& now, int level) {
  const size_t n = now.size();
  std::string planes(2 * n, '\0'), packed(ZSTD_compressBound(2 * n), '\0'), back(2 * n, '\0');
  Cost cost;
  double start = Now();
  for (size_t i = 0; i < n; ++i) {
    const uint16_t changed = now[i] ^ before[i];
    planes[i] = static_cast<char>(changed & 0xff);
    planes[n + i] = static_cast<char>(changed >> 8);
  }
  packed.resize(ZSTD_compress(packed.data(), packed.size(), planes.data(), planes.size(), level));
  cost.encode = Now() - start;
  cost.bytes = static_cast<double>(packed.size());
  start = Now();
  ZSTD_decompress(back.data(), back.size(), packed.data(), packed.size());
  std::vector<uint16_t> restored(n);
  for (size_t i = 0; i < n; ++i) {
    restored[i] = static_cast<uint16_t>(
        before[i] ^ (static_cast<uint8_t>(back[i]) | static_cast<uint8_t>(back[n + i]) << 8));
  }
  cost.decode = Now() - start;
  if (restored != now) std::printf("the planes did not come back\n");
  return cost;
}

// A bit a word for whether it changed, then the changed words.
Cost ChangedWords(const std::vector<uint16_t>& before, const std::vector<uint16_t>& now) {
  const size_t n = now.size();
  Cost cost;
  double start = Now();
  std::vector<uint8_t> mask((n + 7) / 8);
  std::vector<uint16_t> changed;
  changed.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    if (now[i] == before[i]) continue;
    mask[i / 8] |= static_cast<uint8_t>(1 << (i % 8));
    changed.push_back(now[i]);
  }
  cost.encode = Now() - start;
  cost.bytes = static_cast<double>(mask.size() + 2 * changed.size());
  start = Now();
  std::vector<uint16_t> restored = before;
  for (size_t i = 0, next = 0; i < n; ++i)
    if (mask[i / 8] >> (i % 8) & 1) restored[i] = changed[next++];
  cost.decode = Now() - start;
  if (restored != now) std::printf("the words did not come back\n");
  return cost;
}

}  // namespace

int main(int argc, char** argv) {
  const char* const names[] = {"changed words", "planes + zstd 1", "planes + zstd 3"};
  Cost totals[3];
  double dense = 0;
  std::vector<uint16_t> before;
  for (int i = 1; i < argc; ++i) {
    std::vector<uint16_t> now = ReadWords(argv[i]);
    if (i > 1 && now.size() == before.size()) {
      dense += 2.0 * static_cast<double>(now.size());
      const Cost costs[] = {ChangedWords(before, now), Planes(before, now, 1),
                            Planes(before, now, 3)};
      for (int k = 0; k < 3; ++k) {
        totals[k].bytes += costs[k].bytes;
        totals[k].encode += costs[k].encode;
        totals[k].decode += costs[k].decode;
      }
    }
    before = std::move(now);
  }
  if (dense == 0) {
    std::fprintf(stderr, "usage: adapter_encoding FILE FILE...: versions of one adapter\n");
    return 2;
  }
  // Encoding pays below the rate at which it takes as long as the bytes it saves.
  std::printf("| way | bytes of dense | encode MB/s | decode MB/s | pays below Gbit/s |\n");
  std::printf("|---|---|---|---|---|\n");
  for (int k = 0; k < 3; ++k) {
    const double saved = dense - totals[k].bytes, spent = totals[k].encode + totals[k].decode;
    std::printf("| %s | %.3f | %.0f | %.0f | %.2f |\n", names[k], totals[k].bytes / dense,
                dense / totals[k].encode / 1e6, dense / totals[k].decode / 1e6,
                saved > 0 ? saved * 8 / spent / 1e9 : 0.0);
  }
  return 0;
}
