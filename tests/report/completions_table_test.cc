// SPDX-License-Identifier: Apache-2.0
#include "report/completions_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_split.h"

namespace wideberth::report {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

std::vector<CompletionRow> Rows() {
  CompletionRow first;
  first.step = 2;
  first.group_id = 17;
  first.prompt_id = "p3";
  first.prompt = "What is the capital of France?";
  first.completion = "Paris,\n\tof course.";
  first.finish_reason = "STOP";
  first.num_tokens = 5;
  first.scores = {{"safety", 0.125, "SCORED"}, {"helpfulness", -2345.5, "SCORED"}};
  first.reward = -1.5;
  first.advantage = 0.7071;
  CompletionRow second = first;
  second.index = 1;
  second.completion = std::string(200, 'x');
  second.scores = {{"safety", absl::nullopt, "TIMED_OUT"}, {"helpfulness", 1.0, "SCORED"}};
  second.reward = absl::nullopt;
  second.advantage = 0;
  return {first, second};
}

TEST(CompletionsTableTest, HasAColumnPerScorerThenRewardAndAdvantage) {
  const std::string table = CompletionsTable(Rows());
  const std::vector<std::string> lines = absl::StrSplit(table, '\n');
  ASSERT_THAT(lines, SizeIs(4));
  EXPECT_THAT(lines[0], ::testing::MatchesRegex(
                            "group  prompt +completion +safety +helpfu.. +reward +advant."));
  EXPECT_THAT(lines[1],
              ::testing::MatchesRegex("   17  What is the capital .. +Paris, of course. +0.1250 "
                                      "+-2345.5 +-1.5000 +0.7071"));
  EXPECT_THAT(lines[2], ::testing::MatchesRegex(".* x+\\.\\. +- +1.0000 +- +0.0000"));
  for (const std::string& line : lines) EXPECT_LE(line.size(), 100u) << line;
}

TEST(CompletionsTableTest, ManyScorersLeaveSomethingOfTheTexts) {
  std::vector<CompletionRow> rows = Rows();
  for (int i = 0; i < 12; ++i)
    rows[0].scores.push_back({"scorer" + std::to_string(i), 0.5, "SCORED"});
  EXPECT_THAT(CompletionsTable(rows), HasSubstr("What is"));
}

TEST(ShortenedTest, CutsBetweenCharacters) {
  EXPECT_EQ(Shortened("short", 5), "short");
  EXPECT_EQ(Shortened("longer", 5), "lon..");
  EXPECT_EQ(Shortened("  two \n lines ", 20), "two lines");
  EXPECT_EQ(Shortened("aé\xc3\xa9zzzz", 5), "aé..");
  EXPECT_EQ(Shortened("a\xc3\xa9\xc3\xa9zzz", 6), "aé..");
  EXPECT_EQ(Shortened("\x1b[31mred", 20), "[31mred") << "no escape reaches a terminal";
}

TEST(CompletionJsonTest, HasEverythingAndSurvivesBrokenText) {
  std::vector<CompletionRow> rows = Rows();
  rows[1].completion = "half \xe2\x82";
  const auto json = nlohmann::json::parse(CompletionJson(rows[1]));
  EXPECT_EQ(json["step"], 2);
  EXPECT_EQ(json["group_id"], 17);
  EXPECT_EQ(json["index"], 1);
  EXPECT_EQ(json["prompt"], "What is the capital of France?");
  EXPECT_TRUE(json["scores"]["safety"]["value"].is_null());
  EXPECT_EQ(json["scores"]["safety"]["status"], "TIMED_OUT");
  EXPECT_EQ(json["scores"]["helpfulness"]["value"], 1.0);
  EXPECT_TRUE(json["reward"].is_null());
  EXPECT_EQ(json["advantage"], 0.0);
}

}  // namespace
}  // namespace wideberth::report
