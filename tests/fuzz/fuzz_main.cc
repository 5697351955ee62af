// SPDX-License-Identifier: Apache-2.0
// A target as a libFuzzer program. With WIDEBERTH_WRITE_SEEDS=FOLDER it writes its seeds there and
// ends; tests/fuzz/run.sh does so before every run.
#include <google/protobuf/stubs/logging.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  wideberth::SetLogToStderr(false);
  // A line for each text that is no UTF-8 would fill the disk.
  google::protobuf::SetLogHandler(nullptr);
  const char* const folder = std::getenv("WIDEBERTH_WRITE_SEEDS");
  if (folder == nullptr) return 0;
  const std::vector<std::string> seeds = wideberth::fuzz::Seeds();
  for (size_t i = 0; i < seeds.size(); ++i) {
    const std::string path = absl::StrCat(folder, "/seed-", i);
    WB_CHECK(wideberth::WriteFileAtomically(path, seeds[i]).ok(), "a seed could not be written");
  }
  std::exit(0);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  (void)wideberth::fuzz::TryOne(absl::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
