// SPDX-License-Identifier: Apache-2.0
// The training step against sequences computed one by one.
#include "tests/learner/train_step_fixture.h"

namespace wideberth::learner {
namespace {

TEST_F(TrainStep, GradientsEqualThoseOfSeparateSequences) {
  for (const char* kind : {"llama", "qwen2"}) {
    for (const auto type : {LearnerConfig::DAPO, LearnerConfig::GRPO}) {
      for (const bool masked : {false, true}) {
        SCOPED_TRACE(
            absl::StrCat(kind, " ", LearnerConfig::LossType_Name(type), masked ? " masked" : ""));
        Load(proto::FLOAT64, kind);
        learner_.set_loss_type(type);
        learner_.set_mask_truncated_completions(masked);
        const auto trainer = MakeTrainer(SteppedAdapter());
        const auto metrics = trainer->Step(Groups());
        ASSERT_TRUE(metrics.ok()) << metrics.status();
        EXPECT_GT(metrics->kl, 0.01);
        ExpectSeparateGradient(Groups(), *trainer, SteppedAdapter().get(), nullptr, metrics->loss,
                               1e-9);
      }
    }
  }
}

TEST_F(TrainStep, GroupsThatDoNotFitOneForwardPassGiveTheSameGradient) {
  Load(proto::FLOAT64);
  std::vector<TrainGroup> groups = Groups();
  for (TrainGroup& group : groups) group.prompt = Tokens(absl::StrCat("long", group.group_id), 300);
  ASSERT_EQ(PlanStep(groups, learner_).slices[0].micro_batches.size(), 2);
  ASSERT_EQ(PlanStep(Groups(), learner_).slices[0].micro_batches.size(), 1);
  const auto trainer = MakeTrainer(SteppedAdapter());
  const auto metrics = trainer->Step(groups);
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  ExpectSeparateGradient(groups, *trainer, SteppedAdapter().get(), nullptr, metrics->loss, 1e-9);
}

TEST_F(TrainStep, ASecondIterationUsesTheFirstOnesLogProbs) {
  Load(proto::FLOAT64);
  const auto once = MakeTrainer(SteppedAdapter());
  ASSERT_TRUE(once->Step(Groups()).ok());
  learner_.set_num_iterations(2);
  const auto twice = MakeTrainer(SteppedAdapter());
  const auto metrics = twice->Step(Groups());
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  EXPECT_EQ(twice->optimizer().num_steps(), 2);
  EXPECT_LT(metrics->clipping.ratio_min, 0.99);
  EXPECT_GT(metrics->clipping.ratio_max, 1.01);
  EXPECT_GT(metrics->clipping.clipped_high + metrics->clipping.clipped_low, 0);
  std::shared_ptr<Adapter> after_one = SteppedAdapter();
  {
    const at::NoGradGuard no_grad;
    const std::vector<at::Tensor> stepped = once->adapter().master().Parameters();
    for (size_t i = 0; i < stepped.size(); ++i) after_one->Parameters()[i].copy_(stepped[i]);
  }
  ExpectSeparateGradient(Groups(), *twice, after_one.get(), SteppedAdapter().get(), metrics->loss,
                         1e-9);
}

TEST_F(TrainStep, KlIsExactlyZeroOnTheFirstStep) {
  for (const auto dtype : {proto::FLOAT32, proto::BFLOAT16, proto::FLOAT64}) {
    Load(dtype);
    const auto trainer = MakeTrainer(FreshAdapter());
    const auto first = trainer->Step(Groups());
    ASSERT_TRUE(first.ok()) << first.status();
    EXPECT_EQ(first->kl, 0) << proto::DType_Name(dtype);
    EXPECT_EQ(first->clipping.ratio_min, 1);
    EXPECT_EQ(first->clipping.ratio_max, 1);
    const auto second = trainer->Step(Groups());
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_GT(second->kl, 0) << proto::DType_Name(dtype);
  }
}

TEST_F(TrainStep, TheSamplersLogProbsAgreeAndTheWorstTokenIsNamed) {
  Load(proto::FLOAT32);
  std::vector<TrainGroup> groups = Groups();
  FillSamplerLogProbs(&groups, SteppedAdapter().get());
  learner_.set_max_logprob_difference(1e-4);
  const auto metrics = MakeTrainer(SteppedAdapter())->Step(groups);
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  EXPECT_LT(metrics->logprob_difference_max, 1e-4);
  EXPECT_NEAR(metrics->importance_ratio_mean, 1, 1e-4);

  groups[1].completions[1].sampler_logprobs[3] += 0.5f;
  const auto trainer = MakeTrainer(SteppedAdapter());
  const absl::Status refused = trainer->Step(groups).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("group 41 completion 1 token 3 of actor-0"));
  EXPECT_EQ(trainer->optimizer().num_steps(), 0);
  EXPECT_EQ(LargestDifference(Snapshot(trainer->adapter().master()), Snapshot(*SteppedAdapter())),
            0);

