// SPDX-License-Identifier: Apache-2.0
// `wideberth replay`: a run's training once more from its journal.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace wideberth::launch {

// The arguments after "replay". A JSON line a step on standard output, the verdict on standard
// error; exit code 1 where a loss differs from the journal's by more than --tolerance although
// nothing was overridden.
absl::StatusOr<int> ReplayRun(const std::vector<std::string>& arguments);

}  // namespace wideberth::launch
