// SPDX-License-Identifier: Apache-2.0
// What the learner's log-probs at the start of a step say about the sampler's. Used by
// train_step.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "learner/micro_batch.h"
#include "proto/ranks.pb.h"

namespace wideberth::learner {

// Accumulates over micro-batches. Not thread-safe.
class SamplerComparison {
 public:
  // start_M: the learner's log-probs of the batch's tokens, before the step's first update.
  void Add(const std::vector<TrainGroup>& groups, const MicroBatch& batch,
           const at::Tensor& start_M);

  // As another rank found it in its share, and taken in: largest, sums and counts are those of
  // both.
  proto::SamplerFindings Findings() const;
  void Merge(const proto::SamplerFindings& other);

  // FailedPrecondition, naming group, completion, token and actor, where a token of an on-policy
  // group differs by more than `bound`, or by a NaN. 0: no bound.
  absl::Status Check(double bound) const;

  double largest() const { return largest_; }            // On-policy groups; -1 without any.
  const std::string& worst() const { return worst_; }    // "group 17 completion 3 token 5 of ..."
  double mean() const;                                   // On-policy groups.
  double ratio_deviation() const { return deviation_; }  // |exp(.) - 1|, largest, on-policy groups.
  double ratio_min() const { return ratio_min_; }        // exp(learner - sampler), all groups.
  double ratio_max() const { return ratio_max_; }
  double ratio_mean() const;

 private:
  void AddToken(const TrainGroup& group, const MicroBatch::Member& member, size_t token,
                double difference);

  double largest_ = -1;
  double learner_minus_sampler_ = 0;
  double deviation_ = 0;
  std::string worst_;
  double sum_ = 0, ratio_sum_ = 0, ratio_min_ = 1, ratio_max_ = 1;
  int64_t num_on_policy_ = 0, num_tokens_ = 0;
};

}  // namespace wideberth::learner
