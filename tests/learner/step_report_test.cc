// SPDX-License-Identifier: Apache-2.0
// The line of metrics.jsonl against numbers counted by hand; names against TRL's.
#include "learner/step_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace wideberth::learner {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

proto::Completion MakeCompletion(int length, proto::FinishReason finish,
                                 std::vector<proto::Score> scores) {
  proto::Completion completion;
  for (int i = 0; i < length; ++i) completion.add_token_id(5);
  completion.set_finish_reason(finish);
  for (proto::Score& score : scores) *completion.add_score() = std::move(score);
  return completion;
}

proto::Score Scored(const char* scorer, double value) {
  proto::Score score;
  score.set_scorer_name(scorer);
  score.set_status(proto::SCORED);
  score.set_value(value);
  return score;
}

proto::Score Missing(const char* scorer, proto::ScoreStatus status) {
  proto::Score score;
  score.set_scorer_name(scorer);
  score.set_status(status);
  return score;
}

std::vector<AcceptedGroup> Groups() {
  std::vector<AcceptedGroup> groups(2);
  for (int i = 0; i < 3; ++i) groups[0].request.add_prompt_token_id(7);
  *groups[0].request.add_completion() =
      MakeCompletion(4, proto::STOP, {Scored("safety", 0.25), Scored("helpfulness", 2)});
  *groups[0].request.add_completion() =
      MakeCompletion(8, proto::LENGTH, {Scored("safety", 0.75), Scored("helpfulness", -1)});
  for (int i = 0; i < 5; ++i) groups[1].request.add_prompt_token_id(7);
  *groups[1].request.add_completion() = MakeCompletion(
      6, proto::STOP, {Scored("safety", 0.5), Missing("helpfulness", proto::TIMED_OUT)});
  *groups[1].request.add_completion() = MakeCompletion(
      0, proto::STOP,
      {Missing("safety", proto::REFUSED_INPUT), Missing("helpfulness", proto::REFUSED_INPUT)});
  return groups;
}

TEST(DescribeGroupsTest, CountsLengthsAndScoresAndWhatIsMissing) {
  StepReport report;
  DescribeGroups(Groups(), &report);
  EXPECT_EQ(report.lengths.num_tokens, 18);
  EXPECT_EQ(report.lengths.num_prompt_tokens, 3 + 3 + 5) << "an empty completion has no prompt";
  EXPECT_EQ(report.lengths.num_terminated, 2);
  EXPECT_EQ(report.lengths.terminated_mean, 5);
  EXPECT_EQ(report.lengths.terminated_min, 4);
  EXPECT_EQ(report.lengths.terminated_max, 6);
  ASSERT_EQ(report.scorers.size(), 2u);
  EXPECT_EQ(report.scorers[0].name, "helpfulness");
  EXPECT_EQ(report.scorers[0].mean, 0.5);
  EXPECT_DOUBLE_EQ(report.scorers[0].deviation, std::sqrt(4.5));
  EXPECT_EQ(report.scorers[1].mean, 0.5);
  EXPECT_DOUBLE_EQ(report.scorers[1].deviation, 0.25);
  EXPECT_EQ(report.missing_now[proto::TIMED_OUT], 1);
  EXPECT_EQ(report.missing_now[proto::REFUSED_INPUT], 2);
  EXPECT_EQ(report.missing_now[proto::OVERLOADED], 0);
}

TEST(DescribeGroupsTest, NothingTerminatedIsZeroAsInTrl) {
  std::vector<AcceptedGroup> groups(1);
  *groups[0].request.add_completion() = MakeCompletion(8, proto::LENGTH, {});
  StepReport report;
  DescribeGroups(groups, &report);
  EXPECT_EQ(report.lengths.terminated_mean, 0);
  EXPECT_EQ(report.lengths.terminated_max, 0);
}

