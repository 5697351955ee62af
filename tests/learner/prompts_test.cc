// SPDX-License-Identifier: Apache-2.0
// Prompts of a run: what is read, what is refused and with which words, and the order they come in.
#include "learner/prompts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "absl/strings/str_cat.h"
#include "tests/testing/paths.h"

namespace wideberth::learner {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class PromptsTest : public ::testing::Test {
 protected:
  std::string WriteLines(const std::string& name, const std::string& text) {
    const std::string path = dir_.Join(name);
    std::ofstream(path) << text;
    return path;
  }
  proto::PromptsConfig Numbered(int n, int held_out) {
    std::string text;
    for (int i = 0; i < n; ++i)
      absl::StrAppend(&text, R"({"id": ")", i, R"(", "prompt": "question )", i, "\"}\n");
    proto::PromptsConfig config;
    config.add_path(WriteLines("numbered.jsonl", text));
    config.set_num_held_out(held_out);
    return config;
  }
  std::string ErrorOf(const std::string& text) {
    proto::PromptsConfig config;
    config.add_path(WriteLines("bad.jsonl", text));
    return std::string(PromptSet::Load(config, 0).status().message());
  }
  wideberth::testing::TempDir dir_;
};

TEST_F(PromptsTest, CarriesCategoryAndSource) {
  proto::PromptsConfig config;
  config.add_path(
      WriteLines("c.jsonl",
                 "{\"prompt\": \"a\", \"category\": \"jail\", \"source\": \"toyworld\"}\n"
                 "{\"prompt\": \"b\"}\n"));
  config.set_shuffle(false);
  const auto set = PromptSet::Load(config, 0);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->Train(0).prompt.category(), "jail");
  EXPECT_EQ(set->Train(0).prompt.source(), "toyworld");
  EXPECT_FALSE(set->Train(1).prompt.has_category());
  EXPECT_FALSE(set->Train(1).prompt.has_source());
  EXPECT_THAT(ErrorOf("{\"prompt\": \"a\", \"category\": 3}"),
              HasSubstr("bad.jsonl:1: \"category\" must be a text"));
}

TEST_F(PromptsTest, ReadsPromptsAndConversations) {
  proto::PromptsConfig config;
  config.add_path(WriteLines("a.jsonl",
                             "{\"prompt\": \"hello\", \"id\": \"greeting\", \"unsafe\": false}\n\n"
                             "{\"messages\": [{\"role\": \"system\", \"content\": \"be brief\"}, "
                             "{\"role\": \"user\", \"content\": \"hi\"}]}\n"));
  config.set_system("be kind");
  config.set_shuffle(false);
  const auto set = PromptSet::Load(config, 0);
  ASSERT_TRUE(set.ok()) << set.status();
  const proto::Prompt& first = set->Train(0).prompt;
  EXPECT_EQ(first.id(), "greeting");
  EXPECT_TRUE(first.has_unsafe());
  EXPECT_FALSE(first.unsafe());
  ASSERT_EQ(first.message_size(), 2);
  EXPECT_EQ(first.message(0).content(), "be kind");
  EXPECT_EQ(first.message(1).content(), "hello");
  const PromptRecord& second = set->Train(1);
  EXPECT_THAT(second.origin, HasSubstr("a.jsonl:3"));
  EXPECT_EQ(second.prompt.id(), second.origin);
  EXPECT_FALSE(second.prompt.has_unsafe());
  ASSERT_EQ(second.prompt.message_size(), 2);
  EXPECT_EQ(second.prompt.message(0).content(), "be brief");
}

