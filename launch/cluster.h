// SPDX-License-Identifier: Apache-2.0
// What launch/cluster.sh and the job it renders call: `wideberth placement` (configuration -> job
// as shell lines) and `wideberth supervise` (one process on a node, restarted in place).
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace wideberth::launch {

// The arguments after "placement" or "supervise"; the result is the process's exit code.
absl::StatusOr<int> Placement(const std::vector<std::string>& arguments);
// That of the supervised command; 128 + N where signal N ended it.
absl::StatusOr<int> Supervise(const std::vector<std::string>& arguments);

// `text` as one word of bash, on one line.
std::string ShellWord(absl::string_view text);

}  // namespace wideberth::launch
