// SPDX-License-Identifier: Apache-2.0
// `wideberth completions`: what a run's steps were trained on, from its journal; the same table
// while it runs, with learner.log_completions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/config.pb.h"
#include "report/completions_table.h"

namespace wideberth::launch {

// Every completion that the journal of `run_dir` has for `step`, in order of group and index; 0:
// the last step. Prompts are read from the configuration's files again; one that is no longer there
// shows its id instead. NotFound without a journal or without that step. May be called while the
// run goes on.
absl::StatusOr<std::vector<report::CompletionRow>> ReadCompletions(const proto::RunConfig& config,
                                                                   const std::string& run_dir,
                                                                   int64_t step);

// The arguments after "completions".
absl::StatusOr<int> ShowCompletions(const std::vector<std::string>& arguments);

}  // namespace wideberth::launch
