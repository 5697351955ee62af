// SPDX-License-Identifier: Apache-2.0
// Typed scores -> rewards, one per completion. Pure arithmetic without torch; used by the learner
// before advantages.h, and by evaluation. A completion whose needed scores are missing gets no
// reward, never a zero, and has no influence on the others' rewards.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "learner/advantages.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"

namespace wideberth::learner {

// What the scorers said of one completion; empty: not scored.
struct CompletionScores {
  absl::optional<double> utility;              // u, unbounded
  std::vector<absl::optional<double>> guards;  // t in [0, 1], in the order of RewardConfig.guard or
                                               // of its `harm`
  std::vector<absl::optional<double>> terms;   // In the order of RewardConfig.term
};

struct GroupScores {
  absl::optional<bool> unsafe;  // The prompt's label, for PROMPT_AWARE; empty: unlabelled.
  std::vector<CompletionScores> completions;
};

struct CompletionReward {
  absl::optional<double> reward;  // Empty: unscored.
  absl::optional<double> t;       // Largest over the guards; empty if any guard's score is missing.
  absl::optional<double> utility;             // u as scored.
  absl::optional<double> normalized_utility;  // utility_weight * normalised u; present with
                                              // `reward` in forms that need u.
  // The columns that NORMALIZE_THEN_SUM normalises one by one, weighted by TermWeights: the scores
  // as they came for WEIGHTED_SUM, otherwise the utility term and the boundary term of the form
  // (those it has). Their weighted sum is `reward`; all empty where that is.
  ScoreRow terms;
};

// The weights of CompletionReward.terms, one for each: RewardConfig.term's for WEIGHTED_SUM,
// otherwise 1.
std::vector<double> TermWeights(const proto::RewardConfig& config);

// Picks each completion's scores by scorer name. A score counts where its status is SCORED and its
// value finite (in [0, 1] for a guard).
GroupScores GatherScores(const proto::RewardConfig& config, absl::optional<bool> unsafe,
                         const std::vector<const proto::Completion*>& completions);

// Which scores the form needs: guards in their order, then the utility; the terms' scorers for
// WEIGHTED_SUM.
std::vector<std::string> NeededScorers(const proto::RewardConfig& config);

// What to do about a score that came back as `status`, which is not SCORED.
proto::RewardConfig::MissingRule MissingRuleFor(const proto::RewardConfig& config,
                                                proto::ScoreStatus status);

// InvalidArgument with one sentence naming field, value found and expected: names no scorer has, a
// guard whose scores are not probabilities, tau outside [0, 1], numbers that are not finite, a
// scale that is not positive, negative retries.
absl::Status ValidateRewardConfig(const proto::RewardConfig& config,
                                  const std::vector<proto::ScorerConfig>& scorers);

// Expected utility of generator and filter together: -(1 - t) lambda where t >= tau (blocked), u -
// t below (shown).
double CompoundUtility(double t, double u, double lambda, double tau);

// Whether t lies within 0.1 of 0.5, exclusive: the mass training should shrink.
bool InBoundaryMass(double t);

// Not thread-safe. Normalisations of u, with standard deviations over n - 1 and 1e-4 added to them
// as advantages.h does:
//   GROUP_ZSCORE    over the group's completions that get a reward (a single one: 0)
//   RUNNING_ZSCORE  over all utilities of completions that got a reward in `Compose` so far, this
//                   call's included
//   SIGMOID         sigmoid((u - mu) / s); mu and s from the configuration, or running like the
//                   above where unset
//   STANDARD        (u - mu) / s from the configuration, cut to +-utility_clip
// With fewer than two utilities seen the running deviation is 1.
// Forms, with v = utility_weight * normalised u and c = boundary_coefficient:
//   BOUNDARY v +- c t | ABSOLUTE v + c |t - tau| | SQUARED v + c (t - tau)^2 | GUARD_ONLY +- c t |
//   PROMPT_AWARE v + c t unsafe, v - c t safe COMPOUND CompoundUtility(t, v, lambda, tau) | U_ONLY
//   v | U_MINUS_T v - c t          (+- : + where t >= tau)
//   With `harm`, c t stands for c times the sum of weight_k t_k, each with its own sign, |t - tau|
//   and (t - tau)^2 likewise; COMPOUND blocks where any t_k >= tau_k, and its t is then the
//   largest. WEIGHTED_SUM: sum of weight * score over RewardConfig.term, where all of them are
//   there
class RewardComposer {
 public:
  explicit RewardComposer(proto::RewardConfig config) : config_(std::move(config)) {}

  // The groups of one training step: first adds their utilities to the running statistics, then
  // composes. Called once per step, in the same order on a replay. result[i][j]: completion j of
  // groups[i]. InvalidArgument for an unlabelled prompt under PROMPT_AWARE, or a number of guard
  // scores that differs from the configuration's; the statistics are unchanged then.
  absl::StatusOr<std::vector<std::vector<CompletionReward>>> Compose(
      const std::vector<GroupScores>& groups);

  // The same without adding to the statistics, for evaluation.
  absl::StatusOr<std::vector<std::vector<CompletionReward>>> Evaluate(
      const std::vector<GroupScores>& groups) const;

  // The running statistics, for checkpoints; exact. Restore: InvalidArgument where `state` is not
  // from Serialize.
  std::string Serialize() const;
  absl::Status Restore(absl::string_view state);

  int64_t num_observed() const { return count_; }
  double running_mean() const { return mean_; }
  double running_deviation() const;  // n - 1, without the 1e-4; 1 with fewer than two.

 private:
  absl::Status Check(const GroupScores& group) const;
  std::vector<CompletionReward> ComposeGroup(const GroupScores& group) const;
  void NormalizeUtilities(std::vector<CompletionReward>* rewards) const;
  bool Rewardable(const CompletionScores& scores) const;

  proto::RewardConfig config_;
  int64_t count_ = 0;
  double mean_ = 0;
  double sum_squares_ = 0;  // Of deviations from the mean (Welford).
};

}  // namespace wideberth::learner
