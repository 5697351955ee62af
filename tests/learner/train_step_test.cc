// SPDX-License-Identifier: Apache-2.0
// The training step against sequences computed one by one, on a tiny model. Shapes: T tokens, V
// vocabulary.
#include "learner/train_step.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>

#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::learner {
namespace {

using model::Adapter;
using model::CausalLm;
using proto::LearnerConfig;
using ::testing::HasSubstr;

const std::vector<std::string> kTargets = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                           "gate_proj", "up_proj", "down_proj"};

std::vector<int32_t> Tokens(absl::string_view name, int count) {
  std::vector<int32_t> tokens;
  for (float x : testing::TinyUniform(name, count))
    tokens.push_back(static_cast<int32_t>((x + 1) * 150));
  return tokens;
}

class TrainStep : public ::testing::Test {
 protected:
  void Load(proto::DType dtype, absl::string_view kind = "llama") {
    const std::string folder = dir_.Join(kind);
    ASSERT_TRUE(testing::WriteTinyModel(kind, folder).ok());
    ASSERT_TRUE(testing::WriteTinyAdapter(kind, 4, 8, kTargets, dir_.Join("adapter")).ok());
    proto::ModelConfig config;
    config.set_path(folder);
    config.set_dtype(dtype);
    auto loaded = CausalLm::Load(config);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    model_ = *std::move(loaded);
    master_type_ = dtype == proto::FLOAT64 ? at::kDouble : at::kFloat;
    // A gradient taken with beta1 = 0 and no clipping can be read off the first moment.
    learner_.set_adam_beta1(0);
    learner_.set_max_grad_norm(0);
    learner_.set_max_logprob_difference(0);
    learner_.set_learning_rate(1e-2);
  }

  std::shared_ptr<Adapter> SteppedAdapter() const {
    return *Adapter::Load(dir_.Join("adapter"), model_->spec(), master_type_, at::kCPU);
  }
  // As a run starts: B is zero.
  std::shared_ptr<Adapter> FreshAdapter() const {
    proto::LoraConfig config;
    config.set_rank(4);
    config.set_alpha(8);
    return *Adapter::Initialize(model_->spec(), config, 17, master_type_, at::kCPU);
  }

  std::unique_ptr<Trainer> MakeTrainer(std::shared_ptr<Adapter> adapter) const {
    auto trainer = Trainer::Create(model_.get(), std::move(adapter), {learner_, temperature_});
    EXPECT_TRUE(trainer.ok()) << trainer.status();
    return *std::move(trainer);
  }

  // Log-probs [T] of one completion, computed as a sequence of its own from full logits.
  at::Tensor SeparateLogProbs(const TrainGroup& group, size_t completion,
                              const Adapter* adapter) const {
    const std::vector<int32_t>& tokens = group.completions[completion].tokens;
    std::vector<int32_t> all = group.prompt;
    all.insert(all.end(), tokens.begin(), tokens.end());
    model::TokenTree tree;
    tree.Add(all);
    model::ForwardOptions options;
    options.adapter = adapter;
    const at::Tensor logits_TV =
        at::matmul(model_->Hidden(tree, options), model_->head().t()) / temperature_;
    const auto first = static_cast<int64_t>(group.prompt.size()),
               count = static_cast<int64_t>(tokens.size());
    const at::Tensor targets =
        at::tensor(std::vector<int64_t>(tokens.begin(), tokens.end()), at::kLong);
    return at::log_softmax(logits_TV, -1)
        .narrow(0, first - 1, count)
        .gather(1, targets.unsqueeze(1))
        .squeeze(1);
  }

  // The step's loss from separate sequences, as the reference's formulas read; `old`: adapter of
  // the first iteration, null for this one.
  at::Tensor SeparateLoss(const std::vector<TrainGroup>& groups, const Adapter& adapter,
                          const Adapter* old) const {
    at::Tensor total = at::zeros({}, model_->head().options());
    double num_tokens = 0, num_completions = 0;
    for (const TrainGroup& group : groups) {
      std::vector<absl::optional<double>> rewards;
      for (const TrainCompletion& c : group.completions) rewards.push_back(c.reward);
      const std::vector<double> advantages =
          GroupAdvantages(rewards, std::vector<uint64_t>(rewards.size()), learner_.scale_rewards())
              .advantage;
      for (size_t i = 0; i < group.completions.size(); ++i) {
        const TrainCompletion& completion = group.completions[i];
        if (!completion.reward.has_value()) continue;
        ++num_completions;
        if (learner_.mask_truncated_completions() && completion.finish == proto::LENGTH) continue;
        const auto length = static_cast<double>(completion.tokens.size());
        num_tokens += length;
        const at::Tensor now = SeparateLogProbs(group, i, &adapter);
        const at::Tensor before =
            old == nullptr ? now.detach() : SeparateLogProbs(group, i, old).detach();
        const at::Tensor d = SeparateLogProbs(group, i, nullptr) - now;
        const at::Tensor ratio = at::exp(now - before);
        const at::Tensor bounded = ratio.clamp(1 - learner_.epsilon(), 1 + learner_.epsilon());
        const at::Tensor per_token = -at::minimum(ratio * advantages[i], bounded * advantages[i]) +
                                     learner_.beta() * (d.exp() - d - 1);
        total = total +
                (learner_.loss_type() == LearnerConfig::GRPO ? per_token.mean() : per_token.sum());
      }
    }
    return total / (learner_.loss_type() == LearnerConfig::GRPO ? num_completions : num_tokens);
  }

