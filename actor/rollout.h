// SPDX-License-Identifier: Apache-2.0
// The actor's loop: leased prompt groups in, scored groups out. Three stages on three threads:
//   lease:    while there is room: LeasePrompts
//   generate: leases join the running batch -> one token for all -> finished groups leave it, a
//             newer adapter is swapped in between two tokens
//   hand in:  Score on every scorer at once -> SubmitGroup (hand_in.h)
// The batch never waits for its slowest completion, and nobody waits for the learner or a scorer
// while there is something to decode.
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "actor/hand_in.h"
#include "actor/membership.h"
#include "actor/policy.h"
#include "actor/progress.h"
#include "actor/scoring.h"
#include "base/mutex.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"
#include "transport/adapter_carrier.h"
#include "transport/learner_client.h"

namespace wideberth::actor {

class Rollout final {
 public:
  // Everything outlives the Rollout.
  struct Parts {
    const proto::RunConfig* config = nullptr;
    Policy* policy = nullptr;
    transport::LearnerClient* learner = nullptr;
    transport::AdapterReceiver* adapters = nullptr;
    Membership* membership = nullptr;
    std::vector<NamedScorer> scorers;
    Progress* progress = nullptr;
    absl::Duration score_backoff = absl::Seconds(1);
  };
  explicit Rollout(Parts parts);
  Rollout(const Rollout&) = delete;
  Rollout& operator=(const Rollout&) = delete;

  // Works until Stop or until an error that this process cannot work on with (the policy fails, the
  // learner refuses us); owns the calling thread, on which the policy decodes, and two more. OK
  // after Stop. What was leased and not handed in is leased to somebody else.
  absl::Status Run();

  // Ends Run within a decode step. Cancel learner, receiver and scorers as well, so that nobody
  // waits in a call. Any thread; idempotent.
  void Stop();

 private:
  struct Waiting {
    proto::GroupLease lease;
    absl::Time deadline;
  };

  void LeaseLoop();
  absl::StatusOr<std::vector<proto::GroupLease>> Lease(int max_groups);
  // Leases that may be taken now; blocks while there are none, false after Stop.
  bool AwaitRoom(int* max_groups);

  // One round of the generating thread.
  absl::Status Advance();
  // The leases that can join the running batch, in order; waits a moment where nothing runs and
  // none is there.
  std::vector<Waiting> TakeLeases();
  // Swaps in the newest version that is here, or waits for `wanted`.
  absl::Status SwapTo(uint64_t wanted, absl::Time deadline);
  absl::Status SwapIfNewer();
  absl::Status Use(const transport::AdapterBlob& blob);
  absl::Status Start(std::vector<Waiting> leases);
  AnsweredGroup Read(const Waiting& waiting) const;
  // `text` as every completion of the group, with log-probs of 0.
  absl::Status AnswerWith(const std::string& text, AnsweredGroup* group) const;
  absl::Status StepAll();
  void GiveBack(const absl::Status& why);
  void HandOver(AnsweredGroup group);
  void Fail(const absl::Status& status);
  bool Wait(absl::Duration how_long);  // False after Stop.
  bool stopped() const;

  const Parts parts_;
  const int capacity_;                // Groups decoded together.
  std::atomic<bool> refused_{false};  // The learner does not know the version sampled from.

  // The generating thread's.
  std::optional<uint64_t> version_;          // Sampled from.
  std::string fingerprint_;                  // Of that version.
  std::map<size_t, AnsweredGroup> running_;  // By the policy's index.
  bool adapter_off_ = false;                 // Of those.
  int64_t num_counted_ = 0;                  // Tokens Progress knows of.
  absl::Duration decoding_;                  // Since then.

  mutable Mutex mutex_;
  CondVar wake_;
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mutex_);
  int num_running_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  HandIn hand_in_;  // Last: its thread calls back.
};

}  // namespace wideberth::actor
