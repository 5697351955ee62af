// SPDX-License-Identifier: Apache-2.0
// `wideberth evaluate`: a run of task EVALUATE from a training configuration and the adapters to
// compare.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace wideberth::launch {

// The exit code, as of `wideberth run`.
absl::StatusOr<int> Evaluate(const std::vector<std::string>& arguments);

}  // namespace wideberth::launch
