// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace wideberth {

absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text, absl::string_view origin) {
  WB_RETURN_IF_ERROR(CheckJsonNesting(text, origin));
  try {
    return nlohmann::json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::parse_error& error) {
    return absl::InvalidArgumentError(absl::StrCat(origin, " is not JSON: it goes wrong at byte ",
                                                   error.byte, " of ", text.size()));
  } catch (const nlohmann::json::out_of_range&) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, " has a number that no double can hold"));
  }
}

absl::Status CheckJsonNesting(absl::string_view text, absl::string_view origin) {
  constexpr int kMaxDepth = 500;
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    if (depth > kMaxDepth) {
      return absl::InvalidArgumentError(
          absl::StrCat(origin, " has JSON values within each other more than ", kMaxDepth,
                       " deep at byte ", i, ", expected fewer"));
    }
  }
  return absl::OkStatus();
}

absl::optional<int64_t> WholeNumber(const nlohmann::json& value) {
  if (!value.is_number_integer()) return absl::nullopt;
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    return absl::nullopt;
  return value.get<int64_t>();
}

}  // namespace wideberth
