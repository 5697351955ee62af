// SPDX-License-Identifier: Apache-2.0
// Rank 0's end of what the learner's ranks do together: who has joined, the step handed out, the
// operations under way, and who is missing. ranks_service.h puts it on the wire; no RPC library and
// no torch here.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "proto/ranks.pb.h"
#include "transport/collective.h"

namespace wideberth::transport {

// Thread-safe. A held call's answer is given exactly once, from any thread and without a lock; none
// is held longer than rank_timeout or a moment, as long as Tick is called.
class RankHub final : public RankWire {
 public:
  template <typename Response>
  using Answer = std::function<void(absl::StatusOr<Response>)>;

  struct Options {
    int world_size = 1;
    absl::Duration rank_timeout = absl::Seconds(120);
    std::string run_id;
    proto::RunConfig config;       // Resolved; told to ranks that join.
    std::string base_fingerprint;  // Of rank 0's weights, and the adapter it starts from.
    std::string host;              // Rank 0's, for messages.
    int pid = 0;
    // Called once, when the ranks cannot go on.
    std::function<void(const absl::Status&)> on_failure;
    bool ticks_itself = true;  // False: somebody calls Tick (tests).
  };
  struct RankStatus {
    int rank = 0;
    std::string host;
    int pid = 0;
    std::string state;  // "absent" before it has joined.
    uint64_t step = 0;
    absl::Duration silent_for;
    std::string health_address;
  };

  RankHub(Options options, const Clock* clock);
  ~RankHub() override;

  // ---- calls of the other ranks; NotFound for one that has not joined this process ----
  // FailedPrecondition with a sentence for another world size, other weights or a taken rank.
  absl::StatusOr<proto::JoinRankResponse> Join(const proto::JoinRankRequest& request);
  void Attend(const proto::AttendRequest& request, Answer<proto::AttendResponse> answer);
  // The connection that brought the rank's sign of life is gone.
  void HungUp(int rank);
  void FetchStep(const proto::FetchStepRequest& request, Answer<proto::FetchStepResponse> answer);
  void Contribute(const proto::CombineRequest& request, Answer<proto::CombineResponse> answer);
  absl::Status Leave(const proto::LeaveRankRequest& request);

  // ---- rank 0 itself ----
  // Blocks until the others have joined and loaded the right weights, or `patience` is over (names
  // the missing), or `stop` says so (Cancelled; asked a few times a second).
  absl::Status WaitForAll(absl::Duration patience, const std::function<bool()>& stop);
  // Hands out a step; steps grow.
  void Offer(int64_t step, std::string work);
  // Rank 0's part of an operation. Blocks as a collective does.
  absl::StatusOr<proto::CombineResponse> Combine(const proto::CombineRequest& part) override;
  // The run is over, well. FetchStep says so from now on.
  void End();
  // Ends every operation of every rank, now and later. The first reason stays.
  void Fail(const absl::Status& why);
  // Whether every rank that is still there knows that the run is over.
  bool AllTold() const;
  std::vector<RankStatus> Statuses() const;

  // Looks for missing ranks and lets go of calls held long enough.
  void Tick();

 private:
  template <typename Response>
  struct Held {
    Answer<Response> answer;
    absl::Time since;
    int64_t done_step = -1;  // Of FetchStep.
  };
  struct Rank {
    bool joined = false;
    bool ready = false;  // With the right weights.
    bool told = false;
    std::string host;
    int pid = 0;
    std::string health_address;
    std::string state = "absent";
    uint64_t step = 0;
    absl::Time last_heard;
    absl::optional<absl::Time> hung_up_at;
    absl::optional<Held<proto::AttendResponse>> attend;
    absl::optional<Held<proto::FetchStepResponse>> fetch;
    int64_t sequence = -1;  // Of its newest operation.
  };
  // One chunk of one operation.
  struct Slot {
    proto::CombineRequest shape;  // Of the first part, without its data.
    absl::Time began;
    std::vector<absl::optional<std::string>> parts;  // By rank; empty once there is a result.
    std::vector<Answer<proto::CombineResponse>> waiting;
    std::shared_ptr<const proto::CombineResponse> result;
    bool combining = false;
  };
  using Key = std::pair<int64_t, int>;  // Sequence and chunk.
  // Answers to be given once the lock is free.
  using Later = std::vector<std::function<void()>>;

  std::string Name(int rank) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Heard(int rank, const std::string& run_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckPart(const proto::CombineRequest& request, const Slot& slot) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Finish(Slot& slot);
  absl::Status Missing(absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FailLocked(const absl::Status& why, Later* later) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AnswerFetch(Rank& rank, Later* later) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Forget() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  const Clock* const clock_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<Rank> ranks_ ABSL_GUARDED_BY(mutex_);
  std::map<Key, Slot> slots_ ABSL_GUARDED_BY(mutex_);
  int64_t step_ ABSL_GUARDED_BY(mutex_) = -1;
  std::shared_ptr<const std::string> work_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::jthread ticker_;
};

}  // namespace wideberth::transport
