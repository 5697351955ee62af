// SPDX-License-Identifier: Apache-2.0
// The tasks by their names in the configuration.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "learner/supervised.h"

namespace wideberth::learner {

// The task of `config.learner.task`, which is not RL, with its data read and tokenised.
// `reference`: of DPO; null: the base.
absl::StatusOr<std::unique_ptr<SupervisedTask>> MakeSupervisedTask(const proto::RunConfig& config,
                                                                   const model::CausalLm& model,
                                                                   const model::Adapter* reference);

}  // namespace wideberth::learner
