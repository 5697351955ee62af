// SPDX-License-Identifier: Apache-2.0
// The completions of a step with their scores, reward and advantage, as a table for people and as
// JSON lines. Used by `wideberth completions` and by `wideberth run` with learner.log_completions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace wideberth::report {

struct CompletionScore {
  std::string scorer;
  absl::optional<double> value;
  std::string status;  // "SCORED", or why there is no value.
};

struct CompletionRow {
  int64_t step = 0;
  uint64_t group_id = 0;
  int64_t index = 0;  // Within the group.
  std::string prompt_id, prompt, completion;
  std::string finish_reason;  // "STOP"
  int64_t num_tokens = 0;
  std::vector<CompletionScore> scores;
  absl::optional<double> reward;  // Empty: unscored.
  double advantage = 0;
};

// A header and a line a row, at most `width` bytes each unless there are many scorers: group,
// prompt and completion shortened to what is left, a column per scorer in order of first mention,
// reward, advantage; "-" where there is none.
std::string CompletionsTable(const std::vector<CompletionRow>& rows, int width = 100);

// One JSON object without a line break; bytes that are no character become U+FFFD.
std::string CompletionJson(const CompletionRow& row);

// The text in one line, at most `width` bytes; what is cut off is shown by "..". Cuts between
// characters, control characters become spaces.
std::string Shortened(absl::string_view text, int width);

}  // namespace wideberth::report
