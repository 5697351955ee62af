// SPDX-License-Identifier: Apache-2.0
// How far a trained guard's log-odds are to be believed: the temperature that guard training found
// on its validation rows and left beside the adapter, where a merged model has it as well.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace wideberth::scorer {

struct Calibration {
  double temperature = 1.0;  // Log-odds are divided by it.
  std::string text;          // The file as it is; empty where there is none.
};

// A JSON object with a positive "temperature"; other fields are whoever wrote it's own.
// InvalidArgument names `file`, the field, what was found and what is expected.
absl::StatusOr<Calibration> ParseCalibration(absl::string_view text, absl::string_view file);

// `folder`/calibration.json; temperature 1 where there is no such file.
absl::StatusOr<Calibration> LoadCalibration(absl::string_view folder);

}  // namespace wideberth::scorer
