// SPDX-License-Identifier: Apache-2.0
#include "tests/testing/paths.h"

#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace wideberth::testing {
namespace {
// Given by CMake: __FILE__ is relative to a build folder where the compiler cache rewrites paths.
std::string RepositoryDir() { return WIDEBERTH_SOURCE_DIR; }
}  // namespace

std::string SharedDir() {
  if (const char* from_environment = std::getenv("WIDEBERTH_SHARED")) return from_environment;
  const std::string beside =
      (std::filesystem::path(RepositoryDir()).parent_path() / "shared").string();
  return std::filesystem::exists(beside + "/data") ? beside : "";
}

std::string SourcePath(absl::string_view name) { return absl::StrCat(RepositoryDir(), "/", name); }

std::string GoldenPath(absl::string_view name) {
  return absl::StrCat(RepositoryDir(), "/tests/golden/", name);
}

std::string BinaryPath(absl::string_view name) {
  const char* folder = std::getenv("WIDEBERTH_BIN");
  return absl::StrCat(folder == nullptr ? "build/release/bin" : folder, "/", name);
}

std::string SmolLm2Dir() {
  const std::string folder = RepositoryDir() + "/.deps/models/SmolLM2-135M-Instruct";
  return std::filesystem::exists(folder + "/model.safetensors") ? folder : "";
}

TempDir::TempDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "wideberth-test-XXXXXX").string();
  WB_CHECK(::mkdtemp(pattern.data()) != nullptr, "no temporary folder");
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TempDir::Join(absl::string_view name) const { return absl::StrCat(path_, "/", name); }

}  // namespace wideberth::testing
