// SPDX-License-Identifier: Apache-2.0
// A fuzz target without libFuzzer: its seeds, and the inputs under regressions/TARGET, each of
// which once crashed, hung or took too much memory.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>

#include "base/log.h"
#include "tests/fuzz/fuzz.h"

namespace wideberth::fuzz {
namespace {

// What an input may take over what the process has, as -malloc_limit_mb does under libFuzzer. The
// address sanitizer maps terabytes.
void LimitMemory() {
#ifndef __SANITIZE_ADDRESS__
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t limit = static_cast<rlim_t>(pages) * 4096 + (rlim_t{1} << 30);
  const rlimit bounds{limit, limit};
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &bounds), 0);
#endif
}

TEST(FuzzReplay, SeedsAndFormerFaultsPass) {
  SetLogToStderr(false);
  const std::vector<std::string> seeds = Seeds();
  ASSERT_FALSE(seeds.empty());
  EXPECT_TRUE(TryOne(seeds[0])) << "a good input is refused";
  for (const std::string& seed : seeds) (void)TryOne(seed);
  LimitMemory();
  const std::filesystem::path folder = WIDEBERTH_REGRESSIONS;
  if (!std::filesystem::exists(folder)) return;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    // The last line of a run that ends here says which input it was.
    std::printf("%s\n", entry.path().filename().c_str());
    std::fflush(stdout);
    (void)TryOne(FileBytes(entry.path().string()));
  }
}

}  // namespace
}  // namespace wideberth::fuzz
