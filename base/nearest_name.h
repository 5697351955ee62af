// SPDX-License-Identifier: Apache-2.0
// What a mistyped name most likely meant, for the messages about fields and flags.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace wideberth {

// The candidate with the smallest edit distance; empty where none comes closer than replacing the
// whole word.
std::string NearestName(absl::string_view name, const std::vector<std::string>& candidates);

}  // namespace wideberth
