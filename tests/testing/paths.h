// SPDX-License-Identifier: Apache-2.0
// Where tests find the shared data, the repository, the built programs and a folder of their own.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace wideberth::testing {

// Environment variable WIDEBERTH_SHARED or ../shared beside the repository; empty where absent.
std::string SharedDir();

// A file of the repository.
std::string SourcePath(absl::string_view name);

// A file under tests/golden.
std::string GoldenPath(absl::string_view name);

// A built program, from environment variable WIDEBERTH_BIN.
std::string BinaryPath(absl::string_view name);

// The SmolLM2 folder launch/get_smollm2.sh makes; empty where absent.
std::string SmolLm2Dir();

// A fresh folder, removed when the object goes.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string Join(absl::string_view name) const;

 private:
  std::string path_;
};

}  // namespace wideberth::testing
