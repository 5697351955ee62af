// SPDX-License-Identifier: Apache-2.0
// The clipped policy-gradient losses `grpo` and `dapo` with k3 KL, on log-probs of several
// completions packed without padding. Equal to TRL's; used by train_step.h once per micro-batch.
// Shapes: M tokens, C completions.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "proto/config.pb.h"

namespace wideberth::learner {

struct LossInputs {
  at::Tensor new_logprobs;         // [M], differentiable
  at::Tensor old_logprobs;         // [M], constants
  at::Tensor reference_logprobs;   // [M], constants; may be undefined when beta is 0
  std::vector<double> advantages;  // [C]
  std::vector<int64_t> lengths;    // [C] tokens of each completion, in packed order; their sum is M
  std::vector<bool> counted;  // [C] false: neither loss nor gradient (a truncated completion that
                              // is masked); empty: all count
};

struct LossConfig {
  proto::LearnerConfig::LossType type = proto::LearnerConfig::DAPO;
  double epsilon = 0.2;
  double epsilon_high = 0.2;
  double beta = 0;
};
LossConfig LossConfigOf(const proto::LearnerConfig& config);

// Sizes of the whole optimiser step, over all micro-batches (and ranks), so that the micro-batches'
// losses and gradients sum to the step's:
//   dapo: sum over tokens / num_tokens                       num_tokens: counted tokens
//   grpo: sum over completions of token means / num_completions   num_completions: all in the step,
//   those not counted too (they dilute)
struct LossNormalizer {
  int64_t num_tokens = 0;
  int64_t num_completions = 0;
};

// Sums over counted tokens, so that micro-batches merge. ratio = exp(new - old).
struct LossMetrics {
  int64_t num_tokens = 0;
  double loss = 0;    // Normalised already: adds up to the step's.
  double kl_sum = 0;  // k3; 0 without reference
  double ratio_sum = 0;
  double ratio_min = 1;
  double ratio_max = 1;
  int64_t clipped_low = 0;      // ratio < 1 - epsilon and advantage < 0
  int64_t clipped_high = 0;     // ratio > 1 + epsilon_high and advantage > 0
  double clipped_low_min = 0;   // Smallest fraction over completions
  double clipped_high_max = 0;  // Largest fraction over completions
  void Merge(const LossMetrics& other);
};

struct LossResult {
  at::Tensor loss;  // Scalar; backward() gives the gradient's share of this micro-batch.
  LossMetrics metrics;
};

// -min(c A, clamp(c, 1 - epsilon, 1 + epsilon_high) A) + beta k3 per token, k3 = exp(ref - new) -
// (ref - new) - 1. Any floating dtype and device; the result's dtype is new_logprobs'. Throws
// c10::Error on shapes that do not fit: call it inside CatchTorch.
LossResult GrpoLoss(const LossInputs& inputs, const LossConfig& config,
                    const LossNormalizer& normalizer);

}  // namespace wideberth::learner
