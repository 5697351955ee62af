// SPDX-License-Identifier: Apache-2.0
// Arms against each other, prompt by prompt: what changed, how sure that is, how much of it the
// boundary term explains (in words: claims.h). Several evaluations (seeds, settings) are
// pooled with prompts nested in runs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "report/arm_metrics.h"
#include "report/evaluation.h"
#include "report/statistics.h"

namespace wideberth::report {

// An evaluation worked out. Not movable: arms and metrics refer to the evaluation.
struct EvaluatedRun {
  explicit EvaluatedRun(Evaluation read);
  EvaluatedRun(const EvaluatedRun&) = delete;
  EvaluatedRun& operator=(const EvaluatedRun&) = delete;

  const Evaluation evaluation;
  const std::vector<SystemArm> arms;
  const std::vector<Metric> metrics;

  const SystemArm* Find(absl::string_view arm) const;
};
using Runs = std::vector<std::shared_ptr<const EvaluatedRun>>;

constexpr uint64_t kStatisticsSeed = 20250713;  // Same folder, same figures.
constexpr double kSignificant = 0.05;           // Of p after Holm's correction.
constexpr int64_t kFewestPrompts = 10;          // For an interval of a category.

// mean(arm) - mean(against) of a metric over the prompts that both have a value of.
struct ArmDifference {
  std::string arm, against, metric;
  PairedTest test;
  double p_holm = 1;              // Over all of the list.
  std::vector<double> run_means;  // Of each run that has both.

  bool Significant() const { return p_holm < kSignificant; }
};

// "BOUNDARY", "U_ONLY", ...: of the arm's training, or its name where that does not say; empty:
// neither does.
std::string RewardFormOf(const EvaluatedArm& arm);
// The arm the page is about: the first trained with BOUNDARY, otherwise the first that is not the
// base; empty if there is none.
std::string HeadlineArm(const Runs& runs);
// All arms trained with BOUNDARY; where there is none, the first that is not the base.
std::vector<std::string> HeadlineArms(const Runs& runs);
// The names of all arms, in order of first mention.
std::vector<std::string> ArmNames(const Runs& runs);

// Every arm against the base, and every boundary arm against its controls (u alone, u - t, the
// compound utility), over all metrics that are compared. Harm and help with filter are what the
// method is judged by, so Holm's correction takes them as one family and everything else as
// another. Metrics that equal another's on every prompt (the second scoring of blocked answers in
// the toy world) are left out.
std::vector<ArmDifference> CompareArms(const Runs& runs);
const ArmDifference* FindDifference(const std::vector<ArmDifference>& differences,
                                    absl::string_view arm, absl::string_view against,
                                    absl::string_view metric);

// Prompts whose source is "wording:ID" are wordings of the request ID (wordings.h).
inline constexpr char kWordingSource[] = "wording:";

// The prompts of one category or of one source.
struct Slice {
  std::string kind, name;  // "category", "harm"
  int64_t num_prompts = 0;
  struct Row {
    std::string arm;
    absl::optional<double> harm, help, harm_unfiltered, help_unfiltered, shown, boundary_mass;
    // Against the base; empty for the base itself and with fewer than kFewestPrompts prompts.
    absl::optional<ArmDifference> harm_change, help_change;  // Holm over all slices of a kind.
  };
  std::vector<Row> rows;
};
std::vector<Slice> CompareSlices(const Runs& runs);

// How much of a boundary arm's gain over base + filter its boundary term explains.
struct Attribution {
  std::string arm, control, metric;
  const ArmDifference* gain = nullptr;          // arm - base
  const ArmDifference* control_gain = nullptr;  // control - base
  const ArmDifference* own = nullptr;           // arm - control
  absl::optional<double> share;                 // own / gain; empty unless the gain is significant.
  absl::optional<Interval> interval;            // Of the share.
  std::vector<std::string> differing;           // Other settings in which the two trainings differ.
  bool higher_is_better = false;
};
// For harm and help. Refers to `differences`.
std::vector<Attribution> Attribute(const Runs& runs, const std::vector<ArmDifference>& differences);

}  // namespace wideberth::report
