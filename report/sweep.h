// SPDX-License-Identifier: Apache-2.0
// The same answers behind other filters: the threshold moved, another rule, another price of
// blocking what was safe. Nothing is generated or scored again.
#pragma once

#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "report/comparison.h"

namespace wideberth::report {

// An arm behind a threshold.
struct SweepPoint {
  std::string arm;
  double tau = 0;
  absl::optional<double> harm, help, shown;
  std::vector<absl::optional<double>> utility;  // For each of kLambdas.
  bool on_front = false;  // No other point has less harm and no less help, or more help and no more
                          // harm.
};
inline constexpr double kLambdas[] = {0, 0.5, 1, 2, 4};

// tau = 0.05, 0.1 ... 0.95, the evaluation's own, and 1.01 which shows everything; arms in order.
// Means over runs.
std::vector<SweepPoint> SweepThresholds(const Runs& runs);

// Marks the points that no other dominates; those without harm or help are none.
void MarkParetoFront(std::vector<SweepPoint>* points);

// An arm behind one of the filters.
struct FilterRow {
  std::string filter, arm;
  absl::optional<double> harm, help, utility, shown, clear_errors, errors_harm2, errors_harm1;
};
// The threshold, the thresholds per kind of harm (where there are several kinds) and the welfare
// filter (where there is a utility). Means over runs.
std::vector<FilterRow> CompareFilters(const Runs& runs);

}  // namespace wideberth::report
