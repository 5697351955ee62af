// SPDX-License-Identifier: Apache-2.0
// What one optimiser step tells: the line of metrics.jsonl, the Prometheus values and the short
// history on the learner's page.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "base/mutex.h"
#include "learner/group_pool.h"
#include "learner/lease_table.h"
#include "learner/screening.h"
#include "learner/train_step.h"
#include "transport/metrics.h"

namespace wideberth::learner {

// Seconds of wall time; the parts of `train` are in StepMetrics.
struct StepSeconds {
  double total = 0;  // Since the step before ended.
  double wait = 0;   // For groups.
  double train = 0;
  double publish = 0;   // Pack, store, put on the shelf.
  double generate = 0;  // Summed over groups, by the actors.
  double score = 0;
};

// Over the completions that a scorer scored; the deviation (n - 1) is NaN with fewer than two.
struct ScorerStatistics {
  std::string name;
  double mean = 0, deviation = 0;
};

// Over completions with tokens. A terminated one ended by itself, not by its length.
struct CompletionLengths {
  int64_t num_tokens = 0;         // Of all completions.
  int64_t num_prompt_tokens = 0;  // A prompt counts once for every completion.
  int64_t num_terminated = 0;     // Completions
  double terminated_mean = 0;     // 0 without any, as are the following.
  int64_t terminated_min = 0, terminated_max = 0;
};

struct StepReport {
  int64_t step = 0;      // 1 for the first.
  uint64_t version = 0;  // That the step made; equals `step`.
  StepMetrics metrics;
  absl::optional<double> u_mean, t_mean,
      boundary_mass;  // Over scored completions; the mass of t within 0.1 of 0.5.
  std::vector<ScorerStatistics> scorers;  // By name.
  CompletionLengths lengths;
  MissingScores missing_now{};  // In this step's groups.
  int64_t num_tokens = 0;       // Prompts and completions of the run so far, as TRL counts them.
  double staleness_mean = 0;
  int64_t staleness_max = 0;
  StepSeconds seconds;
  absl::optional<double>
      sync_seconds;  // From publication of the version sampled from to its last acknowledgement.
  LeaseTable::Counters leases;  // Since the run began.
  MissingScores missing{};
  std::string fingerprint;
  double unix_time = 0;
};

// Fills scorers, lengths and missing_now from the groups of the step.
void DescribeGroups(const std::vector<AcceptedGroup>& groups, StepReport* report);

// One JSON object without a line break. Names are TRL's where the meaning is. Numbers that do not
// exist (no scores) are null.
std::string StepJson(const StepReport& report);
// For the log.
std::string StepLine(const StepReport& report, int64_t max_steps);

// The last steps, for the page. Thread-safe.
class StepHistory {
 public:
  // Registers the gauges and counters of `metrics`, which must outlive it.
  explicit StepHistory(transport::Metrics* metrics);
  void Add(const StepReport& report);
  // {"reward", "0.512  ▂▃▅▆█"}: the newest value and its course over at most 200 steps.
  std::vector<std::pair<std::string, std::string>> Facts() const;
  absl::optional<double> tokens_per_second() const;

 private:
  struct Point {
    absl::optional<double> reward, t, boundary_mass, kl;
    double tokens_per_second;
  };
  mutable Mutex mutex_;
  std::deque<Point> points_ ABSL_GUARDED_BY(mutex_);
  LeaseTable::Counters counted_ ABSL_GUARDED_BY(mutex_);
  MissingScores counted_missing_ ABSL_GUARDED_BY(mutex_){};
  transport::Metrics* const metrics_;
};

// One character of eight heights for each of at most `width` values (longer series are averaged),
// scaled to their own range; gaps for missing ones.
std::string Sparkline(const std::vector<absl::optional<double>>& values, int width);

}  // namespace wideberth::learner