  // A group of an older version may differ; nothing is left of the refused step's gradient.
  groups[1].on_policy = false;
  const auto stale = trainer->Step(groups);
  ASSERT_TRUE(stale.ok()) << stale.status();
  const auto fresh = MakeTrainer(SteppedAdapter());
  ASSERT_TRUE(fresh->Step(groups).ok());
  EXPECT_EQ(
      LargestDifference(Snapshot(trainer->adapter().master()), Snapshot(fresh->adapter().master())),
      0);
  EXPECT_NEAR(stale->importance_ratio_min, std::exp(-0.5), 1e-3);
}

TEST_F(TrainStep, AnUnscoredCompletionHasNoInfluence) {
  Load(proto::FLOAT64);
  const auto with = MakeTrainer(SteppedAdapter());
  const auto metrics = with->Step(Groups());
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  EXPECT_EQ(metrics->num_unscored, 1);
  EXPECT_EQ(metrics->num_completions, 7);
  EXPECT_EQ(metrics->num_trained, 6);
  EXPECT_EQ(metrics->num_completion_tokens, 5 + 1 + 4 + 3 + 6 + 2);
  std::vector<TrainGroup> groups = Groups();
  groups[0].completions.erase(groups[0].completions.begin() + 2);
  const auto without = MakeTrainer(SteppedAdapter());
  ASSERT_TRUE(without->Step(groups).ok());
  EXPECT_EQ(
      LargestDifference(Snapshot(with->adapter().master()), Snapshot(without->adapter().master())),
      0);
}

TEST_F(TrainStep, GroupsWithoutSignalAreSkippedOnlyWhenKlIsOff) {
  Load(proto::FLOAT32);
  std::vector<TrainGroup> groups = Groups();
  for (TrainCompletion& completion : groups[0].completions) completion.reward = 0.5;
  auto with_kl = MakeTrainer(SteppedAdapter())->Step(groups);
  ASSERT_TRUE(with_kl.ok());
  EXPECT_EQ(with_kl->num_trained, 7);
  EXPECT_EQ(with_kl->fraction_zero_deviation, 4.0 / 7);
  learner_.set_beta(0);
  auto without_kl = MakeTrainer(SteppedAdapter())->Step(groups);
  ASSERT_TRUE(without_kl.ok());
  EXPECT_EQ(without_kl->num_trained, 3);
  EXPECT_EQ(without_kl->reference_seconds, 0);
  // Nothing left to learn from: no gradient, no error.
  for (TrainCompletion& completion : groups[1].completions) completion.reward = 0.5;
  const auto trainer = MakeTrainer(SteppedAdapter());
  const auto nothing = trainer->Step(groups);
  ASSERT_TRUE(nothing.ok()) << nothing.status();
  EXPECT_EQ(nothing->grad_norm, 0);
  EXPECT_EQ(LargestDifference(Snapshot(trainer->adapter().master()), Snapshot(*SteppedAdapter())),
            0);
}

TEST_F(TrainStep, ABf16BaseSumsGradientsInFloat32AndStartsEachStepAnew) {
  Load(proto::BFLOAT16);
  learner_.set_learning_rate(0);
  std::vector<TrainGroup> groups = Groups();
  for (TrainGroup& group : groups) group.prompt = Tokens(absl::StrCat("long", group.group_id), 300);
  const auto trainer = MakeTrainer(SteppedAdapter());
  ASSERT_TRUE(trainer->Step(groups).ok());
  const at::Tensor first = trainer->optimizer().NamedState()[0].second.clone();
  EXPECT_EQ(first.scalar_type(), at::kFloat);
  EXPECT_FALSE(first.equal(first.to(at::kBFloat16).to(at::kFloat))) << "a sum of two passes";
  ASSERT_TRUE(trainer->Step(groups).ok());
  EXPECT_TRUE(trainer->optimizer().NamedState()[0].second.equal(first));
}

TEST_F(TrainStep, ALossThatIsNotFiniteSkipsTheUpdateAndSaysWhere) {
  Load(proto::FLOAT64);
  const std::shared_ptr<Adapter> adapter = SteppedAdapter();
  const auto trainer = MakeTrainer(adapter);
  const at::Tensor weight = adapter->Parameters()[0].detach();
  const at::Tensor before = weight.clone();
  weight[0][0] = std::numeric_limits<double>::quiet_NaN();
  const std::vector<at::Tensor> snapshot = Snapshot(*adapter);
  const auto metrics = trainer->Step(Groups());
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  EXPECT_TRUE(metrics->skipped);
  EXPECT_EQ(metrics->skipped_why,
            "optimiser step 1 was skipped: the loss is nan on groups 40 to 41, expected a finite "
            "number");
  EXPECT_EQ(trainer->optimizer().num_steps(), 0);
  for (size_t i = 1; i < snapshot.size(); ++i) {
    EXPECT_TRUE(adapter->Parameters()[i].equal(snapshot[i]));
  }
  // The next step is as if there had been none.
  weight.copy_(before);
  const auto next = trainer->Step(Groups());
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_FALSE(next->skipped);
  EXPECT_EQ(trainer->optimizer().num_steps(), 1);
  const auto fresh = MakeTrainer(SteppedAdapter());
  ASSERT_TRUE(fresh->Step(Groups()).ok());
  EXPECT_EQ(LargestDifference(Snapshot(*adapter), Snapshot(fresh->adapter().master())), 0);
}

TEST_F(TrainStep, TheLearningRateFollowsTheOptimisersSteps) {
  Load(proto::FLOAT32);
  learner_.set_max_steps(2);
  learner_.set_num_iterations(2);
  learner_.set_lr_scheduler_type(LearnerConfig::LINEAR);
  const auto trainer = MakeTrainer(SteppedAdapter());
  std::vector<double> rates;
  for (int step = 0; step < 2; ++step) {
    const auto metrics = trainer->Step(Groups());
    ASSERT_TRUE(metrics.ok()) << metrics.status();
    for (const UpdateMetrics& update : metrics->updates) rates.push_back(update.learning_rate);
  }
  const double peak = learner_.learning_rate();
  ASSERT_EQ(rates.size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(rates[i], peak * (4 - i) / 4, 1e-15);
}

TEST_F(TrainStep, EveryCompletionsRewardAndAdvantageAreReported) {
  Load(proto::FLOAT32);
  std::vector<TrainGroup> groups = Groups();
  for (TrainGroup& group : groups) {
    for (size_t i = 0; i < group.completions.size(); ++i) {
      group.completions[i].index = static_cast<int64_t>(i) + 5;
    }
  }
  const auto metrics = MakeTrainer(SteppedAdapter())->Step(groups);
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  ASSERT_EQ(metrics->completions.size(), 7u);
  EXPECT_EQ(metrics->completions[2].group_id, 40u);
  EXPECT_EQ(metrics->completions[2].completion, 7);
  EXPECT_FALSE(metrics->completions[2].reward.has_value());
  EXPECT_EQ(metrics->completions[2].advantage, 0);
  EXPECT_EQ(metrics->completions[5].group_id, 41u);
  EXPECT_EQ(metrics->completions[5].reward, 2.0);
  EXPECT_GT(metrics->completions[5].advantage, 0.5);
}

TEST_F(TrainStep, DrGrpoDividesByTheLongestACompletionMayBe) {
  Load(proto::FLOAT64);
  learner_.set_loss_type(LearnerConfig::DR_GRPO);
  const auto loss = [&](int64_t longest) {
    auto trainer =
        Trainer::Create(model_.get(), SteppedAdapter(), {learner_, temperature_, longest, {}});
    const auto metrics = (*trainer)->Step(Groups());
    return metrics.ok() ? metrics->loss : 0.0;
  };
  EXPECT_NE(loss(16), 0);
  EXPECT_NEAR(loss(16), 2 * loss(32), 1e-12);
}

TEST_F(TrainStep, RefusesAnAdapterOfAnotherType) {
  Load(proto::FLOAT64);
  master_type_ = at::kFloat;
  const auto trainer = Trainer::Create(model_.get(), SteppedAdapter(), {learner_, temperature_});
  EXPECT_EQ(trainer.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(trainer.status().message()), HasSubstr("expected Double"));
}

TEST_F(TrainStep, LayersComputedAgainGiveTheSameAdapterBitForBit) {
  for (const auto dtype : {proto::FLOAT64, proto::FLOAT32}) {
    Load(dtype);
    const std::vector<TrainGroup> groups = Groups();
    std::vector<std::string> adapters;
    for (const bool again : {false, true}) {
      learner_.set_activation_checkpointing(again);
      const auto trainer = MakeTrainer(SteppedAdapter());
      const auto metrics = trainer->Step(groups);
      ASSERT_TRUE(metrics.ok()) << metrics.status();
      EXPECT_GT(metrics->grad_norm, 0);
      proto::AdapterManifest manifest;
      adapters.push_back(trainer->adapter().master().Pack(at::kDouble, &manifest));
    }
    EXPECT_TRUE(adapters[0] == adapters[1]);
  }
}

TEST_F(TrainStep, ThePreferredTokenBecomesMoreLikely) {
  for (const auto dtype : {proto::FLOAT32, proto::BFLOAT16}) {
    Load(dtype);
    learner_.set_learning_rate(2e-3);
    learner_.set_beta(0.001);
    learner_.set_adam_beta1(0.9);
    learner_.set_max_grad_norm(1);
    TrainGroup group;
    group.prompt = Tokens("preference", 6);
    for (int i = 0; i < 8; ++i) {
      TrainCompletion completion;
      completion.tokens = {i < 2 ? 7 : 20 + i};
      completion.sampler_logprobs = {-5.0f};
      completion.reward = i < 2 ? 1.0 : 0.0;
      group.completions.push_back(completion);
    }
    const auto trainer = MakeTrainer(FreshAdapter());
    const at::NoGradGuard no_grad;
    const double before = SeparateLogProbs(group, 0, nullptr).to(at::kDouble).item<double>();
    for (int step = 0; step < 30; ++step) {
      const at::AutoGradMode grad(true);
      const auto metrics = trainer->Step({group});
      ASSERT_TRUE(metrics.ok()) << metrics.status();
      EXPECT_EQ(metrics->reward_mean, 0.25) << "the completions are given";
    }
    // In the model's dtype, as the trainer's own passes.
    proto::AdapterManifest manifest;
    const std::string bytes = trainer->adapter().master().Pack(at::kFloat, &manifest);
    const auto final_adapter =
        *Adapter::Unpack(manifest, bytes, model_->spec(), model_->dtype(), at::kCPU);
    const double after =
        SeparateLogProbs(group, 0, final_adapter.get()).to(at::kDouble).item<double>();
    EXPECT_GT(after, std::max(before + 2.0, std::log(0.5))) << proto::DType_Name(dtype);
  }
}

}  // namespace
}  // namespace wideberth::learner
