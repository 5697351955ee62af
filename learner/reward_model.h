// SPDX-License-Identifier: Apache-2.0
// Bradley-Terry training of a reward model: an adapter and a score head on the hidden state of a
// sequence's last token. Shapes: P pairs, H hidden.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "learner/preference.h"
#include "learner/supervised.h"

namespace wideberth::learner {

// [P]: -log sigmoid(chosen - rejected - margin) + center_rewards_coefficient * (chosen +
// rejected)^2. Arguments [P] of one dtype. Throws c10::Error.
at::Tensor RewardModelLoss(const at::Tensor& chosen_P, const at::Tensor& rejected_P,
                           const at::Tensor& margin_P, const proto::RewardModelConfig& config);

// Gives the adapter a score head to train, in its dtype: the base's own where that is a sequence
// classifier, else normal numbers from the seed, of deviation 0.02 beside LoRA and 1 / sqrt(hidden)
// where all weights are trained. Internal for what torch throws.
absl::Status AddScoreHead(const model::CausalLm& model, uint64_t seed, model::Adapter* adapter);

class RewardTask final : public SupervisedTask {
 public:
  // Reads and tokenises config.data. Errors name file:line.
  static absl::StatusOr<std::unique_ptr<SupervisedTask>> Create(const proto::RunConfig& config,
                                                                const model::CausalLm& model);

  RewardTask(const proto::RewardModelConfig& config, PreferenceData data)
      : config_(config), data_(std::move(data)) {}

  int64_t num_rows(Split split) const override {
    return static_cast<int64_t>(data_.rows(split).size());
  }
  std::vector<Pass> Plan(Split split, absl::Span<const int64_t> rows,
                         int64_t max_tokens) const override {
    return PackForScores(data_.rows(split), rows, max_tokens);
  }
  // `model.adapter` has a score head. Metrics under TRL's names: accuracy, margin, mean_reward.
  PassResult Compute(Split split, const Pass& pass, const ModelInUse& model) const override;

 private:
  const proto::RewardModelConfig config_;
  const PreferenceData data_;
};

}  // namespace wideberth::learner
