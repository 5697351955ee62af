// SPDX-License-Identifier: Apache-2.0
// Scored groups -> a better adapter: advantages, packed forward and backward passes, KL to the
// base, clipping, AdamW. The learner calls `Step` once per policy version and publishes `adapter()`
// afterwards.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "learner/loss.h"
#include "learner/micro_batch.h"
#include "learner/optimizer.h"
#include "model/adapter.h"
#include "model/causal_lm.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

// Lengths, finish reasons and rewards are over all completions given; token means over those
// trained on, at the first iteration.
struct StepMetrics {
  double loss = 0;       // Last iteration
  double grad_norm = 0;  // Before clipping, last iteration
  double kl = 0;         // k3 to the base, first iteration; 0 when beta is 0
  double entropy = 0;    // nats
  double reward_mean = 0, reward_deviation = 0, fraction_zero_deviation = 0;
  double advantage_min = 0, advantage_max = 0, advantage_abs_mean = 0;
  LossMetrics clipping;  // Clip counts and ratios, last iteration

  // Learner against sampler: log-prob of the first iteration minus the sampler's.
  double logprob_difference_mean = 0, logprob_difference_max = 0;  // Absolute, on-policy groups
  std::string logprob_difference_worst;  // "group 17 completion 3 token 5 of actor-0"
  double importance_ratio_min = 1, importance_ratio_mean = 1,
         importance_ratio_max = 1;  // exp, all groups

  int64_t num_groups = 0, num_completions = 0;  // Given
  int64_t num_unscored = 0;                     // Completions without a reward
  int64_t num_trained = 0;                      // Completions that went through the model
  int64_t num_completion_tokens = 0;            // Trained on
  int64_t num_forward_tokens = 0;               // Prompts included, per pass
  int64_t length_min = 0, length_max = 0;
  double length_mean = 0;
  double clipped_fraction = 0;  // Completions that ended by length
  double reference_seconds = 0, forward_seconds = 0, backward_seconds = 0, optimizer_seconds = 0;
};

// Not thread-safe: lives on the thread that owns the device. `model` must outlive it.
class Trainer {
 public:
  struct Options {
    proto::LearnerConfig learner;
    double temperature = 1;  // Of sampling; 0 (greedy) trains at 1, as the sampler's log-probs do.
  };

  // `master`: the adapter to train, in float32, or float64 for a float64 model, on the model's
  // device; Trainer steps these very tensors. For a bf16 base the passes use a bf16 copy, gradients
  // are summed in float32. InvalidArgument for another dtype.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(const model::CausalLm* model,
                                                         std::shared_ptr<model::Adapter> master,
                                                         Options options);

  // `num_iterations` optimiser steps on these groups. Truncated completions are masked where
  // configured: no gradient, though their rewards count. Groups that can contribute nothing (no
  // advantage and beta 0) skip the forward pass. Errors, after which adapter and optimiser are as
  // before the failing optimiser step: InvalidArgument for malformed groups or where nothing is
  // scored; FailedPrecondition where an on-policy log-prob differs by more than
  // max_logprob_difference from the sampler's (names the actor); Internal for a non-finite gradient
  // or what torch throws.
  absl::StatusOr<StepMetrics> Step(const std::vector<TrainGroup>& groups);

  const model::Adapter& adapter() const { return *master_; }
  AdamW& optimizer() { return *optimizer_; }
  const AdamW& optimizer() const { return *optimizer_; }

  // After the master's tensors were overwritten from outside (a restored checkpoint).
  void AdapterChanged();

 private:
  // A micro-batch and what its first pass leaves for further iterations.
  struct Pass {
    MicroBatch batch;
    at::Tensor reference;  // [M], undefined when beta is 0
    at::Tensor old;        // [M], of the first iteration
    at::Tensor entropy;    // [M], of the first iteration
  };

  Trainer(const model::CausalLm* model, std::shared_ptr<model::Adapter> master,
          std::shared_ptr<model::Adapter> working, Options options);
  absl::StatusOr<StepMetrics> StepOrThrow(const std::vector<TrainGroup>& groups);
  double Temperature() const { return options_.temperature > 0 ? options_.temperature : 1.0; }
  void Reference(Pass* pass, StepMetrics* metrics) const;
  void Accumulate(const LossNormalizer& normalizer, Pass* pass, LossMetrics* losses,
                  StepMetrics* metrics);
  absl::StatusOr<double> Update(StepMetrics* metrics);

  const model::CausalLm* model_;
  std::shared_ptr<model::Adapter> master_;
  std::shared_ptr<model::Adapter> working_;  // master_ itself unless the model's dtype differs.
  Options options_;
  LossConfig loss_;
  std::unique_ptr<AdamW> optimizer_;
};

}  // namespace wideberth::learner