TEST_F(PromptsTest, ErrorsNameFileAndLine) {
  EXPECT_THAT(ErrorOf("{\"prompt\": \"a\"}\nnot json\n"),
              HasSubstr("bad.jsonl:2: not a JSON object"));
  EXPECT_THAT(ErrorOf("{\"promt\": \"a\"}"), HasSubstr("bad.jsonl:1: unknown field \"promt\""));
  EXPECT_THAT(ErrorOf("{\"prompt\": 3}"), HasSubstr("\"prompt\" must be a text"));
  EXPECT_THAT(ErrorOf("{\"id\": \"x\"}"), HasSubstr("needs either \"prompt\" or \"messages\""));
  EXPECT_THAT(ErrorOf("{\"prompt\": \"a\", \"messages\": []}"), HasSubstr("needs either"));
  EXPECT_THAT(ErrorOf("{\"messages\": []}"), HasSubstr("\"messages\" must be a list"));
  EXPECT_THAT(ErrorOf("{\"messages\": [{\"role\": \"bot\", \"content\": \"a\"}]}"),
              HasSubstr("role is \"bot\""));
  EXPECT_THAT(ErrorOf("{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}]}"),
              HasSubstr("must be the user's"));
  EXPECT_THAT(ErrorOf("{\"prompt\": \"a\", \"unsafe\": 1}"),
              HasSubstr("\"unsafe\" must be true or false"));
  EXPECT_THAT(ErrorOf("{\"prompt\": \"a\", \"id\": \"k\"}\n{\"prompt\": \"b\", \"id\": \"k\"}"),
              ::testing::AllOf(HasSubstr("bad.jsonl:2"), HasSubstr("already used at"),
                               HasSubstr("bad.jsonl:1")));
  EXPECT_THAT(ErrorOf(""), HasSubstr("must be less than the 0 prompts"));
  proto::PromptsConfig config;
  config.add_path("/nowhere/p.jsonl");
  EXPECT_THAT(std::string(PromptSet::Load(config, 0).status().message()),
              StartsWith("/nowhere/p.jsonl"));
}

TEST_F(PromptsTest, HeldOutPromptsAreNeverTrainedOn) {
  const auto set = PromptSet::Load(Numbered(20, 6), 7);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->num_train(), 14);
  std::set<std::string> held_out, trained;
  for (int64_t i = 0; i < set->num_held_out(); ++i) held_out.insert(set->HeldOut(i).prompt.id());
  for (uint64_t g = 0; g < 14 * 5; ++g) trained.insert(set->Train(g).prompt.id());
  EXPECT_EQ(held_out.size(), 6u);
  EXPECT_EQ(trained.size(), 14u);
  for (const std::string& id : held_out) EXPECT_FALSE(trained.contains(id)) << id;
}

TEST_F(PromptsTest, EveryEpochIsAPermutationOfItsOwnAndTheSeedDecidesIt) {
  const proto::PromptsConfig config = Numbered(30, 0);
  const auto set = PromptSet::Load(config, 1), same = PromptSet::Load(config, 1),
             other = PromptSet::Load(config, 2);
  std::vector<std::string> first, second, first_other;
  for (uint64_t g = 0; g < 30; ++g) {
    EXPECT_EQ(set->Train(g).prompt.id(), same->Train(g).prompt.id());
    first.push_back(set->Train(g).prompt.id());
    second.push_back(set->Train(30 + g).prompt.id());
    first_other.push_back(other->Train(g).prompt.id());
  }
  EXPECT_NE(first, second);
  EXPECT_NE(first, first_other);
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  EXPECT_EQ(first, second);
  EXPECT_EQ(std::set<std::string>(first.begin(), first.end()).size(), 30u);
}

TEST_F(PromptsTest, WithoutShufflingTheFilesOrderHolds) {
  proto::PromptsConfig config = Numbered(5, 2);
  config.set_shuffle(false);
  const auto set = PromptSet::Load(config, 3);
  for (uint64_t g = 0; g < 9; ++g) EXPECT_EQ(set->Train(g).prompt.id(), std::to_string(g % 3));
  EXPECT_EQ(set->HeldOut(0).prompt.id(), "3");
  EXPECT_EQ(set->HeldOut(1).prompt.id(), "4");
}

// The order is part of a run's identity: a resumed run on another machine must meet the same
// prompts.
TEST_F(PromptsTest, TheOrderIsTheSameOnEveryMachine) {
  EXPECT_EQ(ShuffledOrder(8, 0, 0), (std::vector<int64_t>{2, 6, 5, 3, 0, 4, 7, 1}));
}

TEST_F(PromptsTest, APromptLongerThanTheContextIsOneSentence) {
  const auto set = PromptSet::Load(Numbered(12, 2), 0);
  const auto count = [](const proto::Prompt& prompt) -> absl::StatusOr<int64_t> {
    return prompt.id() == "4" ? 97 : prompt.id() == "9" ? 200 : 96;
  };
  EXPECT_TRUE(
      set->CheckLengths([](const proto::Prompt&) -> absl::StatusOr<int64_t> { return 96; }, 32, 128)
          .ok());
  const absl::Status status = set->CheckLengths(count, 32, 128);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              ::testing::AllOf(HasSubstr("numbered.jsonl:5: prompt has 97 tokens, must have at "
                                         "most 96 (context 128 less generation.max_new_tokens 32)"),
                               HasSubstr("1 further prompts are too long")));
}

}  // namespace
}  // namespace wideberth::learner
