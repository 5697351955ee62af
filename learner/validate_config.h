// SPDX-License-Identifier: Apache-2.0
// What a configuration must satisfy beyond its schema. Called by the learner and, before any
// process starts, by the launcher.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

// OK, or InvalidArgument for the first thing found, as one sentence: field, value found, what it
// must be; an unknown name comes with the nearest valid one. Nothing on disk is looked at but
// `files`: the configuration files that were merged, in order, from which the sentence gets its
// file:line
// ("configs/a.txtpb:14: learner.group_size is 1, must be at least 2"). Files that cannot be read or
// parsed are passed over.
absl::Status ValidateRunConfig(const proto::RunConfig& config,
                               const std::vector<std::string>& files = {});

}  // namespace wideberth::learner