  // Compares the gradient that the last optimiser step of `trainer` saw with the separate
  // sequences'.
  void ExpectSeparateGradient(const std::vector<TrainGroup>& groups, const Trainer& trainer,
                              Adapter* at_point, const Adapter* old, double loss,
                              double tolerance) {
    for (at::Tensor& tensor : at_point->Parameters()) tensor.set_requires_grad(true);
    const at::Tensor expected_loss = SeparateLoss(groups, *at_point, old);
    expected_loss.backward();
    EXPECT_NEAR(loss, expected_loss.item<double>(), tolerance);
    const auto state = trainer.optimizer().NamedState();
    const auto expected = at_point->NamedTensors();
    ASSERT_EQ(state.size(), 2 * expected.size());
    double largest = 0, scale = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(state[2 * i].first, expected[i].first + ".exp_avg");
      const at::Tensor gradient = expected[i].second.grad();
      largest = std::max(largest, (state[2 * i].second - gradient).abs().max().item<double>());
      scale = std::max(scale, gradient.abs().max().item<double>());
    }
    EXPECT_GT(scale, 1e-3) << "nothing was compared";
    EXPECT_LT(largest, tolerance);
  }

  void FillSamplerLogProbs(std::vector<TrainGroup>* groups, const Adapter* adapter) const {
    const at::NoGradGuard no_grad;
    for (TrainGroup& group : *groups) {
      for (size_t i = 0; i < group.completions.size(); ++i) {
        const at::Tensor values = SeparateLogProbs(group, i, adapter).to(at::kFloat).contiguous();
        group.completions[i].sampler_logprobs.assign(values.data_ptr<float>(),
                                                     values.data_ptr<float>() + values.numel());
      }
    }
  }

  testing::TempDir dir_;
  std::unique_ptr<CausalLm> model_;
  at::ScalarType master_type_ = at::kDouble;
  LearnerConfig learner_;
  double temperature_ = 0.8;
};

// Two prompts of different length, completions of 1 to 9 tokens; one completion without a reward,
// one cut off by length.
std::vector<TrainGroup> Groups() {
  std::vector<TrainGroup> groups(2);
  const std::vector<std::vector<int>> lengths = {{5, 1, 9, 4}, {3, 6, 2}};
  const std::vector<std::vector<absl::optional<double>>> rewards = {
      {1.0, -0.5, absl::nullopt, 0.25}, {0.0, 2.0, 0.5}};
  for (size_t g = 0; g < 2; ++g) {
    groups[g].group_id = 40 + g;
    groups[g].source = "actor-0";
    groups[g].prompt = Tokens(absl::StrCat("prompt", g), g == 0 ? 7 : 12);
    for (size_t i = 0; i < lengths[g].size(); ++i) {
      TrainCompletion completion;
      completion.tokens = Tokens(absl::StrCat("completion", g, ".", i), lengths[g][i]);
      completion.sampler_logprobs.assign(lengths[g][i], -5.0f);
      completion.reward = rewards[g][i];
      completion.finish = i == 0 ? proto::LENGTH : proto::STOP;
      groups[g].completions.push_back(completion);
    }
  }
  return groups;
}

std::vector<at::Tensor> Snapshot(const Adapter& adapter) {
  std::vector<at::Tensor> copies;
  for (const at::Tensor& tensor : adapter.Parameters()) copies.push_back(tensor.detach().clone());
  return copies;
}

double LargestDifference(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i)
    largest = std::max(largest, (a[i] - b[i]).abs().max().item<double>());
  return largest;
}

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

// What the last update's gradient was, by the first moment with beta1 = 0.
std::vector<at::Tensor> GradientOf(const Trainer& trainer) {
  std::vector<at::Tensor> gradients;
  const auto state = trainer.optimizer().NamedState();
  for (size_t i = 0; i < state.size(); i += 2) gradients.push_back(state[i].second.clone());
  return gradients;
}

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
