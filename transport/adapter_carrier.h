// SPDX-License-Identifier: Apache-2.0
// The weight wire: how policy versions get from the learner to everybody who samples. A carrier
// brings bytes (gRPC stream here, NCCL in nccl_carrier.h); AdapterReceiver verifies them and holds
// the newest one until its owner swaps it in between two decode steps.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "transport/adapter_blob.h"
#include "transport/learner_client.h"

namespace wideberth::transport {

// The learner's end of a carrier. Thread-safe.
class AdapterCarrier {
 public:
  virtual ~AdapterCarrier() = default;
  // Makes `blob` the newest version. Versions only grow: InvalidArgument otherwise, or when the
  // blob does not verify.
  virtual absl::Status Publish(std::shared_ptr<const AdapterBlob> blob) = 0;
};

// A member's end of a carrier. Thread-safe.
class AdapterSource {
 public:
  virtual ~AdapterSource() = default;
  // A verified version above `have` (any where it is unset), or null: nothing newer. Blocks as long
  // as the carrier's own deadline.
  virtual absl::StatusOr<std::shared_ptr<const AdapterBlob>> Receive(
      std::optional<uint64_t> have) = 0;
};

// The gRPC carrier's shelf: holds the newest version for FetchAdapter.
// LearnerHandler::NewestAdapter returns `Newest(request)`.
class GrpcAdapterCarrier final : public AdapterCarrier {
 public:
  absl::Status Publish(std::shared_ptr<const AdapterBlob> blob) override;
  // Null: nothing newer than the request has.
  std::shared_ptr<const AdapterBlob> Newest(const proto::FetchAdapterRequest& request) const;

 private:
  mutable Mutex mutex_;
  std::shared_ptr<const AdapterBlob> newest_ ABSL_GUARDED_BY(mutex_);
};

// FetchAdapter as a source. `member_id` is asked on every call, since registering again changes it.
class GrpcAdapterSource final : public AdapterSource {
 public:
  GrpcAdapterSource(LearnerClient* client, std::function<std::string()> member_id)
      : client_(client), member_id_(std::move(member_id)) {}
  absl::StatusOr<std::shared_ptr<const AdapterBlob>> Receive(std::optional<uint64_t> have) override;

 private:
  LearnerClient* const client_;
  const std::function<std::string()> member_id_;
};

// Keeps the newest version staged while the owner works with an older one: two versions in memory,
// never a half. Two threads of its own. Thread-safe. The source and client must outlive it; cancel
// the client before destroying it, so that the thread is not in a call.
class AdapterReceiver final {
 public:
  // Looks for a newer version every `poll_interval`, and at once when somebody waits for one.
  AdapterReceiver(AdapterSource* source, LearnerClient* client,
                  std::function<std::string()> member_id,
                  absl::Duration poll_interval = absl::Seconds(1));
  ~AdapterReceiver();
  AdapterReceiver(const AdapterReceiver&) = delete;
  AdapterReceiver& operator=(const AdapterReceiver&) = delete;

  // The staged version if it is above `than` (any where unset), else null. Does not block.
  std::shared_ptr<const AdapterBlob> TakeNewer(std::optional<uint64_t> than);

  // Blocks until version `version` or a later one is staged; DeadlineExceeded with the last failure
  // otherwise, Cancelled after Stop.
  absl::StatusOr<std::shared_ptr<const AdapterBlob>> WaitFor(uint64_t version, absl::Time deadline);

  // Drops the staged version: the next one received may have any number. For a learner that does
  // not know what we have (it was restarted and its arithmetic is not deterministic).
  void Forget();

  // Tells the learner which version is sampled from now; called after the swap. Does not block: a
  // thread of its own sends it, again until the learner has it or a newer one is to be told.
  void Acknowledge(uint64_t version, const std::string& fingerprint);

  // Ends the thread and wakes every waiter. Idempotent.
  void Stop();

 private:
  void Run();
  absl::Status FetchOnce();
  void AcknowledgeLoop();

  AdapterSource* const source_;
  LearnerClient* const client_;
  const std::function<std::string()> member_id_;
  const absl::Duration poll_interval_;
  Mutex mutex_;
  CondVar wake_;  // The thread: stop, or somebody waits.
  CondVar staged_changed_;
  std::shared_ptr<const AdapterBlob> staged_ ABSL_GUARDED_BY(mutex_);
  absl::Status last_error_ ABSL_GUARDED_BY(mutex_);
  int num_waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<proto::AcknowledgeAdapterRequest> to_acknowledge_ ABSL_GUARDED_BY(mutex_);
  CondVar acknowledge_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
  std::thread acknowledging_;
};

}  // namespace wideberth::transport
