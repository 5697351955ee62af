// SPDX-License-Identifier: Apache-2.0
// The actor's loop: leased prompt groups in, scored groups out. Two stages on two threads, so that
// one batch is scored and handed in while the next is generated:
//   generate: LeasePrompts -> wait for the adapter version -> swap it in -> Generate (several
//   groups in one batch) -> queue hand in:  queue -> decode -> Score on every scorer at once ->
//   SubmitGroup
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "actor/membership.h"
#include "actor/policy.h"
#include "actor/scoring.h"
#include "base/bounded_queue.h"
#include "base/mutex.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"
#include "transport/adapter_carrier.h"
#include "transport/learner_client.h"

namespace wideberth::actor {

// What heartbeats, the health page and metrics tell of this actor. Thread-safe.
class Progress final {
 public:
  void SetState(absl::string_view state);
  void SetVersion(uint64_t version);
  void SetError(absl::string_view error);
  void CountGenerated(int64_t num_tokens, absl::Duration took);
  void CountSubmitted();
  proto::MemberStatus Snapshot() const;

 private:
  mutable Mutex mutex_;
  proto::MemberStatus status_ ABSL_GUARDED_BY(mutex_);
};

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
  explicit Rollout(Parts parts) : parts_(std::move(parts)) {}
  Rollout(const Rollout&) = delete;
  Rollout& operator=(const Rollout&) = delete;

  // Works until Stop or until an error that this process cannot work on with (the policy fails, the
  // learner refuses us); owns the calling thread, where all torch work happens, and one more. OK
  // after Stop. What was leased and not handed in is leased to somebody else.
  absl::Status Run();

  // Ends Run within a decode step. Cancel learner, receiver and scorers as well, so that nobody
  // waits in a call. Any thread; idempotent.
  void Stop();

 private:
  struct Batch {
    std::vector<proto::GroupLease> leases;
    std::vector<std::vector<int32_t>> prompts;  // Empty where refused.
    std::vector<std::string> refusals;          // Why a prompt cannot be answered; empty: it was.
    std::vector<std::vector<model::Sampled>> completions;  // Per lease.
    uint64_t version = 0;
    std::string fingerprint;  // Empty where the adapter was off.
    double generate_seconds = 0;
    absl::Time deadline;  // Of the first lease.
  };

  absl::StatusOr<std::vector<proto::GroupLease>> Lease();
  absl::Status SwapTo(uint64_t version, absl::Time deadline);
  absl::StatusOr<Batch> GenerateBatch(std::vector<proto::GroupLease> leases, absl::Time leased_at);
  absl::StatusOr<std::vector<std::vector<model::Sampled>>> Sample(
      const std::vector<model::PromptGroup>& groups, bool adapter_off);
  // `text` as every completion of every group, with log-probs of 0.
  absl::StatusOr<std::vector<std::vector<model::Sampled>>> Given(
      const std::string& text, const std::vector<model::PromptGroup>& groups) const;
  absl::Status HandIn(Batch batch);
  void AddScores(const Batch& batch, proto::GroupLease::Purpose purpose,
                 std::vector<proto::SubmitGroupRequest>* requests);
  proto::SubmitGroupRequest MakeRequest(const Batch& batch, size_t lease) const;
  absl::Status Submit(const proto::SubmitGroupRequest& request);
  void HandInLoop();
  void Fail(const absl::Status& status);
  // False after Stop.
  bool Wait(absl::Duration how_long);
  bool stopped() const;

  const Parts parts_;
  BoundedQueue<Batch> queue_{2};
  std::optional<uint64_t> version_;   // Sampled from; the generating thread's.
  std::atomic<bool> refused_{false};  // The learner does not know the version sampled from.
  std::string fingerprint_;
  mutable Mutex mutex_;
  CondVar wake_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace wideberth::actor
