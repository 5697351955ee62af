// SPDX-License-Identifier: Apache-2.0
// write_tiny_model KIND DIR: the tiny models of tests/testing for tests that are shell scripts.
#include <cstdio>
#include <string>

#include "tests/testing/tiny_model.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: write_tiny_model KIND DIR\n");
    return 2;
  }
  const absl::Status written = wideberth::testing::WriteTinyModel(argv[1], argv[2]);
  if (written.ok()) return 0;
  std::fprintf(stderr, "write_tiny_model: %s\n", std::string(written.message()).c_str());
  return 1;
}
