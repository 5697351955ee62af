// SPDX-License-Identifier: Apache-2.0
// `wideberth completions`: what a run's steps were trained on, from its journal; the same table
// while it runs, with learner.log_completions.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "learner/journal.h"
#include "learner/prompts.h"
#include "proto/config.pb.h"
#include "report/completions_table.h"

namespace wideberth::launch {

// What a run's journal has of its completions, also while the run goes on.
class CompletionsReader {
 public:
  // Prompts are read from the configuration's files again; one that is no longer there shows its id
  // instead. NotFound without a journal.
  static absl::StatusOr<CompletionsReader> Open(const proto::RunConfig& config,
                                                const std::string& run_dir);

  // Every completion of `step`, in order of group and index; 0: the last step. NotFound without
  // that step.
  absl::StatusOr<std::vector<report::CompletionRow>> Read(int64_t step);

 private:
  CompletionsReader(std::string run_dir, std::unique_ptr<learner::Journal> journal,
                    absl::StatusOr<learner::PromptSet> prompts, bool redact)
      : run_dir_(std::move(run_dir)),
        journal_(std::move(journal)),
        prompts_(std::move(prompts)),
        redact_(redact) {}

  std::string run_dir_;
  std::unique_ptr<learner::Journal> journal_;
  absl::StatusOr<learner::PromptSet> prompts_;
  bool redact_;
};

// The arguments after "completions".
absl::StatusOr<int> ShowCompletions(const std::vector<std::string>& arguments);

}  // namespace wideberth::launch
