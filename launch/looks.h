// SPDX-License-Identifier: Apache-2.0
// The one-off looks: single steps of the data's way as JSON lines, so that anyone can check them
// against anything.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/config.pb.h"

namespace wideberth::launch {

// Each takes the arguments after its name, reads standard input or the one file named, and prints a
// line per result. Errors name the line.
absl::Status Tokenize(const std::vector<std::string>& arguments);  // text -> {"ids", "text"}
absl::Status Generate(
    const std::vector<std::string>&
        arguments);  // -> {"prompt_ids", "completion_ids", "logprobs", "finish_reason", "text"}
absl::Status LogProbs(
    const std::vector<std::string>& arguments);  // {"prompt_ids", "completion_ids"} -> {"logprobs"}
absl::Status Score(
    const std::vector<std::string>& arguments);  // {"prompt", "completion"} -> the typed result

// The scorer of a file that is one ScorerConfig, or a run's configuration, of which `name` picks it
// (it may be empty where there is one only).
absl::StatusOr<proto::ScorerConfig> ReadScorer(const std::string& path, const std::string& name);

}  // namespace wideberth::launch
