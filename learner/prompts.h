// SPDX-License-Identifier: Apache-2.0
// The prompts of a run: JSON lines read once at start, split into training and held-out prompts,
// and put in an order that depends on the seed alone. The lease table asks for the prompt of a
// group; a group's number is the data cursor. No torch here.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"

namespace wideberth::learner {

struct PromptRecord {
  proto::Prompt prompt;
  std::string origin;  // "file:line"
};

// Immutable after loading, hence thread-safe.
class PromptSet {
 public:
  // Reads every file of `config.path`, in order; empty lines are skipped. InvalidArgument names
  // file:line and what was expected: not JSON, an unknown field, a wrong type, neither or both of
  // "prompt" and "messages", an id used twice, nothing left to train on.
  // `evaluate`: nothing is trained on; without num_held_out all prompts are held out, in file
  // order.
  static absl::StatusOr<PromptSet> Load(const proto::PromptsConfig& config, uint64_t seed,
                                        bool evaluate = false);

  int64_t num_train() const { return static_cast<int64_t>(train_.size()); }
  int64_t num_held_out() const { return static_cast<int64_t>(held_out_.size()); }

  // The prompt of training group `group`, any number: epoch `group / num_train()` of the data, each
  // epoch in an order of its own (file order without shuffling). Depends on the files, the seed and
  // `group` only.
  const PromptRecord& Train(uint64_t group) const;
  // 0 <= i < num_held_out().
  const PromptRecord& HeldOut(int64_t i) const { return records_[held_out_[i]]; }
  // Those to train on, in file order.
  const PromptRecord& InFileOrder(int64_t i) const { return records_[train_[i]]; }

  // InvalidArgument naming the first prompt without an "unsafe" label, which rewards of the form
  // PROMPT_AWARE need.
  absl::Status CheckLabels() const;

  // Counts the tokens of every prompt by `count_tokens` (the rendered prompt, generation prompt
  // included). InvalidArgument for the first one that leaves no room for `max_new_tokens` within
  // `context` positions: file:line, its tokens, the limit, and how many others are too long.
  absl::Status CheckLengths(
      const std::function<absl::StatusOr<int64_t>(const proto::Prompt&)>& count_tokens,
      int64_t max_new_tokens, int64_t context) const;

 private:
  std::vector<PromptRecord> records_;  // In file order.
  std::vector<int64_t> train_;         // Indices into records_, ascending.
  std::vector<int64_t> held_out_;      // In the order of the shuffled first epoch.
  bool shuffle_ = true;
  uint64_t seed_ = 0;
};

// What the user said last; the last message where no user said anything.
std::string LastUserText(const proto::Prompt& prompt);
// The same as it may be shown: Redacted where `redact`.
std::string ShownText(const proto::Prompt& prompt, bool redact);

// The `n` numbers 0..n-1 in an order keyed by (seed, epoch); a counter-based shuffle, the same on
// every machine.
std::vector<int64_t> ShuffledOrder(int64_t n, uint64_t seed, uint64_t epoch);

}  // namespace wideberth::learner
