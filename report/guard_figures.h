// SPDX-License-Identifier: Apache-2.0
// A guard's own table: how well it tells harmful from harmless, refusals from compliance, on
// labelled sets; per set and weighted by their rows, as GuardReasoner reports. Pure functions; used
// by `wideberth evaluate --guard` and by the report, which reads it again (guard_folder.h).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "report/classification.h"

namespace wideberth::report {

struct GuardedRow {
  std::string origin;  // "file:line"
  std::string prompt, response;
  bool positive = false;               // The label.
  absl::optional<double> probability;  // Of the positive class; empty: no verdict, and
  std::string failure, message;        // then "MALFORMED_OUTPUT" or another status, and why.
  absl::optional<double> latency_ms;   // Where the row was asked alone.
};

struct GuardedSet {
  std::string name, file, task;
  std::vector<GuardedRow> rows;
  int64_t num_tokens = 0;      // Read and written, over all rows with a verdict.
  int64_t num_unlabelled = 0;  // Left out: no label.
  int64_t num_trained_on = 0;  // Left out: the guard was trained or calibrated on them.
};

// "false_positive", "false_negative", "no_verdict"; empty where the guard is right.
std::string MistakeOf(const GuardedRow& row, double threshold);

struct GuardFigures {
  // A row without a verdict counts once, as wrong and certain of it: probability 0 where the label
  // is positive, else 1. A set that is refused as a whole (REFUSED_INPUT) is not measured.
  Classification figures;
  absl::optional<double> false_positive_rate;  // Empty without a negative.
  std::map<std::string, int64_t> failures;     // Rows without a verdict, by status.
  int64_t num_unparsable = 0;                  // Those of MALFORMED_OUTPUT.
  absl::optional<double> latency_p50_ms, latency_p95_ms, tokens_per_query;
  int64_t num_latencies = 0;
  std::string note;  // Why nothing was measured.
};
GuardFigures FiguresOf(const GuardedSet& set, double threshold = 0.5);

// The mean of every figure over the sets of a task, weighted by rows; sets without it are left out.
struct WeightedFigures {
  std::string task;
  int64_t num_sets = 0, num = 0, num_unparsable = 0;
  absl::optional<double> f1, precision, recall, auroc, auprc, false_positive_rate, ece;
};
std::vector<WeightedFigures> WeightedByRows(absl::Span<const GuardedSet> sets,
                                            absl::Span<const GuardFigures> figures);

// How and by whom it was asked, for the heads of table and JSON.
struct GuardAsked {
  std::string scorer, kind, model, adapter, model_fingerprint, template_hash;
  double threshold = 0.5;
};

// What a reader of the set's figures must know: why it was not measured, rows that are left out or
// without a verdict.
std::vector<std::string> NotesOf(const GuardedSet& set, const GuardFigures& figures);

// Plain text, at most 120 columns, with notes below.
std::string GuardTableText(const GuardAsked& asked, absl::Span<const GuardedSet> sets,
                           absl::Span<const GuardFigures> figures);
// {"scorer", ..., "sets": [...], "weighted": {task: {...}}}, null where a figure is empty.
std::string GuardTableJson(const GuardAsked& asked, absl::Span<const GuardedSet> sets,
                           absl::Span<const GuardFigures> figures);
// A line per false positive, false negative and row without a verdict, the surest mistakes of a set
// first: {"set", "task", "origin", "mistake", "positive", "probability", "prompt", "response"},
// and "status" and "message" where there is no verdict.
std::string ConfusionLines(absl::Span<const GuardedSet> sets, double threshold);

}  // namespace wideberth::report
