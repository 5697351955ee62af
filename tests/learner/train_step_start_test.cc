// SPDX-License-Identifier: Apache-2.0
// Training from an adapter that is then the reference, and with dropout.
#include "tests/learner/train_step_fixture.h"

namespace wideberth::learner {
namespace {

TEST_F(TrainStep, TheReferenceIsTheAdapterThatTrainingStartedFrom) {
  Load(proto::FLOAT64);
  learner_.set_beta(0.04);
  Trainer::Options options{learner_, temperature_};
  const auto kl = [&] {
    const auto trainer = Trainer::Create(model_.get(), SteppedAdapter(), options);
    const auto metrics = (*trainer)->Step(Groups());
    EXPECT_TRUE(metrics.ok()) << metrics.status();
    return metrics->kl;
  };
  EXPECT_GT(kl(), 1e-6);
  options.reference = SteppedAdapter();
  EXPECT_EQ(kl(), 0);
}

class DroppedStep : public TrainStep {
 protected:
  void SetUp() override {
    Load(proto::FLOAT64);
    learner_.set_beta(0);
  }
  struct Outcome {
    StepMetrics metrics;
    at::Tensor gradient;  // Flat.
  };
  // The first step of a run with these masks.
  Outcome Step(double dropout, uint64_t seed) const {
    proto::LoraConfig config = FreshAdapter()->config();
    config.set_dropout(dropout);
    auto adapter = *Adapter::Initialize(model_->spec(), config, 17, master_type_, at::kCPU);
    Trainer::Options options{learner_, temperature_};
    options.dropout_seed = seed;
    const auto trainer = Trainer::Create(model_.get(), adapter, options);
    const auto metrics = (*trainer)->Step(Groups());
    EXPECT_TRUE(metrics.ok()) << metrics.status();
    std::vector<at::Tensor> gradients;
    for (const at::Tensor& gradient : GradientOf(**trainer))
      gradients.push_back(gradient.reshape({-1}));
    return {*metrics, at::cat(gradients)};
  }
};

TEST_F(DroppedStep, MasksFollowFromTheSeedAndTheSamplerIsComparedWithoutThem) {
  const Outcome whole = Step(0, 1), dropped = Step(0.3, 1);
  EXPECT_TRUE(at::equal(dropped.gradient, Step(0.3, 1).gradient));
  EXPECT_FALSE(at::equal(dropped.gradient, Step(0.3, 2).gradient));
  EXPECT_FALSE(at::equal(dropped.gradient, whole.gradient));
  // As in TRL, the first update's ratios are 1.
  EXPECT_NEAR(dropped.metrics.loss, whole.metrics.loss, 1e-12);
  EXPECT_EQ(dropped.metrics.logprob_difference_max, whole.metrics.logprob_difference_max);
  EXPECT_EQ(dropped.metrics.importance_ratio_mean, whole.metrics.importance_ratio_mean);
}

TEST_F(DroppedStep, TheGradientIsTheWholeOneOnAverage) {
  // At B = 0 masks do not change the outputs, so the gradient of B is linear in them.
  const at::Tensor whole = Step(0, 0).gradient;
  const double norm = whole.norm().item<double>();
  constexpr int kSeeds = 200;
  at::Tensor sum = at::zeros_like(whole);
  double alone = 0;
  for (int seed = 0; seed < kSeeds; ++seed) {
    const at::Tensor gradient = Step(0.3, seed).gradient;
    sum += gradient;
    alone += (gradient - whole).norm().item<double>() / norm / kSeeds;
  }
  EXPECT_GT(alone, 0.1);
  // The mean of 200 is sqrt(200) = 14 times as near.
  EXPECT_LT((sum / kSeeds - whole).norm().item<double>() / norm, alone / 7);
}

TEST_F(DroppedStep, WithAnAdapterThatDoesSomethingTheComparisonStillSeesNoMask) {
  Load(proto::FLOAT64);
  proto::LoraConfig config = SteppedAdapter()->config();
  config.set_dropout(0.5);
  const auto adapter = *Adapter::Initialize(model_->spec(), config, 0, master_type_, at::kCPU);
  const std::vector<at::Tensor> from = SteppedAdapter()->Parameters();
  for (size_t i = 0; i < from.size(); ++i) adapter->Parameters()[i].copy_(from[i]);
  const auto plain = MakeTrainer(SteppedAdapter())->Step(Groups());
  const auto dropped = MakeTrainer(adapter)->Step(Groups());
  ASSERT_TRUE(plain.ok() && dropped.ok());
  EXPECT_EQ(dropped->logprob_difference_max, plain->logprob_difference_max);
  EXPECT_NE(dropped->entropy, plain->entropy) << "the pass that is trained on has a mask";
}

}  // namespace
}  // namespace wideberth::learner
