// SPDX-License-Identifier: Apache-2.0
// What a configuration of SFT, DPO, REWARD or GUARD must satisfy beyond the policy's and the
// optimiser's: its data and what its task needs. Called by ValidateRunConfig.
#pragma once

#include "absl/status/status.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

// OK, or InvalidArgument for the first thing found, as one sentence that begins with the field's
// path. Nothing on disk is looked at. `config.learner.task` is not RL.
absl::Status ValidateTaskOnData(const proto::RunConfig& config);

// The arm whose answers are evaluation.refusal: what the judges say of it, prompt by prompt.
inline constexpr char kRefusalArm[] = "refusal";

// Of EVALUATE: names of arms (plain, each once, "refusal" is taken), adapter or text, judges and
// guards that are scorers.
absl::Status ValidateEvaluation(const proto::RunConfig& config);

}  // namespace wideberth::learner
