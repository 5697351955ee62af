// SPDX-License-Identifier: Apache-2.0
// The run's scorers as an actor reaches them: a client for each of the configuration, whose
// replicas the learner names in its heartbeats. Used by actor/main.cc; scoring.h asks them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "actor/scoring.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"
#include "transport/credentials.h"
#include "transport/metrics.h"
#include "transport/scorer_client.h"

namespace wideberth::actor {

// Thread-safe.
class Scorers final {
 public:
  Scorers(const proto::RunConfig& config, const transport::Credentials& own);

  // In the configuration's order; the clients live as long as this.
  const std::vector<NamedScorer>& named() const { return named_; }
  // What a heartbeat said of the replicas.
  void SetEndpoints(const proto::HeartbeatResponse& response) const;
  // Ends every score under way and all later ones. Idempotent.
  void Cancel() const;
  // Counts of calls, hedges and rescues, a label for each scorer.
  void Report(transport::Metrics& metrics) const;

 private:
  std::map<std::string, std::unique_ptr<transport::ScorerClient>> clients_;
  std::vector<NamedScorer> named_;
};

}  // namespace wideberth::actor