StepReport MakeReport() {
  StepReport report;
  report.step = 3;
  report.version = 3;
  DescribeGroups(Groups(), &report);
  report.num_tokens = 1000;
  report.t_mean = 0.5;
  report.boundary_mass = 0.25;
  report.seconds.total = 4;
  report.seconds.generate = 9;
  report.seconds.score = 6;
  report.seconds.train = 2;
  StepMetrics& m = report.metrics;
  m.reward_mean = 0.125;
  m.reward_deviation = 0.5;
  m.loss = -0.25;
  m.grad_norm = 1.5;
  m.learning_rate = 2e-5;
  m.kl = 0.001;
  m.entropy = 2.5;
  m.named = {{"kl", 7.0}, {"entropy", 8.0}, {"clip_ratio/low_mean", 0.0625}};
  m.num_completion_tokens = 12;
  m.length_mean = 6;
  m.length_min = 4;
  m.length_max = 8;
  m.clipped_fraction = 1.0 / 3;
  m.ratio_deviation_max = 1e-6;
  return report;
}

TEST(StepJsonTest, HasTrlsNamesAndOurs) {
  const json line = json::parse(StepJson(MakeReport()));
  const std::vector<std::pair<const char*, double>> expected = {
      {"num_tokens", 1000},
      {"step_time", 4},
      {"completions/mean_length", 6},
      {"completions/min_length", 4},
      {"completions/max_length", 8},
      {"completions/clipped_ratio", 1.0 / 3},
      {"completions/mean_terminated_length", 5},
      {"completions/min_terminated_length", 4},
      {"completions/max_terminated_length", 6},
      {"rewards/safety/mean", 0.5},
      {"rewards/safety/std", 0.25},
      {"rewards/helpfulness/mean", 0.5},
      {"reward", 0.125},
      {"reward_std", 0.5},
      {"frac_reward_zero_std", 0},
      {"loss", -0.25},
      {"grad_norm", 1.5},
      {"learning_rate", 2e-5},
      {"kl", 0.001},
      {"entropy", 2.5},
      {"clip_ratio/low_mean", 0.0625},
      {"t_mean", 0.5},
      {"boundary_mass", 0.25},
      {"unscored/TIMED_OUT", 1},
      {"unscored/REFUSED_INPUT", 2},
      {"unscored/MODEL_ERROR", 0},
      {"ratio_deviation_max", 1e-6},
      {"tokens_per_second", 3},
      {"tokens_per_second/generate", 2},
      {"tokens_per_second/score", 3},
      {"tokens_per_second/train", 6},
  };
  for (const auto& [name, value] : expected) {
    ASSERT_TRUE(line.contains(name)) << name << " is not in " << line.dump(1);
    ASSERT_TRUE(line[name].is_number()) << name;
    EXPECT_DOUBLE_EQ(line[name].get<double>(), value) << name;
  }
}

TEST(StepJsonTest, WhatDoesNotExistIsNull) {
  StepReport report = MakeReport();
  report.t_mean = absl::nullopt;
  report.metrics.loss = std::numeric_limits<double>::quiet_NaN();
  report.metrics.logprob_difference_max = -1;  // No group of the version being trained.
  const json line = json::parse(StepJson(report));
  for (const char* name : {"t_mean", "u_mean", "loss", "logprob_difference_max",
                           "ratio_deviation_max", "sync_seconds"}) {
    ASSERT_TRUE(line.contains(name)) << name;
    EXPECT_TRUE(line[name].is_null()) << name;
  }
}

TEST(StepHistoryTest, ShowsTheCourseOfTheLastSteps) {
  transport::Metrics metrics;
  StepHistory history(&metrics);
  EXPECT_FALSE(history.tokens_per_second().has_value());
  StepReport report = MakeReport();
  for (const double reward : {0.0, 0.5, 1.0}) {
    report.metrics.reward_mean = reward;
    history.Add(report);
  }
  const auto facts = history.Facts();
  ASSERT_FALSE(facts.empty());
  EXPECT_EQ(facts[0].first, "reward");
  EXPECT_EQ(facts[0].second, "1  ▁▅█");
  EXPECT_EQ(history.tokens_per_second(), 3);
}

}  // namespace
}  // namespace wideberth::learner
