// SPDX-License-Identifier: Apache-2.0
// `wideberth experiment`: several trainings from one configuration, compared on the same prompts.
// Each part is a command of its own in a folder of its own, so that what is done is not done again.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace wideberth::launch {

struct ExperimentArm {
  std::string name;
  std::string changes;  // Of the configuration, in text form.
};

// "boundary", "u_only", "u_minus_t", "guard_only", "prompt_aware" and "compound" are rewards of
// that form; NAME=CHANGES is anything else. InvalidArgument for other names, and for one twice.
absl::StatusOr<std::vector<ExperimentArm>> ParseArms(const std::vector<std::string>& arms);

// Mean and deviation (n - 1) of the scores that `scorer` gave to the answers in an evaluation's
// answers.jsonl. FailedPrecondition for fewer than two, or without any spread.
struct ScoreMoments {
  double mean = 0, deviation = 0;
  int64_t count = 0;
};
absl::StatusOr<ScoreMoments> MomentsOfScores(const std::string& answers_jsonl,
                                             const std::string& scorer);

// The exit code: 0, or that of the part that failed.
absl::StatusOr<int> Experiment(const std::vector<std::string>& arguments);

}  // namespace wideberth::launch
