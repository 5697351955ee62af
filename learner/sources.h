// SPDX-License-Identifier: Apache-2.0
// Where a configuration comes from: the repeatable --config and --override flags of a command line,
// merged from left to right. Used by learner/main.cc.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

struct Sources {
  std::vector<std::string> files;
  std::vector<std::string> overrides;
};

// Takes --config and --override out of the command line, of which the flag library would let the
// last one win; returns the rest, program name first. --config also takes a list with commas.
std::vector<char*> TakeSources(int argc, char** argv, Sources* sources);

// InvalidArgument without a file; the files' errors with file:line:column.
absl::StatusOr<proto::RunConfig> MergeSources(const Sources& sources);

}  // namespace wideberth::learner
