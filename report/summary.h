// SPDX-License-Identifier: Apache-2.0
// The end of a run in numbers: held-out prompts answered by the base model and by the trained
// policy with the same seeds, compared prompt by prompt. Filled by the learner, written as
// summary.json and as a table for people.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/optional.h"

namespace wideberth::report {

// One answer to one held-out prompt.
struct Answer {
  std::string text;
  int64_t num_tokens = 0;
  bool stopped = true;       // False: cut at max_new_tokens.
  absl::optional<double> u;  // Empty: not scored, which is never a zero.
  absl::optional<double> t;
  absl::optional<double> reward;
  absl::optional<double> kl;  // k3 to the base, mean per token, nats; empty: not measured.
};

// All answers to one prompt, before and after; completion i before and after share their random
// numbers.
struct PromptPair {
  std::string prompt_id;
  std::string prompt;  // The last user message.
  std::vector<Answer> before;
  std::vector<Answer> after;  // Empty where the run ended earlier.
};

// A mean over prompts with a 95 % interval of a paired bootstrap over prompts.
struct Difference {
  double mean = 0;
  double low = 0;
  double high = 0;
  int64_t num_prompts = 0;  // Prompts with a value on both sides.
};

// One line of the table.
struct Row {
  std::string key;                // "u_mean"
  std::string label;              // "mean u (utility)"
  absl::optional<double> before;  // Over all answers that have a value.
  absl::optional<double> after;
  absl::optional<Difference> difference;
};

struct Summary {
  std::string name, run_id, run_dir;
  std::string ended;    // "completed", "stopped" (asked to) or "failed".
  std::string message;  // Why, where not completed.
  int64_t steps = 0, max_steps = 0;
  uint64_t policy_version = 0;
  double seconds = 0;  // From the first lease to the end.
  double training_seconds = 0;
  std::string adapter_path, adapter_fingerprint, base_model, base_fingerprint;
  std::vector<std::pair<std::string, std::string>>
      settings;  // Reward form, normalisation, ...: every result states which was used.
  std::vector<std::pair<std::string, double>> totals;  // Counters of the run.
  std::vector<PromptPair> evaluation;                  // Empty: none configured or none finished.
  uint64_t seed = 0;
  int num_examples = 4;
};

// mean(after) - mean(before) over prompts where both sides have a value, each prompt's answers
// averaged first. 2,000 resamples with random numbers from `seed`; fewer than two prompts: an
// interval of no width. Empty where no prompt has both.
absl::optional<Difference> PairedDifference(
    const std::vector<PromptPair>& pairs,
    const std::function<absl::optional<double>(const Answer&)>& value, uint64_t seed);

// Mean u, t, reward, mass of t within 0.1 of 0.5 (exclusive), KL to the base, lengths, answers cut
// off and answers not scored.
std::vector<Row> CompareBeforeAfter(const Summary& summary);

// The prompts whose answers changed, largest change of t first, then the others in order.
std::vector<const PromptPair*> Examples(const Summary& summary);

std::string SummaryJson(const Summary& summary);   // Indented, with a final newline.
std::string SummaryTable(const Summary& summary);  // Plain text, at most 100 columns.

}  // namespace wideberth::report
