// SPDX-License-Identifier: Apache-2.0
// How well probabilities separate two classes: the figures a guard is judged by, with the
// definitions of scikit-learn and torchmetrics. Pure functions; used by guard training and
// `wideberth score`.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace wideberth::report {

struct Judged {
  double probability = 0;  // Of the positive class, in [0, 1]; AUROC and AUPRC take any finite one.
  bool positive = false;   // The label.
};

// Area under the ROC curve; a tie of a positive and a negative counts one half. Empty unless both
// classes are there.
absl::optional<double> Auroc(absl::Span<const Judged> judged);

// Average precision: sum over distinct probabilities, from the highest, of the recall gained times
// the precision reached. Empty without a positive.
absl::optional<double> AveragePrecision(absl::Span<const Judged> judged);

// Expected calibration error: |mean probability - share of positives| of `num_bins` equal bins
// [k/n, (k+1)/n), the last one closed, weighted by the bins' sizes. Empty without an item.
absl::optional<double> ExpectedCalibrationError(absl::Span<const Judged> judged, int num_bins = 15);

// One of the `num_bins` bins above.
struct CalibrationBin {
  int64_t num = 0;
  double probability = 0;  // Mean of the bin's items; 0 without one, as is the share.
  double positives = 0;    // Share of them.
};
std::vector<CalibrationBin> CalibrationBins(absl::Span<const Judged> judged, int num_bins = 15);

struct Classification {
  int64_t num = 0;
  int64_t num_positive = 0;
  absl::optional<double> auroc, auprc;
  // "Positive" is said where the probability is at least the threshold. A share of nothing is 0, as
  // in scikit-learn; all are empty without an item.
  absl::optional<double> precision, recall, f1, accuracy;
  absl::optional<double> ece;
};
Classification Classify(absl::Span<const Judged> judged, double threshold = 0.5);

// One line of the table: all items, or those of one source.
struct ClassificationRow {
  std::string name;
  Classification figures;
  int64_t num_unscored = 0;  // Labelled items without a score; they are in no figure.
};

// Plain text, at most 100 columns, with a final newline; "-" where a figure is empty.
std::string ClassificationTable(const std::vector<ClassificationRow>& rows);
// One line: {name: {"num", "num_positive", "num_unscored", "auroc", ...}}, null where empty.
std::string ClassificationJson(const std::vector<ClassificationRow>& rows);

}  // namespace wideberth::report
