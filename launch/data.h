// SPDX-License-Identifier: Apache-2.0
// `wideberth data`: prompts to train and test on from files the user has, as a recipe says.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace wideberth::launch {

// Arguments after the subcommand's name. The same recipe, files and tokenizer write the same bytes;
// nothing is written where something is wrong.
absl::Status Data(const std::vector<std::string>& arguments);

}  // namespace wideberth::launch
