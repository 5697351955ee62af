// SPDX-License-Identifier: Apache-2.0
// The learning rate of every optimiser step, as transformers' schedules give it. Pure.
#pragma once

#include <cstdint>

#include "proto/config.pb.h"

namespace wideberth::learner {

// Of optimiser step `step` (from 0) of `num_steps`: rises linearly from 0 over the warm-up, then
// stays, falls linearly to 0, or falls along half a cosine to 0 after the last step. 0 past the end
// of a falling schedule.
double LearningRate(const proto::LearnerConfig& config, int64_t step, int64_t num_steps);

// warmup_steps, or else warmup_ratio of `num_steps`, rounded up.
int64_t WarmupSteps(const proto::LearnerConfig& config, int64_t num_steps);

}  // namespace wideberth::learner
