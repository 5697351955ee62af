// SPDX-License-Identifier: Apache-2.0
// Rewards -> group-relative advantages.
#include "learner/advantages.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "base/status.h"

namespace wideberth::learner {
namespace {

// A deviation up to here counts as none (torch.isclose to zero). NaN, the deviation of one member,
// does not.
constexpr double kZeroDeviation = 1e-8;

using Column = std::vector<absl::optional<double>>;

std::map<uint64_t, Moments> GroupMoments(const Column& values,
                                         const std::vector<uint64_t>& group_ids) {
  std::map<uint64_t, std::vector<double>> groups;
  for (size_t i = 0; i < values.size(); ++i) {
    std::vector<double>& group = groups[group_ids[i]];
    if (values[i].has_value()) group.push_back(*values[i]);
  }
  std::map<uint64_t, Moments> moments;
  for (const auto& [id, members] : groups) moments[id] = SampleMoments(members);
  return moments;
}

Moments BatchMoments(const Column& values) {
  std::vector<double> scored;
  for (const absl::optional<double>& value : values) {
    if (value.has_value()) scored.push_back(*value);
  }
  return SampleMoments(scored);
}

double Fraction(int64_t count, size_t of) {
  return of == 0 ? 0.0 : static_cast<double>(count) / static_cast<double>(of);
}

}  // namespace

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

absl::optional<double> WeightedSum(const ScoreRow& scores, const std::vector<double>& weights) {
  WB_CHECK(scores.size() == weights.size(), "every score has a weight");
  double sum = 0;
  bool any = false;
  for (size_t k = 0; k < scores.size(); ++k) {
    if (!scores[k].has_value()) continue;
    sum += weights[k] * *scores[k];
    any = true;
  }
  return any ? absl::optional<double>(sum) : absl::nullopt;
}

Advantages GroupAdvantages(const std::vector<absl::optional<double>>& rewards,
                           const std::vector<uint64_t>& group_ids,
                           proto::LearnerConfig::ScaleRewards scale) {
  WB_CHECK(rewards.size() == group_ids.size(), "every reward belongs to a group");
  const std::map<uint64_t, Moments> groups = GroupMoments(rewards, group_ids);
  const Moments batch = BatchMoments(rewards);
  Advantages result;
  result.reward_mean = batch.mean;
  result.reward_deviation = batch.deviation;
  int64_t num_constant = 0;
  for (size_t i = 0; i < rewards.size(); ++i) {
    const Moments& group = groups.at(group_ids[i]);
    const double deviation =
        scale == proto::LearnerConfig::BATCH ? batch.deviation : group.deviation;
    num_constant += deviation <= kZeroDeviation;
    double advantage = 0;
    if (rewards[i].has_value()) {
      advantage = *rewards[i] - group.mean;
      if (scale != proto::LearnerConfig::NONE) advantage /= deviation + kDeviationEpsilon;
      if (std::isnan(advantage)) advantage = 0;
    }
    result.advantage.push_back(advantage);
  }
  result.fraction_zero_deviation = Fraction(num_constant, rewards.size());
  return result;
}

Advantages NormalizedSumAdvantages(const std::vector<ScoreRow>& scores,
                                   const std::vector<double>& weights,
                                   const std::vector<uint64_t>& group_ids) {
  WB_CHECK(scores.size() == group_ids.size(), "every row of scores belongs to a group");
  Column totals, sums;
  std::map<uint64_t, int64_t> num_scored;
  for (size_t i = 0; i < scores.size(); ++i) {
    totals.push_back(WeightedSum(scores[i], weights));
    num_scored[group_ids[i]] += totals.back().has_value();
    // A scored row stays in the batch's moments even where none of its columns can be normalised.
    sums.push_back(totals.back().has_value() ? absl::optional<double>(0.0) : absl::nullopt);
  }
  for (size_t k = 0; k < weights.size(); ++k) {
    Column column;
    for (const ScoreRow& row : scores) column.push_back(row[k]);
    const std::map<uint64_t, Moments> groups = GroupMoments(column, group_ids);
    for (size_t i = 0; i < column.size(); ++i) {
      if (!column[i].has_value()) continue;
      const Moments& group = groups.at(group_ids[i]);
      const double z = (*column[i] - group.mean) / (group.deviation + kDeviationEpsilon);
      if (!std::isnan(z)) *sums[i] += weights[k] * z;
    }
  }
  const Moments rewards = BatchMoments(totals), batch = BatchMoments(sums);
  Advantages result;
  result.reward_mean = rewards.mean;
  result.reward_deviation = rewards.deviation;
  result.fraction_zero_deviation = batch.deviation <= kZeroDeviation ? 1 : 0;
  for (size_t i = 0; i < sums.size(); ++i) {
    double advantage = 0;
    if (sums[i].has_value() && num_scored[group_ids[i]] > 1) {
      advantage = (*sums[i] - batch.mean) / (batch.deviation + kDeviationEpsilon);
      if (std::isnan(advantage)) advantage = 0;
    }
    result.advantage.push_back(advantage);
  }
  return result;
}

}  // namespace wideberth::learner
