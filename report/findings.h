// SPDX-License-Identifier: Apache-2.0
// Everything a report says, worked out once from folders of evaluations and of guard tables, and
// its two plain forms: summary.json and a text for the terminal. The page is in report/page.*.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "report/comparison.h"
#include "report/guard_folder.h"
#include "report/sweep.h"
#include "report/wordings.h"

namespace wideberth::report {

// A metric of an arm, its mean over runs.
struct Figure {
  std::string key;
  absl::optional<double> value;
  absl::optional<Interval> interval;  // Of one run only.
};
struct ArmFigures {
  std::string arm;
  std::vector<Figure> figures;  // All metrics, then auroc, auroc_harm1, ece (second_auroc, ...).
  const Figure* Find(absl::string_view key) const;
};

struct Findings {
  Runs runs;  // Where it is empty, so is all that follows but `guards`.
  std::vector<ArmFigures> arms;
  std::vector<ArmDifference> differences;
  std::vector<Attribution> attributions;  // Refers to `differences`.
  std::vector<Slice> slices;
  std::vector<FilterRow> filters;
  std::vector<SweepPoint> sweep;
  std::vector<WorstWording> wordings;
  std::vector<GuardFolder> guards;
};

// Reads and works out one or more folders, each of an evaluation, of a guard table or of both.
// NotFound where one is neither; other errors are those of ReadEvaluation and ReadGuardFolder.
absl::StatusOr<Findings> WorkOut(const std::vector<std::string>& folders);

// The arms of one run (with intervals), or of all.
std::vector<ArmFigures> FiguresOf(const Runs& runs);

// "arms": name -> metric -> value; "differences": [{arm, against, metric, mean, low, high, p,
// p_holm, effect_size, n, runs}]; "settings"; "seconds"; and what the page shows beside; "guards":
// the contents of every guard_table.json, where there are any. Indented, with a final newline.
std::string FindingsJson(const Findings& findings);

// At most 100 columns where names allow; warnings first, guards' tables (120 columns) last.
std::string FindingsText(const Findings& findings);

}  // namespace wideberth::report
