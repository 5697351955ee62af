// SPDX-License-Identifier: Apache-2.0
#include "learner/micro_batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace wideberth::learner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TrainGroup Group(uint64_t id, std::vector<int32_t> prompt,
                 const std::vector<std::vector<int32_t>>& completions) {
  TrainGroup group;
  group.group_id = id;
  group.source = "actor-1";
  group.prompt = std::move(prompt);
  for (const std::vector<int32_t>& tokens : completions) {
    TrainCompletion completion;
    completion.tokens = tokens;
    completion.sampler_logprobs.assign(tokens.size(), -1.0f);
    completion.reward = static_cast<double>(group.completions.size());
    group.completions.push_back(completion);
  }
  return group;
}

TEST(PlanStep, EveryTokenIsPredictedFromTheOneBeforeIt) {
  const StepPlan plan =
      PlanStep({Group(1, {10, 11}, {{20, 21, 22}, {30}}), Group(2, {12}, {{40, 41}, {50}})}, {});
  ASSERT_EQ(plan.micro_batches.size(), 1);
  const MicroBatch& batch = plan.micro_batches[0];
  std::vector<int32_t> packed;
  for (const auto& node : batch.tree.nodes)
    packed.insert(packed.end(), node.tokens.begin(), node.tokens.end());
  EXPECT_THAT(packed, ElementsAre(10, 11, 20, 21, 12, 40)) << "last tokens predict nothing";
  EXPECT_THAT(batch.targets, ElementsAre(20, 21, 22, 30, 40, 41, 50));
  EXPECT_THAT(batch.rows, ElementsAre(1, 2, 3, 1, 4, 5, 4));
  EXPECT_THAT(batch.lengths, ElementsAre(3, 1, 2, 1));
  EXPECT_EQ(plan.num_tokens, 7);
  EXPECT_EQ(plan.num_completions, 4);
}

TEST(PlanStep, PacksGroupsUpToTheBudgetAndKeepsTheirOrder) {
  const std::vector<TrainGroup> groups = {Group(1, {1, 2, 3}, {{4, 5}, {6, 7}}),
                                          Group(2, {1, 2}, {{4, 5}, {6, 7}}),
                                          Group(3, {1}, {{4, 5}, {6, 7}})};
  auto sizes = [&](int64_t budget) {
    std::vector<int64_t> tokens;
    for (const MicroBatch& batch : PlanStep(groups, {}, budget).micro_batches)
      tokens.push_back(batch.tree.num_tokens);
    return tokens;
  };
  EXPECT_THAT(sizes(12), ElementsAre(12));
  EXPECT_THAT(sizes(9), ElementsAre(9, 3));
  EXPECT_THAT(sizes(8), ElementsAre(5, 7));
  EXPECT_THAT(sizes(1), ElementsAre(5, 4, 3)) << "a group is never split";
}

TEST(PlanStep, MaskedCompletionsStayInTheAdvantagesAndInGrposCount) {
  std::vector<TrainGroup> groups = {Group(1, {1, 2}, {{3, 4}, {5, 6, 7}, {8}})};
  groups[0].completions[1].finish = proto::LENGTH;
  groups[0].completions[2].reward.reset();
  proto::LearnerConfig config;
  config.set_mask_truncated_completions(true);
  const StepPlan plan = PlanStep(groups, config);
  EXPECT_EQ(plan.num_tokens, 2);
  EXPECT_EQ(plan.num_completions, 2);
  ASSERT_EQ(plan.micro_batches.size(), 1);
  EXPECT_EQ(plan.micro_batches[0].members.size(), 1);
  EXPECT_LT(plan.micro_batches[0].advantages[0], -0.7) << "against the masked one's higher reward";
}

TEST(CheckTrainGroups, NamesGroupActorAndWhatIsWrong) {
  const TrainGroup good = Group(7, {1, 2}, {{3, 4}, {5}});
  auto message = [](const std::vector<TrainGroup>& groups) {
    return std::string(CheckTrainGroups(groups, 320, 16).message());
  };
  EXPECT_EQ(message({good}), "");
  EXPECT_THAT(message({good, good}), HasSubstr("group 7 of actor-1: is there twice"));
  TrainGroup bad = good;
  bad.prompt.clear();
  EXPECT_THAT(message({bad}), HasSubstr("the prompt has no tokens"));
  bad = good;
  bad.completions[1].tokens[0] = 320;
  EXPECT_THAT(message({bad}), HasSubstr("completion 1 has token 320, expected ids below 320"));
  bad = good;
  bad.completions[0].sampler_logprobs.pop_back();
  EXPECT_THAT(message({bad}), HasSubstr("completion 0 has 1 log-probs, expected 2"));
  bad = good;
  bad.completions[0].sampler_logprobs[1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(message({bad}), HasSubstr("log-prob nan"));
  bad = good;
  bad.completions[0].reward = std::numeric_limits<double>::infinity();
  EXPECT_THAT(message({bad}), HasSubstr("reward inf"));
  bad = good;
  bad.prompt.assign(15, 1);
  EXPECT_THAT(message({bad}), HasSubstr("17 tokens, expected at most 16"));
  bad = good;
  for (TrainCompletion& completion : bad.completions) completion.reward.reset();
  EXPECT_THAT(message({bad}), HasSubstr("has a reward"));
  EXPECT_THAT(message({}), HasSubstr("has a reward"));
}

}  // namespace
}  // namespace wideberth::learner
