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

TEST(GroupAdvantages, TheEpsilonStandsOutsideTheRoot) {
  // Deviation 1e-4 * sqrt(2) / 2 over n - 1: a deviation over n or another epsilon shows.
  const std::vector<double> a =
      GroupAdvantages({0.0, 1e-4}, {0, 0}, LearnerConfig::GROUP).advantage;
  EXPECT_NEAR(a[1], 0.5e-4 / (1e-4 / std::sqrt(2.0) + 1e-4), 1e-12);
}

TEST(GroupAdvantages, MembersNeedNotBeAdjacent) {
  const std::vector<double> a =
      GroupAdvantages({1.0, 10.0, 3.0, 20.0}, {5, 2, 5, 2}, LearnerConfig::NONE).advantage;
  EXPECT_EQ(a, (std::vector<double>{-1, -5, 1, 5}));
}

}  // namespace
}  // namespace wideberth::learner
