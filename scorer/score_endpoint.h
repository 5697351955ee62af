// SPDX-License-Identifier: Apache-2.0
// What a scorer shows to the outside: Score calls go to the batcher, its figures to heartbeats,
// health page and metrics. Between transport and batcher; knows neither torch nor gRPC.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <string>

#include "base/clock.h"
#include "base/mutex.h"
#include "proto/wire.pb.h"
#include "scorer/batcher.h"
#include "transport/health.h"
#include "transport/metrics.h"
#include "transport/scorer_service.h"

namespace wideberth::scorer {

// Thread-safe. Serves before the model is loaded: until `Open` every item is OVERLOADED, so that
// clients come back later.
class ScoreEndpoint final : public transport::ScoreHandler {
 public:
  // `metrics` and `clock` outlive the endpoint.
  ScoreEndpoint(std::string scorer_name, transport::Metrics* metrics, const Clock* clock);

  // `batcher` outlives every later call; end the server and the health page before it.
  void Open(Batcher* batcher) ABSL_LOCKS_EXCLUDED(mutex_);
  // From now on the state reads "draining".
  void NoteDrain() ABSL_LOCKS_EXCLUDED(mutex_);

  void Score(proto::ScoreRequest request, Done done, Gone gone) override
      ABSL_LOCKS_EXCLUDED(mutex_);

  // To be called a few times a second: keeps the batcher's deadlines, brings metrics and rates up
  // to date.
  void Tick() ABSL_LOCKS_EXCLUDED(mutex_);

  proto::MemberStatus Status() const ABSL_LOCKS_EXCLUDED(mutex_);
  transport::RoleStatus Page() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Sample {
    absl::Time time;
    int64_t num_tokens;
  };
  std::string State(const BatcherStats& stats) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  BatcherStats Stats() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  double TokensPerSecond() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string scorer_name_;
  const Clock& clock_;
  std::array<transport::Counter*, proto::ScoreStatus_ARRAYSIZE> items_{};
  transport::Counter* const cache_hits_;
  transport::Counter* const merged_;
  transport::Counter* const batches_;
  transport::Counter* const batch_items_;
  transport::Counter* const tokens_;
  transport::Counter* const busy_;
  transport::Counter* const answers_;
  transport::Counter* const unreadable_;
  transport::Counter* const answer_tokens_;
  transport::Counter* const requests_;
  transport::Counter* const dollars_;
  transport::Gauge* const queue_;
  transport::Gauge* const last_batch_;
  transport::Gauge* const rate_;

  mutable Mutex mutex_;
  Batcher* batcher_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  BatcherStats counted_ ABSL_GUARDED_BY(mutex_);        // What the metrics' counters have seen.
  std::deque<Sample> samples_ ABSL_GUARDED_BY(mutex_);  // Of the last seconds, oldest first.
};

}  // namespace wideberth::scorer
