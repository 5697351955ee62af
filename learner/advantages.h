// SPDX-License-Identifier: Apache-2.0
// Rewards -> advantages of one optimiser step, as TRL's GRPOTrainer computes them, in float64 and
// without torch. Used by train_step.h.
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
  double fraction_zero_deviation = 0;  // Of groups with two or more scored completions whose
                                       // rewards are all equal, of all groups.
};

// rewards[i] belongs to the group group_ids[i]; members need not be adjacent. advantage = (r -
// group mean) / (deviation + 1e-4), deviation (n - 1) of the group or of the whole batch, or r -
// group mean for NONE. Unscored completions count nowhere; where the deviation is undefined (one
// scored member) the advantage is 0.
Advantages GroupAdvantages(const std::vector<absl::optional<double>>& rewards,
                           const std::vector<uint64_t>& group_ids,
                           proto::LearnerConfig::ScaleRewards scale);

// Mean and n - 1 deviation; NaN for fewer than one, or two, values.
struct Moments {
  double mean;
  double deviation;
};
Moments SampleMoments(const std::vector<double>& values);

}  // namespace wideberth::learner
