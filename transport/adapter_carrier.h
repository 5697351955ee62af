// SPDX-License-Identifier: Apache-2.0
// The weight wire at its receiving end: how policy versions get to everybody who samples. A source
// brings bytes (a stream from the learner here, relays in adapter_relay.h, broadcasts in
// weight_broadcast.h); AdapterReceiver verifies them and holds the newest one until its owner swaps
// it in between two decode steps.
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
#include "transport/adapter_shelf.h"
#include "transport/learner_client.h"

namespace wideberth::transport {

// One way by which versions come. Called by one thread at a time.
class AdapterSource {
 public:
  virtual ~AdapterSource() = default;
  // A verified version above `have` (any where it is unset), or null: nothing newer. May wait a
  // second or so for one to be published; blocks as long as the way's own deadline.
  virtual absl::StatusOr<std::shared_ptr<const AdapterBlob>> Receive(
      std::optional<uint64_t> have) = 0;
};

// So long a source waits for a version where there is nothing newer. A waiting call costs the
// learner neither a thread nor a message, and what is published meanwhile comes at once.
constexpr absl::Duration kAdapterWait = absl::Seconds(1);

// What a member asks with that has version `have`.
proto::FetchAdapterRequest FetchRequest(const std::string& member_id, std::optional<uint64_t> have);

// From the learner. `member_id` is asked on every call, since registering again changes it.
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
  using Prepare = std::function<void(std::shared_ptr<const AdapterBlob>)>;

  // Looks for a newer version every `poll_interval`, and every 50 ms while somebody waits for one,
  // from the beginning of one look to that of the next: a source that waits itself is asked again
  // at once. What is staged is also put on `shelf` where there is one, for others, and before the
  // owner gets it `prepare` is called, on a thread of the receiver.
  AdapterReceiver(AdapterSource* source, LearnerClient* client,
                  std::function<std::string()> member_id,
                  absl::Duration poll_interval = absl::Seconds(1), AdapterShelf* shelf = nullptr,
                  Prepare prepare = nullptr);
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
  AdapterShelf* const shelf_;
  const Prepare prepare_;
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
