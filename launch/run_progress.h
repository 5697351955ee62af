// SPDX-License-Identifier: Apache-2.0
// The table of steps that `wideberth run` shows, a row a step, from the metrics.jsonl that the
// learner appends to.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"

namespace wideberth::launch {

// One step, as far as its line has it.
struct StepMetrics {
  int64_t step = 0;
  absl::optional<int64_t> max_steps;  // Where the configuration alone does not say it.
  absl::optional<double> reward, t, boundary_mass, u, kl, loss, grad_norm, length,
      tokens_per_second, seconds;
};

// How far an arm of an evaluation is.
struct ArmProgress {
  std::string arm;
  int64_t index = 0, num_arms = 0;
  int64_t answered = 0, of = 0;  // Prompts.
  double seconds = 0;            // Since the arm began.
};
// nullopt for what is no such line.
absl::optional<ArmProgress> ParseArmProgress(absl::string_view json_line);
// "arm boundary (2 of 3): 300 of 600 prompts, 41.2/s, 7.3s left".
std::string ArmLine(const ArmProgress& progress);

// nullopt for what is no line of a step.
absl::optional<StepMetrics> ParseStepMetrics(absl::string_view json_line);

// Columns of fixed width, 98 in all: step, reward, t, near (share of t within 0.1 of 0.5), u, KL,
// loss, norm (of the gradient), length (tokens of a completion), tok/s, time (of the step), left
// (until max_steps). What is missing is "-".
std::string TableHeader();
std::string TableRow(const StepMetrics& metrics, int64_t max_steps,
                     absl::optional<absl::Duration> remaining);

// At most `width` characters: four significant digits, or an exponent where they do not fit.
std::string CompactNumber(double value, int width);

// Reads what was appended since the last call. Not thread-safe.
class MetricsTail final {
 public:
  explicit MetricsTail(std::string path) : path_(std::move(path)) {}
  // The new steps, in order; `arms` receives the lines of an evaluation.
  std::vector<StepMetrics> Poll(std::vector<ArmProgress>* arms = nullptr);

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

// Puts rows under a header that is repeated now and then, and sentences between them.
class ProgressDisplay final {
 public:
  // Sentences are timestamped where no terminal shows when they come.
  explicit ProgressDisplay(bool terminal) : terminal_(terminal) {}
  void ShowRow(const std::string& row);
  void Say(const std::string& line);
  void ShowBlock(const std::string& text);  // As it is; a header follows it.

 private:
  const bool terminal_;
  int rows_to_header_ = 0;
};

}  // namespace wideberth::launch
