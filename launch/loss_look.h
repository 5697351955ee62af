// SPDX-License-Identifier: Apache-2.0
// `wideberth loss`: the learner's advantages and loss on numbers given as JSON lines, without a
// model, so that anyone can check them against anything.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launch/json_lines.h"
#include "nlohmann/json.hpp"
#include "proto/config.pb.h"

namespace wideberth::launch {

// Takes the arguments after the command's name, reads standard input or the one file named, prints
// a line per line.
absl::Status Loss(const std::vector<std::string>& arguments);

// Of one line, a whole generation batch and one slice of an optimiser step:
//   {"advantages": [B], "loss", "grad": d loss / d new of every valid token, row by row,
//    "metrics": {TRL's name: number or null}}, in float64.
// InvalidArgument, with the line, field, what was found and what is expected.
absl::StatusOr<nlohmann::ordered_json> LossOfLine(const proto::LearnerConfig& learner,
                                                  const InputLine& line);

}  // namespace wideberth::launch
