// SPDX-License-Identifier: Apache-2.0
// JSON that somebody else wrote, parsed so that no content of it ends the process. Used by the
// readers of files and lines.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace wideberth {

// InvalidArgument, beginning with `origin`, with the byte where the text stops being JSON, or where
// a number is too large for a double, or as CheckJsonNesting says.
absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text, absl::string_view origin);

// InvalidArgument where values stand within each other more than 500 deep: what goes through such a
// value by recursion, as nlohmann's `dump` does, ends the stack.
absl::Status CheckJsonNesting(absl::string_view text, absl::string_view origin);

// Nullopt for what is no number, is written with a fraction or an exponent, or does not fit.
absl::optional<int64_t> WholeNumber(const nlohmann::json& value);

}  // namespace wideberth
