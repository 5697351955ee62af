// SPDX-License-Identifier: Apache-2.0
// Scored groups -> a better adapter: advantages, packed forward and backward passes, KL to the
// base, clipping, AdamW. The learner calls `Step` once per policy version and publishes `adapter()`
// afterwards.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "learner/loss.h"
#include "learner/micro_batch.h"
#include "learner/optimizer.h"
#include "learner/sampler_comparison.h"
#include "learner/trained_adapter.h"
#include "model/adapter.h"
#include "model/causal_lm.h"
#include "proto/config.pb.h"
#include "transport/collective.h"

namespace wideberth::learner {

// One optimiser step of a policy version.
struct UpdateMetrics {
  double loss = 0;
  double grad_norm = 0;  // Before clipping; NaN where it was not finite.
  double learning_rate = 0;
  std::string skipped;  // Why the optimiser was not stepped; empty: it was.
};

// What became of a completion, for the journal and the completions table.
struct CompletionOutcome {
  uint64_t group_id = 0;
  int64_t completion = 0;         // TrainCompletion.index
  absl::optional<double> reward;  // Empty: unscored
  double advantage = 0;
};

// Lengths, finish reasons and rewards are over all completions given; token means over those
// trained on.
struct StepMetrics {
  double loss = 0;           // Last optimiser step
  double grad_norm = 0;      // Before clipping, last optimiser step
  double learning_rate = 0;  // Last optimiser step
  double kl = 0;             // To the base, first iteration; 0 when beta is 0
  double entropy = 0;        // nats, first iteration
  double reward_mean = 0, reward_deviation = 0, fraction_zero_deviation = 0;
  double advantage_min = 0, advantage_max = 0, advantage_abs_mean = 0;
  LossMetrics clipping;  // Of the last iteration; its losses are the last optimiser step's.
  std::vector<std::pair<std::string, double>> named;  // `clipping` under TRL's names

  std::vector<UpdateMetrics> updates;          // In order
  bool skipped = false;                        // An optimiser step of these was not applied,
  std::string skipped_why;                     // the first one for this reason.
  std::vector<CompletionOutcome> completions;  // All given, in order

  // Learner against sampler: log-prob before the first update minus the sampler's.
  double logprob_difference_mean = 0, logprob_difference_max = 0;  // Absolute, on-policy groups
  std::string logprob_difference_worst;  // "group 17 completion 3 token 5 of actor-0"
  double ratio_deviation_max = 0;        // |exp - 1|, on-policy groups
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
  // `forward` includes passes without a gradient (log-probs at the start, entropies).
  double reference_seconds = 0, forward_seconds = 0, backward_seconds = 0, optimizer_seconds = 0;
};

// Not thread-safe: lives on the thread that owns the device. `model` must outlive it.
class Trainer {
 public:
  struct Options {
    proto::LearnerConfig learner;
    double temperature = 1;  // Of sampling; 0 (greedy) trains at 1, as the sampler's log-probs do.
    int64_t max_completion_length = 0;  // generation.max_new_tokens; dr_grpo needs it.
    std::vector<double> term_weights;   // Of TrainCompletion.terms; NORMALIZE_THEN_SUM needs them.
    std::shared_ptr<const model::Adapter> reference = nullptr;  // Null: the base itself.
    uint64_t dropout_seed = 0;
  };

  // `master`: as TrainedAdapter takes it; Trainer steps these very tensors. Gradients are summed in
  // its dtype.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(const model::CausalLm* model,
                                                         std::shared_ptr<model::Adapter> master,
                                                         Options options);

  // The optimiser steps of one policy version on these groups: for each of `num_iterations`, its
  // slices in order, an update after every `gradient_accumulation_steps` of them, at the learning
  // rate of the optimiser's step count. Truncated completions are masked where configured: no
  // gradient, though their rewards count. Groups that can contribute nothing skip the forward pass.
  // An update whose loss or gradient is not finite is left out, with a sentence in the metrics:
  // adapter and optimiser stay as they are. Errors, after which adapter and optimiser are as before
  // the failing update: InvalidArgument for malformed groups or where nothing is scored;
  // FailedPrecondition where an on-policy log-prob differs by more than max_logprob_difference from
  // the sampler's (names the actor), before the first update; Internal for what torch throws.
  absl::StatusOr<StepMetrics> Step(const std::vector<TrainGroup>& groups);

  // From now on Step is done together with the other ranks, each of which calls it with the same
  // groups: this one's share of them goes through the model here, findings and gradients are added
  // up, and every rank applies the same update. Errors of Step are then also the collective's.
  // `ranks` outlives the trainer. `begin`, where there is one, is called with the groups before
  // they are trained on (rank 0 hands them out).
  using Begin = std::function<absl::Status(const std::vector<TrainGroup>&)>;
  void ShareWith(transport::Collective* ranks, Begin begin);

  const TrainedAdapter& adapter() const { return adapter_; }
  TrainedAdapter& adapter() { return adapter_; }
  AdamW& optimizer() { return *optimizer_; }
  const AdamW& optimizer() const { return *optimizer_; }

 private:
  // A micro-batch and what its passes leave for later ones.
  struct Pass {
    MicroBatch batch;
    at::Tensor reference;     // [M], undefined when beta is 0
    at::Tensor start;         // [M] log-probs before the first update; of the first update's own
                              // pass, with its dropout, where there is one, as TRL's
    at::Tensor undropped;     // [M] the same without dropout; undefined where `start` is without it
    at::Tensor sampler;       // [M] log-probs as the sampler reported them
    at::Tensor entropy_mask;  // [M] of the current visit, undefined without a mask
  };
  struct SlicePasses {
    std::vector<Pass> passes;
    LossNormalizer normalizer;
  };
  struct Looked {
    at::Tensor logprob, entropy;  // [M], no gradient
  };

  Trainer(const model::CausalLm* model, TrainedAdapter adapter, Options options);
  absl::StatusOr<StepMetrics> StepOrThrow(const std::vector<TrainGroup>& groups);
  std::vector<SlicePasses> MakePasses(const std::vector<TrainGroup>& groups, StepPlan plan,
                                      StepMetrics* metrics) const;
  double Temperature() const { return options_.temperature > 0 ? options_.temperature : 1.0; }
  Looked Look(const MicroBatch& batch, const model::Adapter* adapter, double* seconds) const;
  absl::Status MaskByEntropy(SlicePasses* slice, StepMetrics* metrics) const;
  absl::Status MergeComparison(SamplerComparison* comparison, StepMetrics* metrics) const;
  absl::Status SumOverRanks(LossMetrics* losses, UpdateMetrics* update) const;
  std::string Operation(absl::string_view what) const;
  // `place`: of the update's passes so far.
  absl::Status AccumulateSlice(const std::vector<TrainGroup>& groups, int64_t* place,
                               SlicePasses* slice, LossMetrics* losses, UpdateMetrics* update,
                               StepMetrics* metrics);
  LossResult Forward(const LossNormalizer& normalizer, int64_t place, Pass* pass);
  void Update(const LossMetrics& losses, UpdateMetrics* update, StepMetrics* metrics);

  const model::CausalLm* model_;
  TrainedAdapter adapter_;
  Options options_;
  LossConfig loss_;
  std::unique_ptr<AdamW> optimizer_;
  transport::OneRank alone_;
  transport::Collective* ranks_ = &alone_;
  Begin begin_;
};

}  // namespace wideberth::learner
