// SPDX-License-Identifier: Apache-2.0
// Temperature scaling of a guard's log-odds (Guo et al. 2017), and what it changes. Pure.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "report/classification.h"

namespace wideberth::learner {

struct ScoredLabel {
  double log_odds = 0;  // Of positive against negative; finite.
  bool positive = false;
  std::string source;  // May be empty.
};

// Mean of -log sigmoid(+-log_odds / temperature), nats. Not of nothing.
double CalibrationLoss(absl::Span<const ScoredLabel> scored, double temperature);

// The temperature between 0.01 and 100 that minimises it; the loss is convex in the inverse, so
// there is one. InvalidArgument unless both classes are there.
absl::StatusOr<double> FitTemperature(absl::Span<const ScoredLabel> scored);

struct GuardFigures {
  double temperature = 1;
  double nll_before = 0, nll_after = 0;
  report::Classification before, after;          // Of all rows; probabilities at 1 and at T.
  std::vector<report::ClassificationRow> table;  // All rows, then each source, at T.
};
// Not of nothing.
GuardFigures FiguresOf(absl::Span<const ScoredLabel> scored, double temperature);

// calibration.json: {"temperature", "num_rows", "nll_before", ...} in one indented object.
std::string CalibrationJson(const GuardFigures& figures);
// For people, at most 100 columns.
std::string CalibrationTable(const GuardFigures& figures);

}  // namespace wideberth::learner
