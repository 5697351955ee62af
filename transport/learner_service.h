// SPDX-License-Identifier: Apache-2.0
// The learner's side of both wires: a server that turns every call into one call of a
// LearnerHandler. The learner implements the handler and never sees the RPC library.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/wire.pb.h"
#include "transport/adapter_service.h"
#include "transport/credentials.h"
#include "transport/rank_hub.h"

namespace wideberth::transport {

// Called from several server threads at once: implementations are thread-safe, quick, and wait for
// nothing but a short lock or a journal write. An error's code and message reach the caller as they
// are; Unavailable makes it try again.
class LearnerHandler : public AdapterOffer {
 public:
  virtual absl::StatusOr<proto::RegisterResponse> Register(
      const proto::RegisterRequest& request) = 0;
  virtual absl::StatusOr<proto::HeartbeatResponse> Heartbeat(
      const proto::HeartbeatRequest& request) = 0;
  virtual absl::StatusOr<proto::LeasePromptsResponse> LeasePrompts(
      const proto::LeasePromptsRequest& request) = 0;
  virtual absl::StatusOr<proto::SubmitGroupResponse> SubmitGroup(
      const proto::SubmitGroupRequest& request) = 0;
  virtual absl::StatusOr<proto::AcknowledgeAdapterResponse> AcknowledgeAdapter(
      const proto::AcknowledgeAdapterRequest& request) = 0;
};

class LearnerServer {
 public:
  // Serves at once on `address` ("host:port"; port 0: any free one). `handler` must outlive the
  // server, and so must `ranks`, which serves the other learner ranks where it is given.
  // Unavailable with the reason when the address cannot be listened on: "cannot listen on
  // 127.0.0.1:4770: address already in use"; FailedPrecondition when `own` does not suffice for it
  // (CheckMayListen). Calls of a role that may not make them, without the token or beyond
  // message_limits.h never reach the handler.
  static absl::StatusOr<std::unique_ptr<LearnerServer>> Start(absl::string_view address,
                                                              LearnerHandler* handler,
                                                              RankHub* ranks = nullptr,
                                                              const Credentials& own = {});
  virtual ~LearnerServer() = default;

  // What to tell others: the host as given (this machine's name where it was 0.0.0.0 or [::]) and
  // the port in use.
  virtual std::string address() const = 0;

  // Refuses new calls, lets running ones end within `grace`, then cancels them. Blocks until no
  // handler call is running. Idempotent; the destructor does the same without grace.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace wideberth::transport
