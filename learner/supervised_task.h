// SPDX-License-Identifier: Apache-2.0
// The tasks by their names in the configuration.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "learner/supervised.h"

namespace wideberth::learner {

// The task of `config.learner.task`, with its data read and tokenised. Unimplemented for RL, which
// is no supervised task.
absl::StatusOr<std::unique_ptr<SupervisedTask>> MakeSupervisedTask(const proto::RunConfig& config,
                                                                   const model::CausalLm& model);

}  // namespace wideberth::learner
