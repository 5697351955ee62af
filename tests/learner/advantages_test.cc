// SPDX-License-Identifier: Apache-2.0
#include "learner/advantages.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "tests/testing/paths.h"

namespace wideberth::learner {
namespace {

using proto::LearnerConfig;
using Rewards = std::vector<absl::optional<double>>;

TEST(GroupAdvantages, EqualTheReferenceForEveryScale) {
  std::ifstream file(testing::GoldenPath("grpo.json"));
  ASSERT_TRUE(file) << "tests/golden/grpo.json";
  const nlohmann::json golden = nlohmann::json::parse(file);
  Rewards rewards;
  for (double total : golden["total"]) rewards.emplace_back(total);
  const std::pair<const char*, LearnerConfig::ScaleRewards> scales[] = {
      {"group", LearnerConfig::GROUP},
      {"batch", LearnerConfig::BATCH},
      {"none", LearnerConfig::NONE}};
  for (const auto& [name, scale] : scales) {
    const std::vector<double> expected = golden["advantages"][name];
    const std::vector<double> actual = GroupAdvantages(rewards, {0, 0, 1, 1}, scale).advantage;
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-14) << name;
  }
}

const std::vector<ScoreRow>& GoldenScores(std::vector<double>* weights) {
  static const nlohmann::json golden = [] {
    std::ifstream file(testing::GoldenPath("grpo.json"));
    return nlohmann::json::parse(file);
  }();
  static const std::vector<ScoreRow> rows = [] {
    std::vector<ScoreRow> scores;
    for (const auto& row : golden["rewards"]) {
      ScoreRow& out = scores.emplace_back();
      for (const auto& value : row) {
        out.push_back(value.is_null() ? absl::optional<double>() : value.get<double>());
      }
    }
    return scores;
  }();
  *weights = golden["weights"].get<std::vector<double>>();
  return rows;
}

TEST(NormalizedSumAdvantages, EqualTheReference) {
  std::vector<double> weights;
  const std::vector<ScoreRow>& scores = GoldenScores(&weights);
  const Advantages result = NormalizedSumAdvantages(scores, weights, {0, 0, 1, 1});
  const double expected[] = {1.2243207199762818, -1.224320719976282, 0, 0};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(result.advantage[i], expected[i], 1e-14);
  EXPECT_NEAR(result.reward_mean, (1.1 + 0.45 + 1.0 + 1.25) / 4, 1e-15) << "of the plain sums";
}

TEST(WeightedSum, LeavesOutWhatIsMissingAndIsEmptyWithoutAny) {
  std::vector<double> weights;
  const std::vector<ScoreRow>& scores = GoldenScores(&weights);
  const double expected[] = {1.1, 0.45, 1.0, 1.25};
  for (int i = 0; i < 4; ++i) EXPECT_EQ(WeightedSum(scores[i], weights), expected[i]);
  EXPECT_FALSE(WeightedSum({{}, {}}, weights).has_value());
}

TEST(GroupAdvantages, SumToZeroInEveryGroup) {
  const Rewards rewards = {0.3, -1.0, 5.0, 2.0, 2.5, 7.0};
  for (auto scale : {LearnerConfig::GROUP, LearnerConfig::BATCH, LearnerConfig::NONE}) {
    const std::vector<double> a = GroupAdvantages(rewards, {4, 4, 4, 9, 9, 9}, scale).advantage;
    EXPECT_NEAR(a[0] + a[1] + a[2], 0, 1e-12);
    EXPECT_NEAR(a[3] + a[4] + a[5], 0, 1e-12);
  }
}

TEST(GroupAdvantages, UnscoredCompletionsCountNowhere) {
  const Advantages with =
      GroupAdvantages({1.0, {}, 3.0, 9.0, 5.0}, {0, 0, 0, 1, 1}, LearnerConfig::BATCH);
  const Advantages without =
      GroupAdvantages({1.0, 3.0, 9.0, 5.0}, {0, 0, 1, 1}, LearnerConfig::BATCH);
  EXPECT_EQ(with.advantage[1], 0);
  EXPECT_EQ(with.advantage[0], without.advantage[0]);
  EXPECT_EQ(with.advantage[2], without.advantage[1]);
  EXPECT_EQ(with.reward_mean, 4.5);
  EXPECT_EQ(with.reward_deviation, without.reward_deviation);
}

TEST(GroupAdvantages, ASingleScoredMemberGetsZero) {
  for (auto scale : {LearnerConfig::GROUP, LearnerConfig::BATCH, LearnerConfig::NONE}) {
    const Advantages result = GroupAdvantages({7.0, {}, 1.0, 2.0}, {0, 0, 1, 1}, scale);
    EXPECT_EQ(result.advantage[0], 0);
    EXPECT_NE(result.advantage[2], 0);
  }
  EXPECT_EQ(GroupAdvantages({{}, {}}, {0, 0}, LearnerConfig::GROUP).advantage,
            std::vector<double>(2, 0));
}

TEST(GroupAdvantages, EqualRewardsGiveZeroAndAreCounted) {
  const Advantages result =
      GroupAdvantages({0.1, 0.1, 0.1, 1.0, 2.0, 3.0}, {0, 0, 0, 1, 1, 1}, LearnerConfig::GROUP);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(result.advantage[i], 0);
  EXPECT_EQ(result.fraction_zero_deviation, 0.5);
}

TEST(Trap02, TheDeviationIsOverNMinusOneAndTheEpsilonOutsideTheRoot) {
  // Deviation 1e-4 * sqrt(2) / 2 over n - 1: a deviation over n or another epsilon shows.
  const std::vector<double> a =
      GroupAdvantages({0.0, 1e-4}, {0, 0}, LearnerConfig::GROUP).advantage;
  EXPECT_NEAR(a[1], 0.5e-4 / (1e-4 / std::sqrt(2.0) + 1e-4), 1e-12);
}

TEST(Trap03, ScalingByTheBatchKeepsTheGroupsMean) {
  const Rewards rewards = {0.0, 1.0, 10.0, 11.0};
  const std::vector<double> a =
      GroupAdvantages(rewards, {0, 0, 1, 1}, LearnerConfig::BATCH).advantage;
  const double deviation = std::sqrt((5.5 * 5.5 + 4.5 * 4.5) * 2 / 3) + 1e-4;
  EXPECT_NEAR(a[0], -0.5 / deviation, 1e-12);
  EXPECT_NEAR(a[2], -0.5 / deviation, 1e-12) << "not above the batch's mean";
}

TEST(Trap14, NoScoreAndASingleScoreGiveZeroAndMoveNobody) {
  for (auto scale : {LearnerConfig::GROUP, LearnerConfig::BATCH, LearnerConfig::NONE}) {
    const Advantages with = GroupAdvantages({1.0, {}, 3.0, 7.0, {}, {}}, {0, 0, 0, 1, 1, 1}, scale);
    EXPECT_EQ(with.advantage[1], 0);
    EXPECT_EQ(with.advantage[3], 0) << "the only one of its group";
    EXPECT_EQ(with.advantage[0], -with.advantage[2]);
    EXPECT_GT(with.advantage[2], 0.3);
  }
  // GDPO: a missing column counts nowhere, a missing row is in no mean.
  const std::vector<double> weights = {1, 1};
  const std::vector<ScoreRow> scores = {{1.0, {}}, {3.0, 2.0}, {{}, {}}, {5.0, 5.0}};
  const std::vector<double> a = NormalizedSumAdvantages(scores, weights, {0, 0, 0, 1}).advantage;
  EXPECT_NEAR(a[0], -a[1], 1e-12);
  EXPECT_LT(a[0], -0.5);
  EXPECT_EQ(a[2], 0);
  EXPECT_EQ(a[3], 0) << "the only one of its group";
}

TEST(Trap15, EqualRewardsGiveExactlyZeroAndAreCounted) {
  const Rewards rewards = {0.1, 0.1, 0.1, 1.0, 2.0, 3.0};
  const std::vector<uint64_t> ids = {0, 0, 0, 1, 1, 1};
  for (auto scale : {LearnerConfig::GROUP, LearnerConfig::BATCH, LearnerConfig::NONE}) {
    const Advantages result = GroupAdvantages(rewards, ids, scale);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(result.advantage[i], 0);
    EXPECT_EQ(result.fraction_zero_deviation, scale == LearnerConfig::BATCH ? 0 : 0.5);
  }
  const Advantages flat = GroupAdvantages({0.1, 0.1}, {0, 0}, LearnerConfig::BATCH);
  EXPECT_EQ(flat.fraction_zero_deviation, 1);
}

TEST(Trap16, GdpoNormalisesLastOverTheBatch) {
  // One column: groups of deviation one after the first step, then the batch's deviation over six.
  const std::vector<ScoreRow> scores = {{0.0}, {1.0}, {2.0}, {0.0}, {100.0}, {200.0}};
  const std::vector<double> a =
      NormalizedSumAdvantages(scores, {2.0}, {0, 0, 0, 1, 1, 1}).advantage;
  const double small = 2 / (1 + 1e-4), large = 2 * 100 / (100 + 1e-4);
  const double deviation = std::sqrt(2 * (small * small + large * large) / 5);
  EXPECT_NEAR(a[2], small / (deviation + 1e-4), 1e-12);
  EXPECT_NEAR(a[5], large / (deviation + 1e-4), 1e-12);
}

TEST(Trap20, AGroupOfOneHasAdvantageZero) {
  for (auto scale : {LearnerConfig::GROUP, LearnerConfig::BATCH, LearnerConfig::NONE}) {
    EXPECT_EQ(GroupAdvantages({5.0}, {0}, scale).advantage, std::vector<double>{0});
  }
}

TEST(GroupAdvantages, MembersNeedNotBeAdjacent) {
  const std::vector<double> a =
      GroupAdvantages({1.0, 10.0, 3.0, 20.0}, {5, 2, 5, 2}, LearnerConfig::NONE).advantage;
  EXPECT_EQ(a, (std::vector<double>{-1, -5, 1, 5}));
}

}  // namespace
}  // namespace wideberth::learner
