// SPDX-License-Identifier: Apache-2.0
// The one progress line of `wideberth run`, from the metrics.jsonl that the learner appends to.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"

namespace wideberth::launch {

// One step, as far as its line has it.
struct StepMetrics {
  int64_t step = 0;
  absl::optional<int64_t> max_steps;  // Where the configuration alone does not say it.
  absl::optional<double> loss, reward, t, boundary_mass, kl, tokens_per_second;
};

// nullopt for what is no line of a step.
absl::optional<StepMetrics> ParseStepMetrics(absl::string_view json_line);

// "step 3/40  loss 0.731  812 tok/s  ETA 2m10s", or of an RL run, which has rewards,
// "step 3/40  reward 0.512  t 0.214  near 0.5 12.5 %  KL 0.0031  812 tok/s  ETA 2m10s"; what is
// missing is left out.
std::string ProgressLine(const StepMetrics& metrics, int64_t max_steps,
                         absl::optional<absl::Duration> remaining);

// Reads what was appended since the last call. Not thread-safe.
class MetricsTail final {
 public:
  explicit MetricsTail(std::string path) : path_(std::move(path)) {}
  // The newest step, if a new one is there.
  absl::optional<StepMetrics> Poll();

 private:
  const std::string path_;
  int64_t offset_ = 0;
  std::string unfinished_;
};

// The time left, from when steps were seen: the mean of all steps but the first, which is slower
// than the others.
class Eta final {
 public:
  void Note(int64_t step, absl::Time now);
  absl::optional<absl::Duration> Remaining(int64_t max_steps) const;

 private:
  absl::optional<std::pair<int64_t, absl::Time>> first_;
  int64_t last_step_ = 0;
  absl::Time last_time_;
};

// Shows progress where people look: in place on a terminal, as timestamped lines elsewhere.
class ProgressDisplay final {
 public:
  explicit ProgressDisplay(bool terminal) : terminal_(terminal) {}
  ~ProgressDisplay() { Clear(); }
  void Show(const std::string& line);  // Replaces the line before (terminal) or follows it.
  void Say(const std::string& line);   // Stays.
  void Clear();

 private:
  const bool terminal_;
  bool shown_ = false;
};

}  // namespace wideberth::launch
