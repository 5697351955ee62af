// SPDX-License-Identifier: Apache-2.0
// `wideberth toyworld`: files that the learner reads, the same for the same seed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/hash.h"
#include "launch/toyworld.h"
#include "learner/dataset.h"
#include "learner/prompts.h"
#include "tests/testing/paths.h"
#include "toyworld/prompts.h"

namespace wideberth::launch {
namespace {

using ::testing::HasSubstr;
using testing::TempDir;

std::map<std::string, std::string> Fingerprints(const std::string& folder) {
  std::map<std::string, std::string> found;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    const auto bytes = ReadFile(entry.path().string());
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    found[std::filesystem::relative(entry.path(), folder).string()] = Fingerprint(*bytes);
  }
  return found;
}

google::protobuf::RepeatedPtrField<std::string> Paths(const std::string& path) {
  google::protobuf::RepeatedPtrField<std::string> paths;
  *paths.Add() = path;
  return paths;
}

TEST(ToyWorldFilesTest, TheSameSeedWritesTheSameBytes) {
  TempDir dir;
  for (const char* name : {"a", "b"})
    ASSERT_TRUE(ToyWorld({"--seed=1", "--out", dir.Join(name)}).ok());
  ASSERT_TRUE(ToyWorld({"--seed=2", "--out", dir.Join("c")}).ok());
  const auto first = Fingerprints(dir.Join("a"));
  EXPECT_EQ(first.size(), 12u);
  EXPECT_EQ(first, Fingerprints(dir.Join("b")));
  const auto other = Fingerprints(dir.Join("c"));
  for (const char* file :
       {"prompts_train.jsonl", "prompts_held_out.jsonl", "sft.jsonl", "guard.jsonl",
        "guard_validation.jsonl", "preferences.jsonl", "init/model.safetensors"}) {
    EXPECT_NE(first.at(file), other.at(file)) << file;
  }
  EXPECT_EQ(first.at("init/tokenizer.json"), other.at("init/tokenizer.json"));
}

TEST(ToyWorldFilesTest, TheLearnerReadsThem) {
  TempDir dir;
  ASSERT_TRUE(ToyWorld({"--out", dir.path()}).ok());
  proto::PromptsConfig prompts;
  prompts.add_path(dir.Join("prompts_train.jsonl"));
  prompts.add_path(dir.Join("prompts_held_out.jsonl"));
  const auto set = learner::PromptSet::Load(prompts, 0);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->num_train(), 3600);
  EXPECT_TRUE(set->CheckLabels().ok());
  for (int i = 0; i < 50; ++i) {
    const proto::Prompt& prompt = set->Train(i).prompt;
    const auto read = toyworld::ReadPrompt(prompt.message(0).content());
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(prompt.category(), toyworld::CategoryName(read->category));
    EXPECT_EQ(prompt.unsafe(), toyworld::IsUnsafe(read->category));
    EXPECT_EQ(prompt.source(), "toyworld");
  }
  const auto sft = learner::ReadSftRows(Paths(dir.Join("sft.jsonl")));
  ASSERT_TRUE(sft.ok()) << sft.status();
  EXPECT_EQ(sft->size(), 6000u);
  EXPECT_EQ((*sft)[0].messages.size(), 2u);
  const auto preferences = learner::ReadPreferenceRows(Paths(dir.Join("preferences.jsonl")));
  ASSERT_TRUE(preferences.ok()) << preferences.status();
  EXPECT_EQ(preferences->size(), 4000u);
  EXPECT_TRUE((*preferences)[0].chosen.is_chat());
  for (const auto& [file, expected] :
       std::map<std::string, size_t>{{"guard.jsonl", 1200}, {"guard_validation.jsonl", 300}}) {
    const auto guard = learner::ReadGuardRows(Paths(dir.Join(file)), {});
    ASSERT_TRUE(guard.ok()) << guard.status();
    EXPECT_EQ(guard->rows.size(), expected);
    EXPECT_NE(guard->rows[0].source, "");
  }
}

TEST(ToyWorldFilesTest, RefusesABadSettingBeforeItWrites) {
  TempDir dir;
  const absl::Status status = ToyWorld({"--out", dir.Join("w"), "--slang_missed=2"});
  EXPECT_THAT(std::string(status.message()), HasSubstr("slang_missed is 2"));
  EXPECT_FALSE(std::filesystem::exists(dir.Join("w")));
}

}  // namespace
}  // namespace wideberth::launch
