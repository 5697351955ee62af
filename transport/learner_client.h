// SPDX-License-Identifier: Apache-2.0
// How an actor or scorer speaks to the learner. Abstract, so that roles are tested against an
// in-memory one (tests/testing/fake_wire.h).
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/wire.pb.h"
#include "transport/adapter_blob.h"
#include "transport/credentials.h"

namespace wideberth::transport {

// Thread-safe. Calls block, each at most its total deadline; a learner that cannot be reached
// meanwhile (it restarts, say) is tried again with jittered exponential back-off. Everything is
// idempotent by id, so a retry never counts twice. DeadlineExceeded and Unavailable name the
// learner, its address and the call: "learner rank 0 at 127.0.0.1:4770 did not answer LeasePrompts
// within 30 s". Errors of the learner's own keep their code and message; Unauthenticated and
// PermissionDenied are final. An answer beyond message_limits.h is InvalidArgument.
class LearnerClient {
 public:
  struct Options {
    absl::Duration call_timeout = absl::Seconds(30);  // Of one unary call, retries included.
    absl::Duration heartbeat_timeout = absl::Seconds(5);
    absl::Duration fetch_timeout = absl::Seconds(300);  // Of one FetchAdapter, retries included.
    absl::Duration stream_timeout = absl::Seconds(60);  // Of one stream of it.
    absl::Duration first_backoff = absl::Milliseconds(100);
    absl::Duration max_backoff = absl::Seconds(2);
    Credentials own;  // With certificates, only a process with the learner's is spoken to.
  };

  // Waits until the learner rank 0 at `address` ("host:port") accepts connections, at most
  // `timeout`; Unavailable otherwise.
  static absl::StatusOr<std::unique_ptr<LearnerClient>> Connect(absl::string_view address,
                                                                absl::Duration timeout,
                                                                const Options& options);
  static absl::StatusOr<std::unique_ptr<LearnerClient>> Connect(absl::string_view address,
                                                                absl::Duration timeout);
  virtual ~LearnerClient() = default;

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

  // The newest version, assembled and verified (VerifyAdapterBlob); null: nothing newer. A stream
  // that breaks goes on from the last good byte, on the same learner or on its successor; it begins
  // anew where there is a newer version. DataLoss when what comes is wrong or incomplete time and
  // again; nothing of it is handed out then. Where the request names a `weight_generation`, the
  // version may be one that is broadcast to it: the manifest without bytes.
  virtual absl::StatusOr<std::shared_ptr<const AdapterBlob>> FetchAdapter(
      const proto::FetchAdapterRequest& request) = 0;

  // Ends every call that is running or comes later with Cancelled, at once. Used to drain.
  // Idempotent.
  virtual void Cancel() = 0;
};

}  // namespace wideberth::transport
