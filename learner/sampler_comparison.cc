// SPDX-License-Identifier: Apache-2.0
#include "learner/sampler_comparison.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace wideberth::learner {

void SamplerComparison::Add(const std::vector<TrainGroup>& groups, const MicroBatch& batch,
                            const at::Tensor& start_M) {
  const at::Tensor ours = start_M.to(at::kCPU, at::kDouble).contiguous();
  const double* next = ours.data_ptr<double>();
  for (const MicroBatch::Member& member : batch.members) {
    const TrainGroup& group = groups[member.group];
    const std::vector<float>& sampled = group.completions[member.completion].sampler_logprobs;
    for (size_t token = 0; token < sampled.size(); ++token) {
      AddToken(group, member, token, *next++ - static_cast<double>(sampled[token]));
    }
  }
}

proto::SamplerFindings SamplerComparison::Findings() const {
  proto::SamplerFindings findings;
  findings.set_largest(largest_);
  findings.set_learner_minus_sampler(learner_minus_sampler_);
  findings.set_worst(worst_);
  findings.set_sum(sum_);
  findings.set_ratio_sum(ratio_sum_);
  findings.set_ratio_min(ratio_min_);
  findings.set_ratio_max(ratio_max_);
  findings.set_ratio_deviation(deviation_);
  findings.set_num_on_policy(num_on_policy_);
  findings.set_num_tokens(num_tokens_);
  return findings;
}

void SamplerComparison::Merge(const proto::SamplerFindings& other) {
  if (other.num_tokens() == 0) return;
  const bool first = num_tokens_ == 0;
  ratio_min_ = first ? other.ratio_min() : std::min(ratio_min_, other.ratio_min());
  ratio_max_ = first ? other.ratio_max() : std::max(ratio_max_, other.ratio_max());
  ratio_sum_ += other.ratio_sum();
  sum_ += other.sum();
  num_tokens_ += other.num_tokens();
  num_on_policy_ += other.num_on_policy();
  deviation_ = std::max(deviation_, other.ratio_deviation());
  if (std::isnan(largest_) || other.largest() <= largest_) return;
  largest_ = other.largest();
  learner_minus_sampler_ = other.learner_minus_sampler();
  worst_ = other.worst();
}

// Written so that a NaN fails too.
absl::Status SamplerComparison::Check(double bound) const {
  if (bound <= 0 || num_on_policy_ == 0 || largest_ <= bound) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      worst_, ": the learner's log-prob is ", learner_minus_sampler_,
      " away from the sampler's, expected at most ", bound, " (learner.max_logprob_difference)"));
}

double SamplerComparison::mean() const {
  return num_on_policy_ > 0 ? sum_ / static_cast<double>(num_on_policy_) : 0.0;
}

double SamplerComparison::ratio_mean() const {
  return num_tokens_ > 0 ? ratio_sum_ / static_cast<double>(num_tokens_) : 1.0;
}

void SamplerComparison::AddToken(const TrainGroup& group, const MicroBatch::Member& member,
                                 size_t token, double difference) {
  const double ratio = std::exp(difference);
  const bool first = num_tokens_++ == 0;
  ratio_sum_ += ratio;
  ratio_min_ = first ? ratio : std::min(ratio_min_, ratio);
  ratio_max_ = first ? ratio : std::max(ratio_max_, ratio);
  if (!group.on_policy) return;
  ++num_on_policy_;
  sum_ += std::abs(difference);
  deviation_ = std::max(deviation_, std::abs(std::expm1(difference)));
  if (std::isnan(largest_) || std::abs(difference) <= largest_) return;
  largest_ = std::abs(difference);
  learner_minus_sampler_ = difference;
  worst_ = absl::StrCat("group ", group.group_id, " completion ", member.completion, " token ",
                        token, group.source.empty() ? "" : " of ", group.source);
}

}  // namespace wideberth::learner
