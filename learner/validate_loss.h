// SPDX-License-Identifier: Apache-2.0
// What the loss options of LearnerConfig must satisfy. Called for every run's configuration, by
// Trainer and by `wideberth loss`.
#pragma once

#include "absl/status/status.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

// OK, or InvalidArgument for the first thing found: "learner.epsilon is -1, must be a number of at
// least 0".
absl::Status ValidateLossConfig(const proto::LearnerConfig& config);

// What TRL computes with a warning and a run refuses: luspo without, and vespo with, sequence-level
// ratios.
absl::Status ValidateRatioLevel(const proto::LearnerConfig& config);

}  // namespace wideberth::learner
