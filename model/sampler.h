// SPDX-License-Identifier: Apache-2.0
// One token from one row of logits: the processors of transformers' generate, in its order, then
// the inverse CDF at a uniform number.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "proto/config.pb.h"

namespace wideberth::model {

// Repetition penalty, temperature, top-k, top-p, min-p; temperature 0 is greedy.
class Sampler {
 public:
  explicit Sampler(const proto::GenerationConfig& config) : config_(config) {}

  // Errors name the field, the value and what it must be.
  static absl::Status Validate(const proto::GenerationConfig& config);

  struct Choice {
    int32_t token = 0;
    double logprob = 0;  // Of the tempered distribution over the whole vocabulary, without penalty
                         // and truncation.
  };
  // `logits` [V] raw; `seen`: tokens of prompt and completion so far (only read with a repetition
  // penalty); `uniform` in [0, 1).
  Choice Sample(absl::Span<const float> logits, absl::Span<const int32_t> seen, double uniform);
  // The distribution that Sample draws from, [V]; for tests.
  std::vector<double> Distribution(absl::Span<const float> logits, absl::Span<const int32_t> seen);

 private:
  // Fills weights_ [V]: exp(l - max) of what may be drawn, 0 for the rest; returns their sum.
  double Weigh(absl::Span<const float> logits, absl::Span<const int32_t> seen);
  void Penalize(absl::Span<const int32_t> seen);
  void KeepTopK();
  void KeepTopP();

  const proto::GenerationConfig config_;
  std::vector<float> scores_;  // Working copy of the logits.
  std::vector<float> weights_;
  std::vector<float> sorted_;
  double log_total_ = 0;  // log sum exp(l / temperature) of the last Weigh, before truncation.
};

}  // namespace wideberth::model
