// SPDX-License-Identifier: Apache-2.0
// Supervised fine-tuning: cross-entropy of answers, mean over all answer tokens of the batch, as
// TRL's SFTTrainer takes it.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "learner/row_tokens.h"
#include "learner/supervised.h"

namespace wideberth::learner {

class SftTask final : public SupervisedTask {
 public:
  // Reads and tokenises config.data. Errors name file:line.
  static absl::StatusOr<std::unique_ptr<SupervisedTask>> Create(const proto::RunConfig& config,
                                                                const model::CausalLm& model);

  SftTask(std::vector<AnsweredTokens> train, std::vector<AnsweredTokens> validation)
      : train_(std::move(train)), validation_(std::move(validation)) {}

  int64_t num_rows(Split split) const override { return static_cast<int64_t>(Rows(split).size()); }
  std::vector<Pass> Plan(Split split, absl::Span<const int64_t> rows,
                         int64_t max_tokens) const override;
  // Metrics: mean_token_accuracy (the answer's token is the likeliest one).
  PassResult Compute(Split split, const Pass& pass, const ModelInUse& model) const override;

 private:
  const std::vector<AnsweredTokens>& Rows(Split split) const {
    return split == Split::kTrain ? train_ : validation_;
  }
  std::vector<AnsweredTokens> train_, validation_;
};

}  // namespace wideberth::learner
