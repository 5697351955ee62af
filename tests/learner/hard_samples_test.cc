// SPDX-License-Identifier: Apache-2.0
// Mining against tables computed by hand.
#include "learner/hard_samples.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/testing/paths.h"

namespace wideberth::learner {
namespace {

using ::testing::HasSubstr;
using Labels = std::map<std::string, std::string>;

SampledItem Item(const std::string& id, const std::vector<std::string>& answers) {
  SampledItem item;
  item.prompt.set_id(id);
  for (const std::string& text : answers) item.answers.push_back({text});
  return item;
}

constexpr char kHarmful[] = "Response: harmful", kUnharmful[] = "Response: unharmful";

TEST(ReadVerdict, IsTheWordOnTheLastLineThatBeginsWithThePrefix) {
  const std::pair<const char*, const char*> cases[] = {
      {"Response: harmful", "harmful"},
      {"Response: harmful\nResponse: unharmful\nThat is all.", "unharmful"},
      {"# Task 3\n**response:** Unharmful.", "unharmful"},
      {"  - RESPONSE:unharmful, since", "unharmful"},
      {"The Response: harmful", ""},
      {"Response:", ""},
      {"", ""},
  };
  for (const auto& [text, verdict] : cases)
    EXPECT_EQ(ReadVerdict({text}, "Response:").value_or(""), verdict) << text;
}

TEST(ReadVerdict, OfATruncatedAnswerTheLastLineDoesNotCount) {
  EXPECT_FALSE(ReadVerdict({"Response: harm", true}, "Response:").has_value());
  EXPECT_EQ(ReadVerdict({"Response: harmful\nand", true}, "Response:").value_or(""), "harmful");
}

TEST(MineHardSamples, WeightsAreThoseOfATableComputedByHand) {
  // k = 4; right + wrong may be fewer. x = wrong - right is -2, 2, 0, 1: from the lowest, 0.8, to
  // the highest, 1.2, by 0.1 each.
  const std::vector<SampledItem> items = {
      Item("a", {kHarmful, kHarmful, kHarmful, kUnharmful}),
      Item("b", {kHarmful, kUnharmful, kHarmful, kHarmful}),
      Item("all right", {kHarmful, kHarmful, kHarmful, kHarmful}),
      Item("c", {kUnharmful, kUnharmful, kHarmful, kHarmful}),
      Item("d", {kHarmful, "I cannot say", kUnharmful, kHarmful}),
      Item("all wrong", {kHarmful, kHarmful, "?", kHarmful}),
      Item("unread", {"?", "Response: maybe", "Response:", ""}),
      Item("unlabelled", {kHarmful, kUnharmful, kHarmful, kUnharmful}),
  };
  const Labels labels = {{"a", "harmful"},       {"b", "unharmful"}, {"all right", "harmful"},
                         {"c", "harmful"},       {"d", "unharmful"}, {"all wrong", "unharmful"},
                         {"unread", "unharmful"}};
  const MinedSamples mined = MineHardSamples(items, labels, "Response:", 0.2);
  const struct {
    const char* id;
    int right, wrong;
    double weight;
  } table[] = {{"a", 3, 1, 0.8}, {"b", 1, 3, 1.2}, {"c", 2, 2, 1.0}, {"d", 1, 2, 1.1}};
  ASSERT_EQ(mined.samples.size(), 4u);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(mined.samples[i].prompt.id(), table[i].id);
    EXPECT_EQ(mined.samples[i].num_right, table[i].right) << table[i].id;
    EXPECT_EQ(mined.samples[i].num_wrong, table[i].wrong) << table[i].id;
    EXPECT_NEAR(mined.samples[i].weight, table[i].weight, 1e-12) << table[i].id;
  }
  EXPECT_EQ(mined.num_all_right, 1);
  EXPECT_EQ(mined.num_all_wrong, 1);
  EXPECT_EQ(mined.num_unread, 1);
  EXPECT_EQ(mined.num_unlabelled, 1);
  EXPECT_EQ(mined.num_unread_answers, 1 + 1 + 4);
}

TEST(MineHardSamples, EquallyHardSamplesWeighOne) {
  const Labels labels = {{"a", "harmful"}, {"b", "unharmful"}};
  const MinedSamples mined =
      MineHardSamples({Item("a", {kHarmful, kUnharmful}), Item("b", {kHarmful, kUnharmful})},
                      labels, "Response:", 0.2);
  ASSERT_EQ(mined.samples.size(), 2u);
  for (const HardSample& sample : mined.samples) EXPECT_EQ(sample.weight, 1);
  EXPECT_TRUE(MineHardSamples({}, labels, "Response:", 0.2).samples.empty());
}

TEST(MineHardSamples, TheLongestRightAndTheLongestWrongAnswerMakeThePair) {
  const std::string right = absl::StrCat("because of this, ", "\n", kHarmful),
                    wrong = absl::StrCat("since then\n", kUnharmful);
  const MinedSamples mined =
      MineHardSamples({Item("a", {kHarmful, right, kUnharmful, wrong,
                                  absl::StrCat("before it.\n", kUnharmful), kHarmful})},
                      {{"a", "harmful"}, {"b", "unharmful"}}, "Response:", 0.2);
  ASSERT_EQ(mined.samples.size(), 1u);
  EXPECT_EQ(mined.samples[0].chosen, right);
  EXPECT_EQ(mined.samples[0].rejected, wrong) << "the first of two of one length";
}

class HardSampleFiles : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& text) {
    EXPECT_TRUE(WriteFileAtomically(dir_.Join(name), text).ok());
    return dir_.Join(name);
  }
  PromptSet Prompts(const std::string& text) {
    proto::PromptsConfig config;
    config.add_path(Write("prompts.jsonl", text));
    config.set_shuffle(false);
    auto prompts = PromptSet::Load(config, 0);
    EXPECT_TRUE(prompts.ok()) << prompts.status();
    return *std::move(prompts);
  }
  static JournalGroup Group(uint64_t id, const std::string& prompt_id, const std::string& answer) {
    JournalGroup group;
    group.prompt_id = prompt_id;
    group.request.set_group_id(id);
    for (const auto finish : {proto::STOP, proto::LENGTH}) {
      proto::Completion* completion = group.request.add_completion();
      completion->set_text(answer);
      completion->set_finish_reason(finish);
    }
    return group;
  }
  wideberth::testing::TempDir dir_;
};

