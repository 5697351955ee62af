// SPDX-License-Identifier: Apache-2.0
// The numbers at the end of a run: pairing, intervals, missing values, and what is shown.
#include "report/summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace wideberth::report {
namespace {

using ::testing::HasSubstr;

Answer MakeAnswer(absl::optional<double> t, absl::optional<double> u,
                  const std::string& text = "yes") {
  Answer answer;
  answer.text = text;
  answer.num_tokens = 10;
  answer.t = t;
  answer.u = u;
  return answer;
}

Summary MakeSummary() {
  Summary summary;
  summary.name = "quick";
  summary.ended = "completed";
  summary.steps = summary.max_steps = 12;
  summary.adapter_path = "runs/quick/adapter";
  for (int i = 0; i < 8; ++i) {
    PromptPair pair;
    pair.prompt_id = absl::StrCat("p", i);
    pair.prompt = absl::StrCat("question ", i);
    pair.before = {MakeAnswer(0.45, 1.0), MakeAnswer(0.55, 2.0)};
    pair.after = {MakeAnswer(0.25 + 0.01 * i, 1.5, "no"), MakeAnswer(0.35, 2.5)};
    summary.evaluation.push_back(pair);
  }
  return summary;
}

const Row& Find(const std::vector<Row>& rows, absl::string_view key) {
  for (const Row& row : rows) {
    if (row.key == key) return row;
  }
  ADD_FAILURE() << "no row " << key;
  return rows.front();
}

TEST(SummaryTest, MeansAndBoundaryMassOfBothSides) {
  const auto rows = CompareBeforeAfter(MakeSummary());
  EXPECT_DOUBLE_EQ(*Find(rows, "u_mean").before, 1.5);
  EXPECT_DOUBLE_EQ(*Find(rows, "u_mean").after, 2.0);
  EXPECT_DOUBLE_EQ(Find(rows, "u_mean").difference->mean, 0.5);
  EXPECT_DOUBLE_EQ(*Find(rows, "boundary_mass").before, 1.0);
  EXPECT_DOUBLE_EQ(*Find(rows, "boundary_mass").after, 0.0);
  EXPECT_NEAR(*Find(rows, "t_mean").after, 0.3175, 1e-12);
  EXPECT_EQ(Find(rows, "u_mean").difference->num_prompts, 8);
}

TEST(SummaryTest, AMissingScoreIsNoZero) {
  Summary summary = MakeSummary();
  summary.evaluation[0].after[0].t.reset();
  summary.evaluation[1].after = {MakeAnswer(absl::nullopt, 1.0), MakeAnswer(absl::nullopt, 1.0)};
  const auto rows = CompareBeforeAfter(summary);
  EXPECT_EQ(Find(rows, "t_mean").difference->num_prompts, 7);  // Prompt 1 has no t after training.
  EXPECT_GT(*Find(rows, "t_mean").after, 0.25);
  EXPECT_DOUBLE_EQ(*Find(rows, "unscored").after, 3.0 / 16);
  EXPECT_DOUBLE_EQ(*Find(rows, "unscored").before, 0.0);
}

TEST(SummaryTest, TheIntervalOfAConstantDifferenceHasNoWidthAndANoisyOneCoversItsMean) {
  const auto u = [](const Answer& a) { return a.u; };
  const auto t = [](const Answer& a) { return a.t; };
  const Summary summary = MakeSummary();
  const auto constant = PairedDifference(summary.evaluation, u, 1);
  EXPECT_NEAR(constant->low, 0.5, 1e-12);
  EXPECT_NEAR(constant->high, 0.5, 1e-12);
  const auto noisy = PairedDifference(summary.evaluation, t, 1);
  EXPECT_LT(noisy->low, noisy->mean);
  EXPECT_GT(noisy->high, noisy->mean);
  // Standard error of the mean of eight prompts whose differences are 0.005 apart: about 0.0041.
  EXPECT_NEAR(noisy->high - noisy->low, 2 * 1.96 * 0.0041, 0.004);
  EXPECT_EQ(PairedDifference(summary.evaluation, t, 1)->low, noisy->low);  // The seed decides.
}

TEST(SummaryTest, WithoutBothSidesThereIsNoDifference) {
  Summary summary = MakeSummary();
  for (PromptPair& pair : summary.evaluation) pair.after.clear();
  const auto rows = CompareBeforeAfter(summary);
  EXPECT_FALSE(Find(rows, "u_mean").difference.has_value());
  EXPECT_FALSE(Find(rows, "u_mean").after.has_value());
  EXPECT_THAT(SummaryTable(summary), HasSubstr("mean u"));
}

TEST(SummaryTest, JsonHoldsEverythingAndSurvivesBrokenText) {
  Summary summary = MakeSummary();
  summary.evaluation[0].after[0].text = "half a character \xe2\x82";
  summary.settings = {{"reward.form", "BOUNDARY"}};
  summary.totals = {{"groups_accepted", 96}};
  const auto json = nlohmann::json::parse(SummaryJson(summary));
  EXPECT_EQ(json["ended"], "completed");
  EXPECT_EQ(json["settings"]["reward.form"], "BOUNDARY");
  EXPECT_EQ(json["totals"]["groups_accepted"], 96);
  EXPECT_EQ(json["adapter"]["path"], "runs/quick/adapter");
  EXPECT_NEAR(json["evaluation"]["comparison"]["u_mean"]["difference"]["mean"], 0.5, 1e-12);
  EXPECT_TRUE(json["evaluation"]["prompts"][0]["before"][0]["kl"].is_null());
  EXPECT_EQ(json["evaluation"]["prompts"].size(), 8u);
}

TEST(SummaryTest, TheTableShowsChangedAnswersSideBySideAndTheAdapter) {
  Summary summary = MakeSummary();
  summary.num_examples = 1;
  const std::string table = SummaryTable(summary);
  EXPECT_THAT(table, HasSubstr("share of t within 0.1 of 0.5"));
  EXPECT_THAT(table, HasSubstr("> question 0"));  // The largest change of t.
  EXPECT_THAT(table, ::testing::Not(HasSubstr("> question 1")));
  EXPECT_THAT(table, HasSubstr("adapter: runs/quick/adapter"));
}

TEST(SummaryTest, TheTableKeepsToItsWidthAndShowsSmallNumbers) {
  Summary summary = MakeSummary();
  summary.evaluation[0].before[0].text = std::string(3, 'x') + std::string(400, ' ') + "word";
  for (PromptPair& pair : summary.evaluation) {
    for (Answer& answer : pair.before) answer.kl = 0.0;
    for (Answer& answer : pair.after) answer.kl = 2e-5;
  }
  const std::string table = SummaryTable(summary);
  EXPECT_THAT(table, HasSubstr("2.0e-05"));
  for (absl::string_view line : absl::StrSplit(table, '\n')) EXPECT_LE(line.size(), 100u) << line;
}

}  // namespace
}  // namespace wideberth::report
