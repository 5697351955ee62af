// SPDX-License-Identifier: Apache-2.0
// What an EVALUATE run leaves for report/: evaluation.json says what was compared and how,
// answers.jsonl has every answer with its scores.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "learner/arms.h"
#include "learner/journal.h"
#include "learner/prompts.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

struct EvaluationFacts {
  std::string run_id;
  std::string ended;    // "completed", "stopped" or "failed".
  std::string message;  // Why, where not completed.
  absl::Time created;
  int64_t num_prompts = 0;
  int64_t num_trained_prompts = 0;
  std::string base_fingerprint;
  std::map<std::string, double> seconds;  // By phase: an arm's name, "all".
};

// With a final newline.
std::string EvaluationJson(const proto::RunConfig& config, const std::vector<Arm>& arms,
                           const EvaluationFacts& facts);
// One line for each group that was answered for good, arm by arm in order of prompt. A missing
// score is named among the failures, never a number. With `redact` prompts are hashes; answers are
// what the journal has.
std::string AnswerLines(const std::vector<JournalGroup>& groups, const std::vector<Arm>& arms,
                        const PromptSet& prompts, bool redact);

}  // namespace wideberth::learner
