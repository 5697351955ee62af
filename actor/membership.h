// SPDX-License-Identifier: Apache-2.0
// An actor's place in the run: registration, heartbeats, where the scorers are, and the word that
// the run ends. Used by actor/main.cc and the loop in rollout.h.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "proto/wire.pb.h"
#include "transport/learner_client.h"

namespace wideberth::actor {

// Thread-safe. The client outlives it; cancel the client before destroying it, so that the thread
// is not in a call.
class Membership final {
 public:
  struct Callbacks {
    std::function<proto::MemberStatus()> status;
    std::function<void(const proto::HeartbeatResponse&)>
        scorers;  // Every heartbeat's answer, which brings the scorers' addresses.
    std::function<void(proto::HeartbeatRequest*)> tell;  // More to tell; may be unset.
    std::function<void(const absl::Status&)>
        ended;  // Once: OK on drain, else why the run is out of reach.
  };
  // `lost_after`: without an answer for so long the learner counts as gone.
  Membership(transport::LearnerClient* client, proto::RegisterRequest request,
             absl::Duration lost_after, Callbacks callbacks, const Clock& clock);
  ~Membership();
  Membership(const Membership&) = delete;
  Membership& operator=(const Membership&) = delete;

  // Registers with the weights' fingerprint; also again, under the same name, when the learner no
  // longer knows us. Errors are the learner's.
  absl::StatusOr<proto::RegisterResponse> Register();
  std::string member_id() const;

  // One heartbeat, with everything that follows from its answer. False: the run has ended, or is
  // out of reach.
  bool Beat();
  // Beats every `interval` on a thread of its own until the end or Stop.
  void Start(absl::Duration interval);
  // The next beat of that thread is due now. Does not block.
  void Hurry();
  // The learner said in another answer that the run ends.
  void NoteDrain();
  void Stop();

 private:
  void End(const absl::Status& why);

  transport::LearnerClient* const client_;
  const proto::RegisterRequest request_;
  const absl::Duration lost_after_;
  const Callbacks callbacks_;
  const Clock& clock_;
  mutable Mutex mutex_;
  CondVar wake_;
  std::string member_id_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_answer_ ABSL_GUARDED_BY(mutex_);
  bool hurry_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace wideberth::actor
