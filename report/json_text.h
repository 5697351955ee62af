// SPDX-License-Identifier: Apache-2.0
// JSON as files and pages hold it.
#pragma once

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/types/optional.h"

namespace wideberth::report {

// Null where there is no finite number.
inline nlohmann::ordered_json NumberOrNull(const absl::optional<double>& value) {
  if (!value.has_value() || !std::isfinite(*value)) return nullptr;
  return *value;
}

// Bytes that are no UTF-8 become U+FFFD. On one line, or indented.
inline std::string JsonText(const nlohmann::ordered_json& json, int indent = -1) {
  return json.dump(indent, ' ', /*ensure_ascii=*/false,
                   nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace wideberth::report
