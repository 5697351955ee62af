// SPDX-License-Identifier: Apache-2.0
#include "learner/rank_share.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "learner/learner_rank.h"

namespace wideberth::learner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ShareOutTest, LargestFirstOntoTheRankWithTheFewestTokens) {
  std::vector<int64_t> load(2, 0);
  EXPECT_THAT(ShareOut({10, 40, 20, 30}, &load), ElementsAre(0, 0, 1, 1));
  EXPECT_THAT(load, ElementsAre(50, 50));
  // The load of earlier slices counts; among equals the lowest rank.
  EXPECT_THAT(ShareOut({5}, &load), ElementsAre(0));
  EXPECT_THAT(ShareOut({5}, &load), ElementsAre(1));
  EXPECT_THAT(ShareOut({}, &load), ElementsAre());
}

TEST(ShareOutTest, NoRankHasMoreThanTheMeanAndOneGroup) {
  std::mt19937 random(3);
  for (int round = 0; round < 50; ++round) {
    std::vector<int64_t> load(1 + round % 5, 0), tokens;
    for (int i = 0; i < 20; ++i) tokens.push_back(1 + static_cast<int64_t>(random() % 1000));
    ShareOut(tokens, &load);
    int64_t total = 0, largest = 0;
    for (const int64_t one : load) total += one;
    for (const int64_t one : tokens) largest = std::max(largest, one);
    for (const int64_t one : load)
      EXPECT_LE(one, total / static_cast<int64_t>(load.size()) + largest);
  }
}

TEST(RankStepTest, ComesBackAsItWas) {
  TrainGroup group;
  group.group_id = 7;
  group.source = "actor-1";
  group.on_policy = false;
  group.prompt = {1, 2};
  TrainCompletion scored;
  scored.index = 3;
  scored.tokens = {4, 5};
  scored.sampler_logprobs = {-0.5f, -1.25f};
  scored.finish = proto::LENGTH;
  scored.reward = 0.1;
  scored.terms = {0.25, absl::nullopt};
  TrainCompletion unscored = scored;
  unscored.reward = absl::nullopt;
  group.completions = {scored, unscored};
  const std::vector<TrainGroup> back = FromRankStep(ToRankStep({group}));
  ASSERT_EQ(back.size(), 1u);
  EXPECT_EQ(back[0].group_id, 7u);
  EXPECT_EQ(back[0].source, "actor-1");
  EXPECT_FALSE(back[0].on_policy);
  EXPECT_EQ(back[0].prompt, group.prompt);
  ASSERT_EQ(back[0].completions.size(), 2u);
  const TrainCompletion& first = back[0].completions[0];
  EXPECT_EQ(first.index, 3);
  EXPECT_EQ(first.tokens, scored.tokens);
  EXPECT_EQ(first.sampler_logprobs, scored.sampler_logprobs);
  EXPECT_EQ(first.finish, proto::LENGTH);
  EXPECT_EQ(first.reward, 0.1);
  EXPECT_EQ(first.terms, scored.terms);
  EXPECT_FALSE(back[0].completions[1].reward.has_value());
}

TEST(CheckSameConfigTest, NamesTheFirstDifferenceAndPassesOverWhatIsARanksOwn) {
  proto::RunConfig zero, mine;
  zero.mutable_learner()->set_beta(0.04);
  mine.mutable_learner()->set_beta(0.04);
  mine.mutable_learner()->set_address("10.0.0.1:1");
  mine.mutable_policy()->mutable_model()->set_device("cuda:1");
  mine.mutable_actor()->set_replicas(9);
  EXPECT_TRUE(CheckSameConfig(mine, zero).ok()) << CheckSameConfig(mine, zero);
  mine.mutable_learner()->set_beta(0.5);
  EXPECT_THAT(std::string(CheckSameConfig(mine, zero).message()),
              HasSubstr("modified: learner.beta: 0.04 -> 0.5;"));
}

}  // namespace
}  // namespace wideberth::learner
