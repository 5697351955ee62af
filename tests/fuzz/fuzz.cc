// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/fuzz.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status.h"

namespace wideberth::fuzz {

std::vector<absl::string_view> Parts(absl::string_view input, size_t n) {
  std::vector<absl::string_view> parts(n);
  for (size_t i = 0; i < n; ++i) {
    const size_t end = i + 1 == n ? input.size() : std::min(input.find('\0'), input.size());
    parts[i] = input.substr(0, end);
    input.remove_prefix(std::min(end + 1, input.size()));
  }
  return parts;
}

std::string Joined(const std::vector<std::string>& parts) {
  return absl::StrJoin(parts, absl::string_view("\0", 1));
}

std::string DeepJson() {
  constexpr size_t kDepth = 1'000'000;
  return absl::StrCat(std::string(kDepth, '['), std::string(kDepth, ']'));
}

std::string SafetensorsBytes(absl::string_view input) {
  if (absl::StartsWith(input, "=")) return std::string(input.substr(1));
  const std::vector<absl::string_view> parts = Parts(input, 2);
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(parts[0].size() >> (8 * i) & 0xff);
  return absl::StrCat(bytes, parts[0], parts[1]);
}

std::string SafetensorsInput(absl::string_view file) {
  WB_CHECK(file.size() >= 8, "no safetensors file");
  size_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | static_cast<uint8_t>(file[i]);
  return Joined(
      {std::string(file.substr(8, header_bytes)), std::string(file.substr(8 + header_bytes))});
}

std::string Folder::Write(absl::string_view name, absl::string_view bytes) const {
  const std::string path = dir_.Join(name);
  std::FILE* file = std::fopen(path.c_str(), "wb");
  WB_CHECK(file != nullptr && std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size() &&
               std::fclose(file) == 0,
           "the input could not be written");
  return path;
}

void Folder::Remove(absl::string_view name) const { ::unlink(dir_.Join(name).c_str()); }

void ExpectNames(const absl::Status& status, absl::string_view thing) {
  if (status.ok() || absl::StrContains(status.message(), thing)) return;
  std::fprintf(stderr, "an error does not name %s: %s\n", std::string(thing).c_str(),
               status.ToString().c_str());
  std::abort();
}

std::string FileBytes(absl::string_view path) {
  const absl::StatusOr<std::string> bytes = ReadFile(path);
  WB_CHECK(bytes.ok(), "a seed's file cannot be read");
  return *bytes;
}

}  // namespace wideberth::fuzz
