// SPDX-License-Identifier: Apache-2.0
// `wideberth toyworld`: a toy world's prompts, training data and untrained model as files.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace wideberth::launch {

// Arguments after the subcommand's name. The same flags write the same bytes.
absl::Status ToyWorld(const std::vector<std::string>& arguments);

}  // namespace wideberth::launch
