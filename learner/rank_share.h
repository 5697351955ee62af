// SPDX-License-Identifier: Apache-2.0
// Which of a step's groups each learner rank trains on, and a step as it travels between ranks.
// Every rank is sent the whole step, plans it alike and leaves out what others do, so normalisers
// and advantages are the whole step's everywhere. No torch.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "learner/micro_batch.h"
#include "proto/ranks.pb.h"

namespace wideberth::learner {

// `tokens`: of each group. Largest first onto the rank with the fewest tokens so far (the lowest
// among equals); `*load` [world size] is carried on from slice to slice. The rank of each group.
std::vector<int> ShareOut(const std::vector<int64_t>& tokens, std::vector<int64_t>* load);

proto::RankStep ToRankStep(const std::vector<TrainGroup>& groups);
std::vector<TrainGroup> FromRankStep(const proto::RankStep& step);

}  // namespace wideberth::learner
