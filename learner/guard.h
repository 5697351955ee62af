// SPDX-License-Identifier: Apache-2.0
// Training a guard: cross-entropy over the vocabulary on the verdict token, under the template of
// the configuration's one VERDICT scorer, which serves the result. Calibration at the end.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "learner/dataset.h"
#include "learner/supervised.h"

namespace wideberth::learner {

// Guard rows as the model reads them.
struct GuardExample {
  std::vector<int32_t> tokens;  // The whole question; the verdict follows the last one.
  bool positive = false;
  std::string origin, source;
};

class GuardTask final : public SupervisedTask {
 public:
  struct Verdict {
    std::vector<int64_t> positive, negative;  // Token ids; the first of each is trained on.
  };

  // Reads and tokenises config.data, as the scorer would read it. A question of more than
  // data.max_tokens has its prompt cut from the front, down to a quarter of the tokens there are
  // for both, then its response from the end. Errors name the scorer, or file:line.
  static absl::StatusOr<std::unique_ptr<SupervisedTask>> Create(const proto::RunConfig& config,
                                                                const model::CausalLm& model);

  // `head`: tokens that (nearly) all questions begin with, computed once a pass.
  GuardTask(const proto::GuardConfig& config, Verdict verdict, std::vector<int32_t> head,
            std::vector<GuardExample> train, std::vector<GuardExample> validation)
      : config_(config),
        verdict_(std::move(verdict)),
        head_(std::move(head)),
        train_(std::move(train)),
        validation_(std::move(validation)) {}

  int64_t num_rows(Split split) const override { return static_cast<int64_t>(Rows(split).size()); }
  std::vector<Pass> Plan(Split split, absl::Span<const int64_t> rows,
                         int64_t max_tokens) const override;
  // Metric: accuracy (log-odds above 0 where positive). Values: log-odds, as the scorer's.
  PassResult Compute(Split split, const Pass& pass, const ModelInUse& model) const override;
  // Writes <run_dir>/validation.jsonl and, where configured, <adapter_folder>/calibration.json.
  absl::StatusOr<TaskResults> Finish(const Validation& validation,
                                     const std::string& adapter_folder,
                                     const std::string& run_dir) const override;

 private:
  const std::vector<GuardExample>& Rows(Split split) const {
    return split == Split::kTrain ? train_ : validation_;
  }
  const proto::GuardConfig config_;
  const Verdict verdict_;
  const std::vector<int32_t> head_;
  std::vector<GuardExample> train_, validation_;
};

}  // namespace wideberth::learner
