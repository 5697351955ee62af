// SPDX-License-Identifier: Apache-2.0
// What a fuzz target is: one file that defines `Seeds` and `TryOne`. With fuzz_main.cc it becomes a
// libFuzzer program (preset `fuzz`), with replay_test.cc a test of every build.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "tests/testing/paths.h"

namespace wideberth::fuzz {

// Inputs to begin with; most of them good ones, so that what lies behind the first checks is
// reached.
std::vector<std::string> Seeds();

// Gives the bytes to the code under test; true where they are accepted as good, as the first seed
// is. Whatever they are it returns; a property that does not hold aborts.
bool TryOne(absl::string_view input);

// JSON that ends the stack of what goes through it by recursion.
std::string DeepJson();

// At most `n` parts, divided by zero bytes; the last one holds the rest, absent ones are empty.
std::vector<absl::string_view> Parts(absl::string_view input, size_t n);
// Parts back into one input.
std::string Joined(const std::vector<std::string>& parts);

// The bytes of a safetensors file: header text and data divided by a zero byte, to which the length
// is added; after a first '=' the bytes as they are, with a length of their own.
std::string SafetensorsBytes(absl::string_view input);
// The reverse, for seeds.
std::string SafetensorsInput(absl::string_view file);

// A folder of this process whose files each input writes anew.
class Folder {
 public:
  const std::string& path() const { return dir_.path(); }
  std::string Write(absl::string_view name, absl::string_view bytes) const;
  void Remove(absl::string_view name) const;

 private:
  testing::TempDir dir_;
};

// Aborts where an error does not say which file (or message) it is about.
void ExpectNames(const absl::Status& status, absl::string_view thing);

std::string FileBytes(absl::string_view path);

}  // namespace wideberth::fuzz
