// SPDX-License-Identifier: Apache-2.0
// `wideberth mine`: a run's journal and labels -> preference pairs for learner.task DPO.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace wideberth::launch {

// Arguments after the subcommand's name. Writes nothing where there is no pair.
absl::Status Mine(const std::vector<std::string>& arguments);

}  // namespace wideberth::launch
