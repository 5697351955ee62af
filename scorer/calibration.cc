// SPDX-License-Identifier: Apache-2.0
#include "scorer/calibration.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"
#include "nlohmann/json.hpp"

namespace wideberth::scorer {

absl::StatusOr<Calibration> ParseCalibration(absl::string_view text, absl::string_view file) {
  const auto bad = [&](absl::string_view found) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": ", found, ", expected {\"temperature\": a positive number}"));
  };
  WB_RETURN_IF_ERROR(CheckJsonNesting(text, file));
  const auto json =
      nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return bad("is not JSON");
  if (!json.is_object()) return bad(absl::StrCat("is ", json.type_name()));
  if (!json.contains("temperature")) return bad("has no field temperature");
  const auto& temperature = json["temperature"];
  if (!temperature.is_number() || !(temperature.get<double>() > 0) ||
      !std::isfinite(temperature.get<double>())) {
    return bad(absl::StrCat("temperature is ", temperature.dump()));
  }
  return Calibration{temperature.get<double>(), std::string(text)};
}

absl::StatusOr<Calibration> LoadCalibration(absl::string_view folder) {
  const std::string file = absl::StrCat(folder, "/calibration.json");
  const absl::StatusOr<std::string> text = ReadFile(file);
  if (absl::IsNotFound(text.status())) return Calibration();
  if (!text.ok()) return text.status();
  return ParseCalibration(*text, file);
}

}  // namespace wideberth::scorer
