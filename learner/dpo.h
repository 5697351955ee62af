// SPDX-License-Identifier: Apache-2.0
// Direct preference optimisation (Rafailov et al. 2023) with label smoothing, weights per row and
// an added SFT term, which together are GuardReasoner's HS-DPO. The reference is what training
// started from: the base model, or policy.adapter. Shapes: P pairs.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "learner/preference.h"
#include "learner/supervised.h"

namespace wideberth::learner {

// All [P], of one dtype. Log-probs are sums over an answer's tokens.
struct DpoInputs {
  at::Tensor chosen, rejected;                      // The policy's.
  at::Tensor reference_chosen, reference_rejected;  // No gradient.
  at::Tensor chosen_tokens;                         // Of the chosen answer.
  at::Tensor weights;                               // Of the rows.
};

// [P]: weight * (-(1 - s) log sigmoid(beta d) - s log sigmoid(-beta d)) - sft_weight * chosen /
// chosen_tokens, where d = (chosen - reference_chosen) - (rejected - reference_rejected) and s is
// the label smoothing. Throws c10::Error.
at::Tensor DpoLoss(const DpoInputs& inputs, const proto::DpoConfig& config);

class DpoTask final : public SupervisedTask {
 public:
  // Reads and tokenises config.data and, with precompute_reference, takes the reference's log-probs
  // of all rows. `reference`: null: the base. Errors name file:line.
  static absl::StatusOr<std::unique_ptr<SupervisedTask>> Create(const proto::RunConfig& config,
                                                                const model::CausalLm& model,
                                                                const model::Adapter* reference);

  DpoTask(const proto::DpoConfig& config, PreferenceData data)
      : config_(config), data_(std::move(data)) {}

  // Keeps the reference's log-probs of all rows, so that no step has to take them.
  absl::Status PrecomputeReference(const ModelInUse& model, int64_t max_tokens);

  int64_t num_rows(Split split) const override {
    return static_cast<int64_t>(data_.rows(split).size());
  }
  std::vector<Pass> Plan(Split split, absl::Span<const int64_t> rows,
                         int64_t max_tokens) const override {
    return PackForLogProbs(data_.rows(split), rows, max_tokens);
  }
  // Metrics under TRL's names: rewards/{chosen,rejected,accuracies,margins}, logps/{chosen,
  // rejected}, entropy (of all tokens of the answers).
  PassResult Compute(Split split, const Pass& pass, const ModelInUse& model) const override;

 private:
  struct Reference {
    std::vector<double> chosen, rejected;  // One a row of the split.
  };
  // [2P]: chosen and rejected in turn.
  at::Tensor ReferenceLogProbs(Split split, const Pass& pass, const ModelInUse& model) const;

  const proto::DpoConfig config_;
  const PreferenceData data_;
  Reference train_reference_, validation_reference_;  // Empty: taken in every pass.
};

}  // namespace wideberth::learner
