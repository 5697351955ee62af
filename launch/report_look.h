// SPDX-License-Identifier: Apache-2.0
// `wideberth report`: the evaluations and guards of some folders as one page, one summary.json and
// a text.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace wideberth::launch {

// The arguments after "report".
absl::Status Report(const std::vector<std::string>& arguments);

}  // namespace wideberth::launch
