// SPDX-License-Identifier: Apache-2.0
// The groups of one step -> rewards -> the optimiser. A run, a resumed run that catches up with its
// journal and a replay all learn through this one function.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "learner/group_pool.h"
#include "learner/journal.h"
#include "learner/prompts.h"
#include "learner/rewards.h"
#include "learner/step_report.h"
#include "learner/train_step.h"

namespace wideberth::learner {

// Trains on `groups`, in order of id, from policy version `version`: scores, composed rewards
// (which add to the composer's running statistics), the training step. Fills of the report what
// follows from the groups; step, version, times and counters are the caller's. Errors are those of
// RewardComposer::Compose and Trainer::Step.
absl::StatusOr<StepReport> TrainOnGroups(const std::vector<AcceptedGroup>& groups, uint64_t version,
                                         RewardComposer* composer, Trainer* trainer,
                                         const proto::RewardConfig& reward);

// What the journal keeps of a step's completions.
std::vector<TrainedCompletion> TrainedCompletions(const StepMetrics& metrics);

// A stored group as it was accepted.
AcceptedGroup AcceptedFrom(const JournalGroup& stored, const PromptSet& prompts);
// Those that optimiser step `step` was trained on, in order.
absl::StatusOr<std::vector<AcceptedGroup>> GroupsOfStep(int64_t step, Journal& journal,
                                                        const PromptSet& prompts);

}  // namespace wideberth::learner
