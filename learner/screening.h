// SPDX-License-Identifier: Apache-2.0
// What an actor hands in, looked at before it counts: is it well formed, and what do missing scores
// mean for it. Pure functions; used by the service.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "learner/lease_table.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"

namespace wideberth::learner {

// How many scores were missing, by ScoreStatus (index 0, SCORED, stays 0).
using MissingScores = std::array<int64_t, proto::ScoreStatus_ARRAYSIZE>;

// InvalidArgument with one sentence where the group is not what was leased: number of completions,
// token ids outside [0, vocab), log-probs that are not one per token, positive or not finite, a
// SCORED without a finite value, a value without SCORED, segments that do not cover the tokens or
// whose versions do not grow, anything beyond transport/message_limits.h. A prompt that was refused
// comes without tokens, with REFUSED_INPUT for every score.
absl::Status CheckWellFormed(const proto::SubmitGroupRequest& request, int num_completions,
                             int64_t vocab);

struct Screening {
  Disposition disposition = Disposition::kUse;
  std::string reason;  // Names scorer and status of the first score that decided; empty for kUse
                       // without missing scores.
  MissingScores missing{};
  int num_usable = 0;  // Completions with tokens and every needed score.
};

// Applies the run's rule for each missing score of a needed scorer (a score that was not sent at
// all counts as MODEL_ERROR). In order: any DROP_GROUP drops; any RETRY with attempt < max_retries
// has the group leased again; completions without their scores are left out, and a group with fewer
// than two others is dropped, since it has no advantage to learn from. Evaluation groups are
// retried but never dropped.
Screening Screen(const proto::SubmitGroupRequest& request, const proto::RewardConfig& reward,
                 Phase phase, int attempt);

// The needed scores of this completion are all there, and it has tokens.
bool IsUsable(const proto::Completion& completion, const proto::RewardConfig& reward);

}  // namespace wideberth::learner
