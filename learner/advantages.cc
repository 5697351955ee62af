// SPDX-License-Identifier: Apache-2.0
// Rewards -> group-relative advantages.
#include "learner/advantages.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "base/status.h"

namespace wideberth::learner {

Moments SampleMoments(const std::vector<double>& values) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto n = static_cast<double>(values.size());
  if (values.empty()) return {nan, nan};
  double sum = 0;
  for (double value : values) sum += value;
  // Equal values have exactly that mean, whatever the sum rounds to: no signal is then exactly
  // none.
  const auto [smallest, largest] = std::minmax_element(values.begin(), values.end());
  const double mean = *smallest == *largest ? *smallest : sum / n;
  if (values.size() < 2) return {mean, nan};
  double squares = 0;
  for (double value : values) squares += (value - mean) * (value - mean);
  return {mean, std::sqrt(squares / (n - 1))};
}

Advantages GroupAdvantages(const std::vector<absl::optional<double>>& rewards,
                           const std::vector<uint64_t>& group_ids,
                           proto::LearnerConfig::ScaleRewards scale) {
  WB_CHECK(rewards.size() == group_ids.size(), "every reward belongs to a group");
  std::map<uint64_t, std::vector<double>> groups;
  std::vector<double> scored;
  for (size_t i = 0; i < rewards.size(); ++i) {
    std::vector<double>& group = groups[group_ids[i]];
    if (!rewards[i].has_value()) continue;
    group.push_back(*rewards[i]);
    scored.push_back(*rewards[i]);
  }
  const Moments batch = SampleMoments(scored);
  std::map<uint64_t, Moments> moments;
  int64_t num_constant = 0;
  for (const auto& [id, members] : groups) {
    const Moments group = SampleMoments(members);
    moments[id] = group;
    // Not so with NaN, the deviation of one member.
    if (group.deviation <= 1e-8) ++num_constant;
  }

  Advantages result;
  result.reward_mean = batch.mean;
  result.reward_deviation = batch.deviation;
  if (!groups.empty()) {
    result.fraction_zero_deviation =
        static_cast<double>(num_constant) / static_cast<double>(groups.size());
  }
  for (size_t i = 0; i < rewards.size(); ++i) {
    double advantage = 0;
    if (rewards[i].has_value()) {
      const Moments& group = moments[group_ids[i]];
      advantage = *rewards[i] - group.mean;
      if (scale == proto::LearnerConfig::GROUP) advantage /= group.deviation + kDeviationEpsilon;
      if (scale == proto::LearnerConfig::BATCH) advantage /= batch.deviation + kDeviationEpsilon;
      if (std::isnan(advantage)) advantage = 0;
    }
    result.advantage.push_back(advantage);
  }
  return result;
}

}  // namespace wideberth::learner
