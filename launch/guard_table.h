// SPDX-License-Identifier: Apache-2.0
// `wideberth evaluate --guard`: a scorer on labelled sets, without any server, and the table of how
// well it does.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "report/guard_figures.h"

namespace wideberth::launch {

// Where labelled rows come from: JSON lines with a prompt, a response (absent or null where the
// label is about the prompt) and a label.
struct GuardSource {
  std::string path;
  std::string
      task;  // "prompt_harm", "response_harm", "refusal"; empty: what the rows' "task" says.
  std::string prompt_field = "prompt", response_field = "response", label_field = "label";
  // Labels that are positive, all others are negative; empty: the usual words, true and 1.
  std::vector<std::string> positive_labels;
};

// Rows with their labels, no verdict yet. InvalidArgument or NotFound names file:line, the field,
// what was found and what was expected.
absl::StatusOr<report::GuardedSet> ReadGuardedSet(const GuardSource& source);

// Leaves guard_table.json, guard_table.txt and confusions.jsonl in the folder --out.
absl::Status GuardTable(const std::vector<std::string>& arguments);

}  // namespace wideberth::launch
