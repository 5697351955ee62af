// SPDX-License-Identifier: Apache-2.0
// GRPO's policy losses (grpo, bnpo, dr_grpo, dapo, cispo, sapo, luspo, vespo) with their ratios,
// masks, sampler corrections, KL and entropy bonus, on log-probs of several completions packed
// without padding. Equal to TRL's; used by train_step.h once per micro-batch and by `wideberth
// loss`. Shapes: M tokens, C completions.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

struct LossInputs {
  at::Tensor new_logprobs;  // [M], differentiable
  // [M], constants. Undefined: new_logprobs as they are, the ratio is exactly 1.
  at::Tensor old_logprobs;
  // [M], constants; needed by the sampler correction. Where they are undefined the off-policy mask
  // compares with old_logprobs.
  at::Tensor sampler_logprobs;
  at::Tensor reference_logprobs;  // [M], constants; may be undefined when beta is 0
  // [M] nats; differentiable where there is an entropy bonus, may be undefined where there is none.
  at::Tensor entropies;
  // [M] bool from HighEntropyMask, needed when top_entropy_quantile is below 1.
  at::Tensor entropy_mask;
  std::vector<double> advantages;  // [C]
  std::vector<int64_t> lengths;    // [C] tokens of each completion, in packed order; their sum is M
  // [C] false: neither loss nor gradient, as if it had no tokens (a truncated completion that is
  // masked); empty: all count.
  std::vector<bool> counted;
};

struct LossConfig {
  proto::LearnerConfig::LossType type = proto::LearnerConfig::DAPO;
  double epsilon = 0.2;
  double epsilon_high = 0.2;
  absl::optional<double> delta;  // Upper bound of the ratio before the minimum is taken.
  bool sequence_level = false;   // One ratio a completion: exp of the mean of new - old.
  double beta = 0;
  proto::LearnerConfig::KlEstimator kl_estimator = proto::LearnerConfig::K3;
  bool bias_correction_kl = false;
  absl::optional<proto::LearnerConfig::SamplerCorrection> correction;  // Empty: none.
  double correction_max = 3;
  absl::optional<double> correction_min;
  absl::optional<double> off_policy_threshold;
  double top_entropy_quantile = 1;
  double entropy_coefficient = 0;
  double sapo_temperature_positive = 1, sapo_temperature_negative = 1.05;
  double vespo_k_positive = 2, vespo_lambda_positive = 3;
  double vespo_k_negative = 3, vespo_lambda_negative = 2;
  int64_t max_completion_length = 0;  // Of dr_grpo, which needs it.
  int32_t accumulation = 1;           // Slices of an optimiser step.

  bool UsesEntropyMask() const { return top_entropy_quantile < 1; }
  bool HasEntropyBonus() const { return entropy_coefficient != 0; }
};
// `max_completion_length`: what a completion can have at most (generation.max_new_tokens).
LossConfig LossConfigOf(const proto::LearnerConfig& config, int64_t max_completion_length);

// Sizes over all micro-batches (and ranks), never derived from one call's inputs, so that the
// losses and gradients of a slice's micro-batches add up to the slice's, and those of an optimiser
// step's slices to the step's. L: loss of a token.
//   dapo, cispo, vespo  sum L / generation_tokens
//   bnpo                sum L / (slice_tokens accumulation)
//   grpo, sapo          sum over completions of (mean L) / (slice_completions accumulation)
//   dr_grpo             sum L / (slice_completions max_completion_length accumulation)
//   luspo               sum L / (slice_completions accumulation)
//   entropy bonus       - coefficient sum of entropies / (entropy_tokens accumulation)
struct LossNormalizer {
  int64_t generation_tokens = 0;  // Counted tokens of the whole policy version.
  int64_t slice_tokens = 0;       // Counted tokens of the slice.
  int64_t slice_completions = 0;  // All in the slice, those not counted too (they dilute).
  int64_t entropy_tokens = 0;     // Counted tokens of the slice that pass the entropy mask.
};

// Sums over what was counted, so that micro-batches, slices and ranks merge. Plain numbers.
struct LossMetrics {
  int64_t num_tokens = 0;
  int64_t num_completions = 0;  // Those that are not counted too.
  double loss = 0;              // Normalised already: adds up to the step's.
  double policy_loss = 0;       // The same without the entropy bonus.
  double entropy_sum = 0;       // Over tokens
  double kl_sum = 0;            // Over tokens, as it enters the loss; 0 when beta is 0
  double ratio_sum = 0;         // Over tokens
  double ratio_min = 1, ratio_max = 1;
  // Ratios outside the clip range that the advantage's sign makes matter, over tokens, or over
  // completions for sequence-level ratios; then the smallest and largest fraction of a completion
  // (NaN before there is one).
  int64_t clipped_low = 0, clipped_high = 0;
  double clipped_low_min = 0, clipped_high_max = 0;
  int64_t num_fractions = 0;  // Completions that have such a fraction.
  double phi_sum = 0;         // vespo's weight, over completions
  // Sampler correction: |old - sampler| over tokens; the weight over tokens, or over completions
  // for sequence modes.
  double sampler_difference_sum = 0, sampler_difference_max = 0;
  int64_t num_weights = 0;
  double weight_sum = 0, weight_min = 0, weight_max = 0;

  void Merge(const LossMetrics& other);
};

// The metrics under TRL's names ("clip_ratio/low_mean", "kl", ...): those that `config` makes
// TRL report, in a fixed order. NaN where no completion had tokens.
std::vector<std::pair<std::string, double>> NamedMetrics(const LossMetrics& metrics,
                                                         const LossConfig& config);

struct LossResult {
  at::Tensor loss;  // Scalar; backward() gives the gradient's share of this micro-batch.
  LossMetrics metrics;
};

// The loss of a token, with c the ratio (of the token, or of the completion), A the advantage, l
// the new log-prob; [x] has no gradient:
//   grpo, bnpo, dr_grpo, dapo, luspo   -min(min(c, delta) A, clamp(c, 1 - e, 1 + e_high) A)
//   cispo                              -[min(c, e_high)] A l
//   sapo                               -sigmoid(tau (c - 1)) 4 / tau A
//   vespo                              -[phi] A l
// then times the off-policy mask (0 where A < 0 and mean(sampler - new) > threshold), times the
// entropy mask, times the sampler's weight exp(old - sampler) truncated or masked (it enters phi
// instead for vespo), plus beta KL (times c for bias_correction_kl), which none of the masks
// touches. Any floating dtype and device; the result's dtype is new_logprobs'. Throws c10::Error on
// shapes that do not fit, on tensors that are missing and for vespo with a sequence correction:
// call it inside CatchTorch.
LossResult GrpoLoss(const LossInputs& inputs, const LossConfig& config,
                    const LossNormalizer& normalizer);

// The smallest entropy that is trained on when only the `top_quantile` highest are: the 1 -
// top_quantile quantile (linear interpolation, in float32 as TRL takes it) of all counted tokens of
// a slice [M], over all micro-batches and ranks. Infinite without tokens.
double EntropyThreshold(const at::Tensor& entropies_M, double top_quantile);
// [M] bool: entropy >= threshold.
at::Tensor HighEntropyMask(const at::Tensor& entropies_M, double threshold);

}  // namespace wideberth::learner
