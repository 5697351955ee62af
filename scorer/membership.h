// SPDX-License-Identifier: Apache-2.0
// A scorer's place in the run: registration with the learner, heartbeats, and the end when the
// learner says so or is gone.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "proto/wire.pb.h"
#include "transport/learner_client.h"

namespace wideberth::scorer {

// `Join`, `Beat` and `Run` belong to one thread at a time; `BeatSoon` and `Stop` may come from any.
class Membership final {
 public:
  enum class Standing { kMember, kDrained };

  // `client` and `clock` outlive it. `status` is asked before every heartbeat.
  Membership(transport::LearnerClient* client, proto::RegisterRequest registration,
             std::function<proto::MemberStatus()> status, const Clock* clock);

  // Registers; the run's configuration comes back. Errors are the learner's or the client's.
  absl::StatusOr<proto::RunConfig> Join();

  // One heartbeat; registers again where the learner does not know us. A learner that does not
  // answer is no error until it has been silent for twice the run's member_timeout: then
  // Unavailable says so. A refused registration is an error at once.
  absl::StatusOr<Standing> Beat();

  // Beats every `interval` until drained or stopped (OK), or an error of Beat.
  absl::Status Run(absl::Duration interval) ABSL_LOCKS_EXCLUDED(mutex_);
  // Makes Run beat now, so that a change of the status is known at once.
  void BeatSoon() ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends Run at its next look; cancel the client as well where it may be in a call.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  absl::StatusOr<Standing> Silent(const absl::Status& why) const;
  bool stopped() const ABSL_LOCKS_EXCLUDED(mutex_);

  transport::LearnerClient* const client_;
  const proto::RegisterRequest registration_;
  const std::function<proto::MemberStatus()> status_;
  const Clock& clock_;
  std::string member_id_;
  absl::Duration lost_after_ = absl::Seconds(120);
  absl::Time last_answer_;
  mutable Mutex mutex_;
  CondVar wake_;
  bool soon_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace wideberth::scorer
