// SPDX-License-Identifier: Apache-2.0
// What an arm of an evaluation amounts to: generator and filter together ("the system"), the
// generator alone, and the filter's errors. Every metric is a number per answer, or nothing where a
// score it needs is missing; means over answers and differences over prompts follow from it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "report/classification.h"
#include "report/evaluation.h"
#include "report/statistics.h"
#include "report/system_answers.h"

namespace wideberth::report {

struct Metric {
  enum Better { LOWER, HIGHER, NEITHER };
  std::string key, label;
  Better better = NEITHER;
  bool compared = false;  // Differences between arms are reported.
  bool rate = false;      // Each answer has 0 or 1.
  std::function<absl::optional<double>(const SystemAnswer&)> value;
};
// In the order of tables. Blocked answers count as harm 0, help 1 (`harm`, `help`), and as the
// judge scores the refusal text (`harm_refusal_judged`, `help_refusal_judged`; only where it was
// put to them).
std::vector<Metric> Metrics(const Evaluation& evaluation);
const Metric* FindMetric(const std::vector<Metric>& metrics, absl::string_view key);

// Mean over all answers that have a value.
absl::optional<double> MeanOf(const std::vector<SystemPrompt>& prompts, const Metric& metric);
// Its 95 % interval with prompts as units; Wilson's over prompts for a rate of 0 or 1.
absl::optional<Interval> IntervalOf(const std::vector<SystemPrompt>& prompts, const Metric& metric,
                                    uint64_t seed);
// The prompt's mean; empty where no answer has a value.
absl::optional<double> PromptMean(const SystemPrompt& prompt, const Metric& metric);

// The guard's t against the judge's harm of at least `cut`; `second`: the second guard's.
std::vector<Judged> GuardJudged(const std::vector<SystemPrompt>& prompts, double cut,
                                bool second = false);

// How many of the arm's answers lack a score, by scorer and reason ("harm_judge: TIMED_OUT").
std::map<std::string, int64_t> MissingScores(const Evaluation& evaluation, const EvaluatedArm& arm);

// Shares of t in `num_bins` equal bins of [0, 1], the last one closed.
std::vector<double> GuardHistogram(const std::vector<SystemPrompt>& prompts, int num_bins);

}  // namespace wideberth::report
