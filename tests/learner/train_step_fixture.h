// SPDX-License-Identifier: Apache-2.0
// A trainer on a tiny model, groups to train it on, and the same sequences computed one by one. For
// the tests of the training step. Shapes: T tokens, V vocabulary.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "learner/train_step.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::learner {

using model::Adapter;
using model::CausalLm;
using proto::LearnerConfig;
using ::testing::HasSubstr;

inline const std::vector<std::string> kTargets = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                  "gate_proj", "up_proj", "down_proj"};

inline std::vector<int32_t> Tokens(absl::string_view name, int count) {
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
inline std::vector<TrainGroup> Groups() {
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

inline std::vector<at::Tensor> Snapshot(const Adapter& adapter) {
  std::vector<at::Tensor> copies;
  for (const at::Tensor& tensor : adapter.Parameters()) copies.push_back(tensor.detach().clone());
  return copies;
}

inline double LargestDifference(const std::vector<at::Tensor>& a,
                                const std::vector<at::Tensor>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i)
    largest = std::max(largest, (a[i] - b[i]).abs().max().item<double>());
  return largest;
}

// What the last update's gradient was, by the first moment with beta1 = 0.
inline std::vector<at::Tensor> GradientOf(const Trainer& trainer) {
  std::vector<at::Tensor> gradients;
  const auto state = trainer.optimizer().NamedState();
  for (size_t i = 0; i < state.size(); i += 2) gradients.push_back(state[i].second.clone());
  return gradients;
}

}  // namespace wideberth::learner
