// SPDX-License-Identifier: Apache-2.0
// Rewards -> advantages of one policy version, as TRL's GRPOTrainer computes them, in float64 and
// without torch. Used by micro_batch.h and `wideberth loss`.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/optional.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

// Added to a standard deviation, outside the root.
inline constexpr double kDeviationEpsilon = 1e-4;

struct Advantages {
  std::vector<double> advantage;       // One per completion; 0 where unscored.
  double reward_mean = 0;              // Over scored completions; NaN without any.
  double reward_deviation = 0;         // n - 1; NaN with fewer than two.
  double fraction_zero_deviation = 0;  // Of the completions, those whose rewards are divided by a
                                       // deviation of zero: their group's (two or more scored, all
                                       // equal), or the batch's where that is the divisor.
};

// What the scorers, or the terms of a reward, gave; empty: not scored.
using ScoreRow = std::vector<absl::optional<double>>;  // [K]

// sum of weight * score over the scores that are there; empty without any. `weights` [K].
absl::optional<double> WeightedSum(const ScoreRow& scores, const std::vector<double>& weights);

// rewards[i] belongs to the group group_ids[i]; members need not be adjacent. advantage = (r -
// group mean) / (deviation + 1e-4), deviation (n - 1) of the group or of the whole batch, or r -
// group mean for NONE. Unscored completions count nowhere; where the deviation is undefined (one
// scored member) the advantage is 0.
Advantages GroupAdvantages(const std::vector<absl::optional<double>>& rewards,
                           const std::vector<uint64_t>& group_ids,
                           proto::LearnerConfig::ScaleRewards scale);

// NORMALIZE_THEN_SUM (GDPO): every column is brought to mean 0 and deviation 1 within its group,
// the weighted sums of what is there then to mean 0 and deviation 1 over the whole batch.
// scores [N][K], weights [K]. A completion without any score, and the only scored one of a group,
// have advantage 0. reward_mean and reward_deviation are those of the plain weighted sums.
Advantages NormalizedSumAdvantages(const std::vector<ScoreRow>& scores,
                                   const std::vector<double>& weights,
                                   const std::vector<uint64_t>& group_ids);

// Mean and n - 1 deviation; NaN for fewer than one, or two, values.
struct Moments {
  double mean;
  double deviation;
};
Moments SampleMoments(const std::vector<double>& values);

}  // namespace wideberth::learner
