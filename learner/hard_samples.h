// SPDX-License-Identifier: Apache-2.0
// Hard-sample mining for HS-DPO (GuardReasoner, arXiv 2501.18492): of the answers that a run's
// actors sampled for labelled prompts, those prompts that were answered both rightly and wrongly
// become preference pairs. Used by `wideberth mine`. No torch here.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "learner/journal.h"
#include "learner/prompts.h"
#include "proto/wire.pb.h"

namespace wideberth::learner {

struct SampledAnswer {
  std::string text;
  bool truncated = false;  // By max_new_tokens.
};

struct SampledItem {
  proto::Prompt prompt;
  std::vector<SampledAnswer> answers;
};

// The answers to every prompt among a journal's training groups, in order of its first group;
// groups that were dropped or leased again do not count. FailedPrecondition where a group's prompt
// has another id in `prompts`: the files have changed since the run.
absl::StatusOr<std::vector<SampledItem>> SampledItems(const std::vector<JournalGroup>& groups,
                                                      const PromptSet& prompts);

// Prompt id -> label, in lower case, from JSON lines {"id", "label"}. An id may be a whole number,
// as in prompts; prompts without one are called "file:line". Further fields are passed over.
// InvalidArgument names file:line: not JSON, a missing or empty field, one of another type, an id
// that comes twice; and a file without any row.
absl::StatusOr<std::map<std::string, std::string>> ReadLabels(const std::string& path);

// The word behind `prefix` on the answer's last line that begins with it (spaces and Markdown marks
// before it aside), in lower case; case does not matter. Empty where there is no such line, no word
// on it, or it is where a truncated answer breaks off.
absl::optional<std::string> ReadVerdict(const SampledAnswer& answer, absl::string_view prefix);

struct HardSample {
  proto::Prompt prompt;
  std::string chosen, rejected;
  int64_t num_right = 0, num_wrong = 0;
  double weight = 1;
};

struct MinedSamples {
  std::vector<HardSample> samples;                               // In the items' order.
  int64_t num_unlabelled = 0;                                    // Items.
  int64_t num_all_right = 0, num_all_wrong = 0, num_unread = 0;  // Labelled items without a pair.
  int64_t num_unread_answers = 0;  // Of labelled items: no verdict, or one that is no label.
};

// Pairs the longest right with the longest wrong answer of every item that has both, the first of
// equals. Its weight is 1 + gamma * (2 (x - min) / (max - min) - 1) with x = wrong - right answers,
// min and max over all pairs; 1 where all have the same x. An answer is right when its verdict is
// its item's label, wrong when it is another label of `labels`. 0 <= gamma < 1.
MinedSamples MineHardSamples(const std::vector<SampledItem>& items,
                             const std::map<std::string, std::string>& labels,
                             absl::string_view prefix, double gamma);

}  // namespace wideberth::learner
