// SPDX-License-Identifier: Apache-2.0
// The scorer's side of the rollout wire: a server that turns every Score call into one asynchronous
// call of a ScoreHandler.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/wire.pb.h"
#include "transport/credentials.h"

namespace wideberth::transport {

// `Score` is called from several server threads at once; it enqueues and returns. `done` is called
// once, from any thread, possibly before `Score` returns; it may be called, or not, after the
// client has gone, which `gone` says from then on. ResourceExhausted makes the client ask
// elsewhere, or back off and try again.
class ScoreHandler {
 public:
  using Done = std::function<void(absl::StatusOr<proto::ScoreResponse>)>;
  using Gone = std::shared_ptr<const std::atomic<bool>>;
  virtual ~ScoreHandler() = default;
  virtual void Score(proto::ScoreRequest request, Done done, Gone gone) = 0;
};

class ScorerServer {
 public:
  // As LearnerServer::Start. `handler` must outlive the server.
  static absl::StatusOr<std::unique_ptr<ScorerServer>> Start(absl::string_view address,
                                                             ScoreHandler* handler,
                                                             const Credentials& own = {});
  virtual ~ScorerServer() = default;
  virtual std::string address() const = 0;
  // Refuses new calls, waits for the running ones to be answered at most `grace`, then cancels
  // them. A `done` that comes later, even after the server is gone, does nothing. Idempotent; the
  // destructor does the same without grace.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace wideberth::transport
