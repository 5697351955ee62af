// SPDX-License-Identifier: Apache-2.0
// A guard's table: figures with rows that have no verdict equal scikit-learn's, means by rows equal
// numpy's, what was not measured is said.
#include "report/guard_figures.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_split.h"
#include "base/file.h"
#include "nlohmann/json.hpp"
#include "tests/testing/paths.h"

namespace wideberth::report {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

GuardedRow Row(bool positive, absl::optional<double> probability, const std::string& prompt = "p") {
  GuardedRow row;
  row.origin = "f.jsonl:1";
  row.prompt = prompt;
  row.positive = positive;
  row.probability = probability;
  if (!probability) {
    row.failure = "MALFORMED_OUTPUT";
    row.message = "prose";
  }
  return row;
}

GuardedSet Set(const std::string& task, std::vector<GuardedRow> rows) {
  GuardedSet set;
  set.name = task + " set";
  set.task = task;
  set.rows = std::move(rows);
  return set;
}

TEST(GuardFiguresTest, EqualThoseOfScikitLearnAndNumpy) {
  const auto text = ReadFile(testing::GoldenPath("guard_figures.json"));
  ASSERT_TRUE(text.ok()) << text.status();
  const Json golden = Json::parse(*text);
  std::vector<GuardedSet> sets;
  std::vector<GuardFigures> figures;
  for (const Json& expected : golden["sets"]) {
    GuardedSet set = Set("response_harm", {});
    int64_t num_missing = 0;
    for (size_t i = 0; i < expected["labels"].size(); ++i) {
      const Json& p = expected["probabilities"][i];
      set.rows.push_back(Row(expected["labels"][i] == 1,
                             p.is_null() ? absl::nullopt : absl::make_optional(p.get<double>())));
      num_missing += p.is_null();
    }
    const GuardFigures found = FiguresOf(set);
    EXPECT_NEAR(found.figures.f1.value(), expected["f1"].get<double>(), 1e-12);
    EXPECT_NEAR(found.figures.precision.value(), expected["precision"].get<double>(), 1e-12);
    EXPECT_NEAR(found.figures.recall.value(), expected["recall"].get<double>(), 1e-12);
    EXPECT_NEAR(found.figures.auroc.value(), expected["auroc"].get<double>(), 1e-12);
    EXPECT_NEAR(found.figures.auprc.value(), expected["auprc"].get<double>(), 1e-12);
    EXPECT_NEAR(found.false_positive_rate.value(), expected["false_positive_rate"].get<double>(),
                1e-12);
    EXPECT_EQ(found.num_unparsable, num_missing);
    EXPECT_GT(num_missing, 4);
    sets.push_back(set);
    figures.push_back(found);
  }
  const auto weighted = WeightedByRows(sets, figures);
  ASSERT_EQ(weighted.size(), 1u);
  EXPECT_EQ(weighted[0].num, 130);
  EXPECT_NEAR(weighted[0].f1.value(), golden["weighted"]["f1"].get<double>(), 1e-12);
  EXPECT_NEAR(weighted[0].auroc.value(), golden["weighted"]["auroc"].get<double>(), 1e-12);
  EXPECT_NEAR(weighted[0].false_positive_rate.value(),
              golden["weighted"]["false_positive_rate"].get<double>(), 1e-12);
}

TEST(GuardFiguresTest, AGuardThatOnlyWritesProseIsWrongThroughout) {
  const GuardFigures figures =
      FiguresOf(Set("refusal", {Row(true, absl::nullopt), Row(false, absl::nullopt)}));
  EXPECT_EQ(figures.note, "");
  EXPECT_EQ(figures.figures.f1, 0.0);
  EXPECT_EQ(figures.figures.auroc, 0.0);
  EXPECT_EQ(figures.false_positive_rate, 1.0);
  EXPECT_FALSE(figures.tokens_per_query.has_value());
}

TEST(GuardFiguresTest, LatenciesAreThoseOfRowsAskedAlone) {
  GuardedSet set = Set("refusal", {});
  for (int i = 0; i < 5; ++i) {
    set.rows.push_back(Row(true, 0.9));
    if (i > 0) set.rows.back().latency_ms = 10.0 * i;
  }
  set.num_tokens = 60;
  const GuardFigures figures = FiguresOf(set);
  EXPECT_EQ(figures.num_latencies, 4);
  EXPECT_DOUBLE_EQ(figures.latency_p50_ms.value(), 25);
  EXPECT_DOUBLE_EQ(figures.latency_p95_ms.value(), 38.5);
  EXPECT_DOUBLE_EQ(figures.tokens_per_query.value(), 12);
}

TEST(GuardFiguresTest, WhatIsNotMeasuredIsLeftOutOfTheMeansAndSaid) {
  GuardedSet silent = Set("prompt_harm", {Row(true, absl::nullopt), Row(false, absl::nullopt)});
  for (GuardedRow& row : silent.rows) row.failure = "REFUSED_INPUT";
  GuardedSet positives = Set("prompt_harm", {Row(true, 0.9), Row(true, 0.2)});
  GuardedSet both = Set("prompt_harm", {Row(true, 0.9), Row(false, 0.2), Row(false, 0.7)});
  both.num_trained_on = 4;
  both.num_unlabelled = 2;
  const std::vector<GuardedSet> sets = {silent, positives, both};
  std::vector<GuardFigures> figures;
  for (const GuardedSet& set : sets) figures.push_back(FiguresOf(set));
  EXPECT_EQ(figures[0].note, "every row is refused; the first: prose");
  EXPECT_FALSE(figures[0].figures.f1.has_value());
  EXPECT_FALSE(figures[1].figures.auroc.has_value());
  const auto weighted = WeightedByRows(sets, figures);
  ASSERT_EQ(weighted.size(), 1u);
  EXPECT_EQ(weighted[0].num_sets, 2);
  EXPECT_EQ(weighted[0].num, 5);
  EXPECT_DOUBLE_EQ(weighted[0].recall.value(), (0.5 * 2 + 1.0 * 3) / 5);
  EXPECT_DOUBLE_EQ(weighted[0].auroc.value(), 1) << "of the one set that has it";
  GuardAsked asked;
  asked.scorer = "safety";
  const std::string text = GuardTableText(asked, sets, figures);
  for (const char* line :
       {"every row is refused; the first: prose", "4 rows are left out, the guard was",
        "2 rows without a label are left out", "weighted by rows         prompt_harm        5"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  for (const absl::string_view line : absl::StrSplit(text, '\n')) EXPECT_LE(line.size(), 120u);
  const Json json = Json::parse(GuardTableJson(asked, sets, figures));
  EXPECT_EQ(json["sets"].size(), 3u);
  EXPECT_TRUE(json["sets"][1]["auroc"].is_null());
  EXPECT_EQ(json["sets"][0]["without_verdict"]["REFUSED_INPUT"], 2);
  EXPECT_EQ(json["weighted"]["prompt_harm"]["num"], 5);
}

TEST(GuardFiguresTest, ConfusionsAreTheMistakesWithTheSurestFirst) {
  const GuardedSet set =
      Set("refusal", {Row(true, 0.4, "near"), Row(true, 0.8, "right"), Row(false, 0.9, "sure"),
                      Row(false, absl::nullopt, "silent"), Row(false, 0.5, "edge")});
  const std::vector<std::string> lines = absl::StrSplit(ConfusionLines({set}, 0.5), '\n');
  ASSERT_EQ(lines.size(), 5u);
  const std::vector<std::pair<std::string, std::string>> expected = {{"silent", "no_verdict"},
                                                                     {"sure", "false_positive"},
                                                                     {"near", "false_negative"},
                                                                     {"edge", "false_positive"}};
  for (size_t i = 0; i < expected.size(); ++i) {
    const Json line = Json::parse(lines[i]);
    EXPECT_EQ(line["prompt"], expected[i].first);
    EXPECT_EQ(line["mistake"], expected[i].second);
    EXPECT_EQ(line["probability"].is_null(), i == 0);
  }
  EXPECT_EQ(Json::parse(lines[0])["message"], "prose");
}

}  // namespace
}  // namespace wideberth::report
