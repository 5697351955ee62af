// SPDX-License-Identifier: Apache-2.0
// Completions -> typed scores of every scorer of the run, with the run's rule for missing ones.
// Stands between generation and submission.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"
#include "transport/scorer_client.h"

namespace wideberth::actor {

struct NamedScorer {
  std::string name;
  transport::ScorerClient* client = nullptr;    // Outlives its users.
  absl::Duration timeout = absl::Seconds(120);  // Of one attempt.
  bool evaluation_only = false;                 // Not asked about completions that are trained on.
};

// What the run wants done about a score that is none. SCORED has no rule: do not ask.
proto::RewardConfig::MissingRule RuleFor(const proto::RewardConfig& reward,
                                         proto::ScoreStatus status);

struct ScoringOptions {
  proto::RewardConfig reward;
  absl::Time retry_until = absl::InfiniteFuture();  // Later than this nothing is tried again.
  absl::Duration first_backoff =
      absl::Seconds(1);  // Between attempts, doubling: the time a scorer needs to come back.
  // Waits and says whether to go on; false where the actor drains.
  std::function<bool(absl::Duration)> wait = [](absl::Duration) { return true; };
};

// scores[s][i]: scorers[s] on items[i]; each carries its scorer's name and a status, and a value
// exactly when SCORED. All scorers work at the same time. Items whose status has the rule RETRY are
// tried again, at most reward.max_retries times. Blocks; never fails.
std::vector<std::vector<proto::Score>> ScoreItems(const std::vector<NamedScorer>& scorers,
                                                  const std::vector<proto::ScoreItem>& items,
                                                  const ScoringOptions& options);

}  // namespace wideberth::actor