TEST_F(HardSampleFiles, GroupsOfOnePromptAreOneItem) {
  const PromptSet prompts =
      Prompts("{\"prompt\": \"one\", \"id\": \"p1\"}\n{\"prompt\": \"two\", \"id\": 2}\n");
  JournalGroup again = Group(1, "2", "retried"), held_out = Group(0, "p1", "held out");
  again.disposition = Disposition::kRetry;
  held_out.phase = Phase::kEvaluateBefore;
  const auto items = SampledItems({held_out, Group(0, "p1", "first"), again, Group(1, "2", "x"),
                                   Group(2, "p1", "second epoch")},
                                  prompts);
  ASSERT_TRUE(items.ok()) << items.status();
  ASSERT_EQ(items->size(), 2u);
  ASSERT_EQ((*items)[0].answers.size(), 4u);
  EXPECT_EQ((*items)[0].prompt.message(0).content(), "one");
  EXPECT_EQ((*items)[0].answers[0].text, "first");
  EXPECT_FALSE((*items)[0].answers[0].truncated);
  EXPECT_TRUE((*items)[0].answers[1].truncated);
  EXPECT_EQ((*items)[0].answers[2].text, "second epoch");
  EXPECT_EQ((*items)[1].answers.size(), 2u);
}

TEST_F(HardSampleFiles, PromptsThatChangedSinceTheRunAreRefused) {
  const auto items =
      SampledItems({Group(0, "old", "a")}, Prompts("{\"prompt\": \"one\", \"id\": \"new\"}\n"));
  EXPECT_TRUE(absl::IsFailedPrecondition(items.status()));
  EXPECT_THAT(std::string(items.status().message()),
              ::testing::AllOf(HasSubstr("\"new\""), HasSubstr("\"old\"")));
}

TEST_F(HardSampleFiles, LabelsAreReadOrTheirLineIsNamed) {
  const auto labels = ReadLabels(Write("good.jsonl",
                                       "{\"id\": \"a\", \"label\": \"Harmful\", \"more\": 1}\n\n"
                                       "{\"id\": 7, \"label\": \"safe\"}\n"));
  ASSERT_TRUE(labels.ok()) << labels.status();
  EXPECT_EQ(*labels, (Labels{{"a", "harmful"}, {"7", "safe"}}));
  const std::pair<const char*, const char*> cases[] = {
      {"x", "bad.jsonl:1: not a JSON object"},
      {"{\"label\": \"a\"}", "bad.jsonl:1: \"id\" must be there"},
      {"{\"id\": \"a\", \"label\": \"b\"}\n{\"id\": \"b\", \"label\": 1}",
       "bad.jsonl:2: \"label\" must be there"},
      {"{\"id\": \"a\", \"label\": \"b\"}\n{\"id\": \"a\", \"label\": \"b\"}",
       "bad.jsonl:2: id \"a\" comes twice"},
      {"\n", "bad.jsonl: has no row"},
  };
  for (const auto& [text, sentence] : cases) {
    const auto status = ReadLabels(Write("bad.jsonl", text)).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(sentence));
  }
}

}  // namespace
}  // namespace wideberth::learner
