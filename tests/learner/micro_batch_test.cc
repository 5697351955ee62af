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
  ASSERT_EQ(plan.slices.size(), 1);
  ASSERT_EQ(plan.slices[0].micro_batches.size(), 1);
  const MicroBatch& batch = plan.slices[0].micro_batches[0];
  std::vector<int32_t> packed;
  for (const auto& node : batch.tree.nodes)
    packed.insert(packed.end(), node.tokens.begin(), node.tokens.end());
  EXPECT_THAT(packed, ElementsAre(10, 11, 20, 21, 12, 40)) << "last tokens predict nothing";
  EXPECT_THAT(batch.targets, ElementsAre(20, 21, 22, 30, 40, 41, 50));
  EXPECT_THAT(batch.rows, ElementsAre(1, 2, 3, 1, 4, 5, 4));
  EXPECT_THAT(batch.lengths, ElementsAre(3, 1, 2, 1));
  EXPECT_EQ(plan.num_tokens, 7);
  EXPECT_EQ(plan.slices[0].num_tokens, 7);
  EXPECT_EQ(plan.slices[0].num_completions, 4);
}

TEST(PlanStep, PacksGroupsUpToTheBudgetAndKeepsTheirOrder) {
  const std::vector<TrainGroup> groups = {Group(1, {1, 2, 3}, {{4, 5}, {6, 7}}),
                                          Group(2, {1, 2}, {{4, 5}, {6, 7}}),
                                          Group(3, {1}, {{4, 5}, {6, 7}})};
  auto sizes = [&](int32_t budget) {
    std::vector<int64_t> tokens;
    proto::LearnerConfig config;
    config.set_micro_batch_tokens(budget);
    const StepPlan plan = PlanStep(groups, config);
    for (const MicroBatch& batch : plan.slices[0].micro_batches)
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
  const Slice& slice = plan.slices[0];
  EXPECT_EQ(slice.num_completions, 2);
  ASSERT_EQ(slice.micro_batches.size(), 1);
  EXPECT_EQ(slice.micro_batches[0].members.size(), 1);
  EXPECT_LT(slice.micro_batches[0].advantages[0], -0.7) << "against the masked one's higher reward";
}

TEST(PlanStep, SlicesHoldEqualNumbersOfScoredCompletionsInTheirOrder) {
  std::vector<TrainGroup> groups = {Group(1, {1, 2}, {{3}, {4, 5}, {6}}),
                                    Group(2, {1}, {{7, 8}, {9}, {10}})};
  groups[0].completions[0].reward.reset();
  proto::LearnerConfig config;
  config.set_gradient_accumulation_steps(2);
  const auto places = [&] {
    std::vector<std::vector<std::pair<size_t, size_t>>> slices;
    const StepPlan plan = PlanStep(groups, config);
    for (const Slice& slice : plan.slices) {
      auto& out = slices.emplace_back();
      for (const MicroBatch& batch : slice.micro_batches) {
        for (const auto& member : batch.members) out.emplace_back(member.group, member.completion);
      }
      EXPECT_EQ(slice.num_completions, static_cast<int64_t>(out.size()));
    }
    return slices;
  };
  using P = std::pair<size_t, size_t>;
  EXPECT_EQ(SlicesOf(config), 2);
  EXPECT_EQ(UpdatesOf(config), 1);
  EXPECT_THAT(places(),
              ElementsAre(ElementsAre(P(0, 1), P(0, 2)), ElementsAre(P(1, 0), P(1, 1), P(1, 2))));
  config.set_steps_per_generation(4);
  config.set_num_iterations(3);
  EXPECT_EQ(UpdatesOf(config), 6);
  EXPECT_THAT(places(), ElementsAre(ElementsAre(P(0, 1)), ElementsAre(P(0, 2)),
                                    ElementsAre(P(1, 0)), ElementsAre(P(1, 1), P(1, 2))));
  EXPECT_EQ(PlanStep(groups, config).num_tokens, 2 + 1 + 2 + 1 + 1) << "of the whole version";
}

TEST(PlanStep, TermsDecideWhereTheyAreNormalisedFirst) {
  std::vector<TrainGroup> groups = {Group(1, {1}, {{3}, {4}}), Group(2, {1}, {{7}, {9}})};
  for (TrainGroup& group : groups) {
    group.completions[0].terms = {0.0, 1.0};
    group.completions[1].terms = {1.0, 0.0};
    group.completions[1].reward = group.completions[0].reward = 1.0;
  }
  groups[1].completions[0].terms = {0.0, 0.5};
  proto::LearnerConfig config;
  EXPECT_EQ(PlanStep(groups, config).advantages.advantage[0], 0) << "equal rewards";
  config.set_multi_objective_aggregation(proto::LearnerConfig::NORMALIZE_THEN_SUM);
  const std::vector<double> a = PlanStep(groups, config, {2.0, 1.0}).advantages.advantage;
  EXPECT_LT(a[0], -0.5) << "the first term has twice the weight";
  EXPECT_GT(a[1], 0.5);
  EXPECT_THAT(std::string(CheckTrainGroups(groups, 320, 16, 3).message()),
              HasSubstr("completion 0 has 2 terms of its reward, expected 3"));
}

TEST(PlanStep, NothingIsLeftOutWhereEntropyMatters) {
  std::vector<TrainGroup> groups = {Group(1, {1, 2}, {{3, 4}, {5}})};
  groups[0].completions[1].reward = groups[0].completions[0].reward;
  proto::LearnerConfig config;
  config.set_beta(0);
  EXPECT_TRUE(PlanStep(groups, config).slices[0].micro_batches.empty());
  config.set_entropy_coef(0.1);
  EXPECT_EQ(PlanStep(groups, config).slices[0].micro_batches.size(), 1);
  config.set_entropy_coef(0);
  config.set_top_entropy_quantile(0.5);
  EXPECT_EQ(PlanStep(groups, config).slices[0].micro_batches.size(), 1)
      << "its entropies are part of the quantile";
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
