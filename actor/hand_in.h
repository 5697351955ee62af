// SPDX-License-Identifier: Apache-2.0
// The second half of the actor's way: answered groups in, scores of every scorer added, handed in
// to the learner. A thread of its own, so that the next groups are generated meanwhile.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "actor/membership.h"
#include "actor/policy.h"
#include "actor/progress.h"
#include "actor/scoring.h"
#include "base/bounded_queue.h"
#include "base/mutex.h"
#include "model/generate.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"
#include "transport/learner_client.h"

namespace wideberth::actor {

struct AnsweredGroup {
  proto::GroupLease lease;
  std::vector<int32_t> prompt;              // Empty where refused.
  std::string refusal;                      // Why it cannot be answered; empty: it was.
  std::vector<model::Sampled> completions;  // Empty where refused.
  // Of every version in `completions`; empty where the adapter was off.
  std::map<uint64_t, std::string> fingerprints;
  double generate_seconds = 0;  // Its share of the device's time.
  absl::Time deadline;          // Of the lease.
};

class HandIn final {
 public:
  // Everything outlives it. `failed` is called once, when this process cannot work on; `refused`
  // when the learner does not know the version sampled from. Both on the thread of this object.
  struct Parts {
    const proto::RunConfig* config = nullptr;
    const Policy* policy = nullptr;
    transport::LearnerClient* learner = nullptr;
    Membership* membership = nullptr;
    std::vector<NamedScorer> scorers;
    Progress* progress = nullptr;
    absl::Duration score_backoff = absl::Seconds(1);
    std::function<void(const absl::Status&)> failed;
    std::function<void()> refused;
  };
  explicit HandIn(Parts parts);
  ~HandIn();
  HandIn(const HandIn&) = delete;
  HandIn& operator=(const HandIn&) = delete;

  // Blocks while too many wait (scorers are the slower side). Cancelled after Stop.
  absl::Status Push(AnsweredGroup group);
  // Pushed and not yet handed in. Any thread.
  int num_waiting() const { return num_waiting_; }

  // Asks the thread to end; what was not handed in is leased to somebody else. Cancel scorers and
  // learner as well, so that it is in no call. Any thread; idempotent.
  void Stop();
  // Stop, and wait for the thread. Called by one thread only.
  void Join();

 private:
  void Run();
  absl::Status ScoreAndSubmit(std::vector<AnsweredGroup> groups);
  void AddScores(const std::vector<AnsweredGroup>& groups, proto::GroupLease::Purpose purpose,
                 std::vector<proto::SubmitGroupRequest>* requests);
  absl::Status Submit(const proto::SubmitGroupRequest& request);
  // False after Stop.
  bool Wait(absl::Duration how_long);
  bool stopped() const;

  const Parts parts_;
  BoundedQueue<AnsweredGroup> queue_;
  std::atomic<int> num_waiting_{0};
  mutable Mutex mutex_;
  CondVar wake_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// The group as the learner takes it, without scores. `decode` gives a completion's text.
proto::SubmitGroupRequest MakeRequest(
    const AnsweredGroup& group,
    const std::function<std::string(const std::vector<int32_t>&)>& decode);

// The learner no longer knows this incarnation, or is not there for the moment: heartbeats sort it
// out, whoever asked tries again.
bool Passing(const absl::Status& status);

}  // namespace wideberth::actor
