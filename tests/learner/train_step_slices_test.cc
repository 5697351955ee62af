// SPDX-License-Identifier: Apache-2.0
// Slices of a step, what their losses are divided by, old and reference policies, entropies.
#include "tests/learner/train_step_fixture.h"

namespace wideberth::learner {
namespace {

TEST_F(TrainStep, AccumulatedSlicesGiveTheGradientOfOne) {
  Load(proto::FLOAT64);
  // Means of a slice do not add up to the mean of the whole; dapo's tokens do.
  learner_.set_loss_type(LearnerConfig::DAPO);
  const auto whole = MakeTrainer(SteppedAdapter());
  ASSERT_TRUE(whole->Step(Groups()).ok());
  for (const int slices : {2, 3, 9}) {
    learner_.set_gradient_accumulation_steps(slices);
    const auto trainer = MakeTrainer(SteppedAdapter());
    const auto metrics = trainer->Step(Groups());
    ASSERT_TRUE(metrics.ok()) << metrics.status();
    EXPECT_EQ(trainer->optimizer().num_steps(), 1);
    EXPECT_EQ(metrics->num_trained, 6);
    EXPECT_LT(LargestDifference(GradientOf(*trainer), GradientOf(*whole)), 1e-12) << slices;
  }
}

TEST_F(TrainStep, Trap06DaposNormaliserIsTheVersionEvenWhereAnUpdateTakesASliceOfIt) {
  Load(proto::FLOAT64);
  learner_.set_beta(0);
  learner_.set_learning_rate(0);  // Both updates at the same point.
  learner_.set_steps_per_generation(2);
  const auto split = MakeTrainer(SteppedAdapter());
  const auto metrics = split->Step(Groups());
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  ASSERT_EQ(metrics->updates.size(), 2u);
  learner_.clear_steps_per_generation();
  const auto whole = MakeTrainer(SteppedAdapter())->Step(Groups());
  EXPECT_NEAR(metrics->updates[0].loss + metrics->updates[1].loss, whole->loss, 1e-12)
      << "each is the smaller for it";
  EXPECT_EQ(metrics->loss, metrics->updates[1].loss);
}

TEST_F(TrainStep, LaterSlicesKeepTheRatioToThePolicyBeforeTheFirstUpdate) {
  Load(proto::FLOAT64);
  learner_.set_steps_per_generation(2);
  const auto trainer = MakeTrainer(SteppedAdapter());
  const auto metrics = trainer->Step(Groups());
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  EXPECT_EQ(trainer->optimizer().num_steps(), 2);
  EXPECT_LT(metrics->clipping.ratio_min, 0.999) << "the second slice's";
  // Without a step in between every ratio is 1.
  learner_.set_learning_rate(0);
  const auto still = MakeTrainer(SteppedAdapter())->Step(Groups());
  EXPECT_NEAR(still->clipping.ratio_min, 1, 1e-12);
  EXPECT_NEAR(still->clipping.ratio_max, 1, 1e-12);
}

TEST_F(TrainStep, Trap08AMaskedCompletionHasNoGradientAndLeavesOnlyDaposNormaliser) {
  Load(proto::FLOAT64);
  learner_.set_mask_truncated_completions(true);
  for (const auto type : {LearnerConfig::DAPO, LearnerConfig::GRPO}) {
    learner_.set_loss_type(type);
    const StepPlan plan = PlanStep(Groups(), learner_);
    EXPECT_EQ(plan.num_tokens, 1 + 4 + 6 + 2);
    EXPECT_EQ(plan.slices[0].num_completions, 6) << "they dilute grpo";
    const auto metrics = MakeTrainer(SteppedAdapter())->Step(Groups());
    ASSERT_TRUE(metrics.ok()) << metrics.status();
    EXPECT_EQ(metrics->num_trained, 4);
    EXPECT_EQ(metrics->num_completion_tokens, plan.num_tokens);
  }
}

TEST_F(TrainStep, Trap11TheReferenceIsTemperedToo) {
  Load(proto::FLOAT64);
  for (const double temperature : {0.8, 1.7}) {
    temperature_ = temperature;
    const auto metrics = MakeTrainer(SteppedAdapter())->Step(Groups());
    ASSERT_TRUE(metrics.ok()) << metrics.status();
    double sum = 0;
    int64_t num_tokens = 0;
    const at::NoGradGuard no_grad;
    const std::shared_ptr<Adapter> adapter = SteppedAdapter();
    for (const TrainGroup& group : Groups()) {
      for (size_t i = 0; i < group.completions.size(); ++i) {
        if (!group.completions[i].reward.has_value()) continue;
        const at::Tensor d =
            SeparateLogProbs(group, i, nullptr) - SeparateLogProbs(group, i, adapter.get());
        sum += (d.exp() - d - 1).sum().item<double>();
        num_tokens += d.numel();
      }
    }
    EXPECT_NEAR(metrics->kl, sum / static_cast<double>(num_tokens), 1e-10);
  }
}

TEST_F(TrainStep, Trap12WithoutBetaThereIsNoReferencePassAndNoKl) {
  Load(proto::FLOAT32);
  const auto names = [&] {
    std::vector<std::string> found;
    const auto metrics = MakeTrainer(SteppedAdapter())->Step(Groups());
    for (const auto& [name, value] : metrics->named) found.push_back(name);
    EXPECT_EQ(metrics->reference_seconds > 0, learner_.beta() != 0);
    return found;
  };
  EXPECT_THAT(names(), ::testing::Contains("kl"));
  learner_.set_beta(0);
  EXPECT_THAT(names(), ::testing::Not(::testing::Contains("kl")));
}

TEST_F(TrainStep, Trap18TheSamplerAsOldPolicyLeavesNothingToCorrect) {
  Load(proto::FLOAT64);
  std::vector<TrainGroup> groups = Groups();
  FillSamplerLogProbs(&groups, FreshAdapter().get());  // Another policy than the one trained.
  learner_.set_old_policy(LearnerConfig::SAMPLER);
  const auto plain = MakeTrainer(SteppedAdapter())->Step(groups);
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_GT(plain->clipping.ratio_max, 1.01) << "current to sampler";
  learner_.set_vllm_importance_sampling_mode(LearnerConfig::SEQUENCE_MASK);
  const auto corrected = MakeTrainer(SteppedAdapter())->Step(groups);
  EXPECT_EQ(corrected->clipping.weight_min, 1);
  EXPECT_EQ(corrected->clipping.weight_max, 1);
  EXPECT_EQ(corrected->loss, plain->loss);
}

// Decoupled PPO: current to proximal is 1 on the first update, proximal to behaviour weighs it.
TEST_F(TrainStep, TheProximalPolicyIsWeighedAgainstTheSampler) {
  Load(proto::FLOAT64);
  std::vector<TrainGroup> groups = Groups();
  FillSamplerLogProbs(&groups, SteppedAdapter().get());
  for (float& logprob : groups[1].completions[1].sampler_logprobs) logprob += 0.5f;
  learner_.set_beta(0);
  learner_.set_vllm_importance_sampling_mode(LearnerConfig::TOKEN_TRUNCATE);
  const auto metrics = MakeTrainer(SteppedAdapter())->Step(groups);
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  EXPECT_EQ(metrics->clipping.ratio_min, 1);
  EXPECT_EQ(metrics->clipping.ratio_max, 1);
  EXPECT_NEAR(metrics->clipping.weight_min, std::exp(-0.5), 1e-5);
  EXPECT_NEAR(metrics->clipping.weight_max, 1, 1e-5);
  EXPECT_NEAR(metrics->clipping.sampler_difference_max, 0.5, 1e-5);
}

TEST_F(TrainStep, TheEntropyBonusHasTheGradientOfTheEntropyOfSeparateSequences) {
  for (const double quantile : {1.0, 0.4}) {
    Load(proto::FLOAT64);
    learner_.set_beta(0);
    std::vector<TrainGroup> groups = Groups();
    for (TrainGroup& group : groups) {
      for (TrainCompletion& completion : group.completions) {
        if (completion.reward.has_value()) completion.reward = 1.0;  // The bonus alone is left.
      }
    }
    learner_.set_entropy_coef(0.3);
    learner_.set_top_entropy_quantile(quantile);
    const auto trainer = MakeTrainer(SteppedAdapter());
    const auto metrics = trainer->Step(groups);
    ASSERT_TRUE(metrics.ok()) << metrics.status();

    const std::shared_ptr<Adapter> adapter = SteppedAdapter();
    for (at::Tensor& tensor : adapter->Parameters()) tensor.set_requires_grad(true);
    std::vector<at::Tensor> entropies;
    for (const TrainGroup& group : groups) {
      for (const TrainCompletion& completion : group.completions) {
        if (!completion.reward.has_value()) continue;
        std::vector<int32_t> all = group.prompt;
        all.insert(all.end(), completion.tokens.begin(), completion.tokens.end());
        model::TokenTree tree;
        tree.Add(all);
        model::ForwardOptions options;
        options.adapter = adapter.get();
        const at::Tensor logprob_TV =
            at::log_softmax(
                at::matmul(model_->Hidden(tree, options), model_->head().t()) / temperature_, -1)
                .narrow(0, static_cast<int64_t>(group.prompt.size()) - 1,
                        static_cast<int64_t>(completion.tokens.size()));
        entropies.push_back(-(logprob_TV.exp() * logprob_TV).sum(-1));
      }
    }
    const at::Tensor entropy = at::cat(entropies);
    const at::Tensor mask = HighEntropyMask(entropy, EntropyThreshold(entropy, quantile));
    const at::Tensor expected = -0.3 * entropy.masked_select(mask).mean();
    expected.backward();
    EXPECT_NEAR(metrics->loss, expected.item<double>(), 1e-10);
    EXPECT_EQ(metrics->clipping.policy_loss, 0);
    std::vector<at::Tensor> gradients;
    for (const at::Tensor& tensor : adapter->Parameters()) gradients.push_back(tensor.grad());
    EXPECT_LT(LargestDifference(GradientOf(*trainer), gradients), 1e-9);
    double scale = 0;
    for (const at::Tensor& g : gradients) scale = std::max(scale, g.abs().max().item<double>());
    EXPECT_GT(scale, 1e-3) << "nothing was compared";
  }
}

TEST_F(TrainStep, TheEntropyMaskIsOneForAllMicroBatchesOfASlice) {
  Load(proto::FLOAT64);
  learner_.set_top_entropy_quantile(0.5);
  const auto together = MakeTrainer(SteppedAdapter());
  ASSERT_TRUE(together->Step(Groups()).ok());
  learner_.set_micro_batch_tokens(1);
  const auto apart = MakeTrainer(SteppedAdapter());
  ASSERT_TRUE(apart->Step(Groups()).ok());
  EXPECT_LT(LargestDifference(GradientOf(*together), GradientOf(*apart)), 1e-12);
}

}  // namespace
}  // namespace wideberth::learner
