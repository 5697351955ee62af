// SPDX-License-Identifier: Apache-2.0
// --config and --override may be repeated; the rest of a command line stays as it was.
#include "learner/sources.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/testing/paths.h"

namespace wideberth::learner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(SourcesTest, RepeatableFlagsAreTakenInOrderAndTheRestStays) {
  std::vector<std::string> words = {
      "learner", "--config=a,b",    "--run_dir",      "config",     "--config",
      "c",       "--health_port=1", "-override=x: 1", "--override", "y { z: \"a=b,c\" }"};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  Sources sources;
  const std::vector<char*> rest = TakeSources(static_cast<int>(argv.size()), argv.data(), &sources);
  EXPECT_THAT(sources.files, ElementsAre("a", "b", "c"));
  EXPECT_THAT(sources.overrides, ElementsAre("x: 1", "y { z: \"a=b,c\" }"));
  EXPECT_THAT(std::vector<std::string>(rest.begin(), rest.end()),
              ElementsAre("learner", "--run_dir", "config", "--health_port=1"));
}

TEST(SourcesTest, LaterSourcesWinAndErrorsNameTheirPlace) {
  const wideberth::testing::TempDir dir;
  std::ofstream(dir.Join("a")) << "name: \"a\"\nlearner { max_steps: 3 group_size: 5 }";
  std::ofstream(dir.Join("b")) << "learner { max_steps: 4 }";
  const auto config = MergeSources({{dir.Join("a"), dir.Join("b")}, {"learner { group_size: 6 }"}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->name(), "a");
  EXPECT_EQ(config->learner().max_steps(), 4);
  EXPECT_EQ(config->learner().group_size(), 6);
  EXPECT_THAT(std::string(MergeSources({{dir.Join("a")}, {"lerner { }"}}).status().message()),
              HasSubstr("--override:1:"));
  EXPECT_THAT(std::string(MergeSources({}).status().message()), HasSubstr("--config is not given"));
}

}  // namespace
}  // namespace wideberth::learner
