// SPDX-License-Identifier: Apache-2.0
// The weight wire between GPUs: one broadcast per version from the learner (rank 0) to every member
// of a group. Here is who belongs to a group, when it is built anew, and what happens when it
// fails; the bytes are moved by a Communicator (NCCL in nccl_broadcast.cc, a fake in the tests).
// Streams stay the way for everybody else and for every version a broadcast did not deliver.
//
// A group has a generation. The learner offers one in its heartbeat answers, the members join it,
// and from then on a member that asks for a version is told that it comes by broadcast. The first
// failure ends the generation on both sides; the next one is made of those that say that they are
// out of it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "proto/wire.pb.h"
#include "transport/adapter_blob.h"
#include "transport/adapter_carrier.h"

namespace wideberth::transport {

// Until when a communicator's call may wait; `interrupted` ends it at once.
struct BroadcastWait {
  absl::Time deadline;
  const std::atomic<bool>* interrupted;
};

// One end of a group. One thread at a time; after an error nothing but the destructor is called,
// which aborts: it waits for no peer.
class Communicator {
 public:
  virtual ~Communicator() = default;
  // Until all members have joined.
  virtual absl::Status Open(const std::string& unique_id, const BroadcastWait& wait) = 0;
  // Main memory: read on rank 0, written on the others.
  virtual absl::Status Broadcast(char* data, uint64_t num_bytes, const BroadcastWait& wait) = 0;
};

// Thread-safe.
class Communicators {
 public:
  virtual ~Communicators() = default;
  virtual absl::StatusOr<std::string> NewUniqueId() = 0;
  virtual std::unique_ptr<Communicator> Make(const proto::WeightGroup& group) = 0;
};

// Null where `device`, of ModelConfig, is no GPU, or where this program knows none.
std::unique_ptr<Communicators> MakeCommunicators(const std::string& device);

// One version: the manifest's size (8 bytes), the manifest, the packed bytes it describes.
absl::Status SendBlob(Communicator* communicator, const AdapterBlob& blob,
                      const BroadcastWait& wait);
// Verified; DataLoss or InvalidArgument when what came is no version.
absl::StatusOr<std::shared_ptr<const AdapterBlob>> ReceiveBlob(Communicator* communicator,
                                                               const BroadcastWait& wait);

struct BroadcastTimes {
  absl::Duration join = absl::Seconds(30);
  absl::Duration send = absl::Seconds(30);
  // After a failure members have so long to say that they are out of the broken group; doubled with
  // every failure in a row, up to `max_regroup`.
  absl::Duration regroup = absl::Seconds(5);
  absl::Duration max_regroup = absl::Seconds(300);
};

// The learner's end. A thread of its own joins and sends; no call blocks. Thread-safe.
class BroadcastCarrier final {
 public:
  explicit BroadcastCarrier(std::unique_ptr<Communicators> communicators,
                            BroadcastTimes times = {});
  ~BroadcastCarrier();

  // A heartbeat of a member that wants broadcasts and is, or is joining, in `generation` (0: in
  // none). Returns the group it shall be in, if any.
  std::optional<proto::WeightGroup> Heartbeat(const std::string& member_id, uint64_t generation);
  // A member that is gone.
  void Lose(const std::string& member_id);
  // Broadcasts the version if a group stands; a version that a newer one overtakes is left out.
  // Called before the version can be asked for.
  void Publish(std::shared_ptr<const AdapterBlob> blob);
  // Whether the members of `generation` get the version by broadcast.
  bool Carries(uint64_t generation, const AdapterBlob& blob) const;
  // Members of the standing group; 0: none stands.
  int num_members() const;

 private:
  struct Member {
    uint64_t generation = 0;
    bool heard = true;  // Since the last failure.
    int rank = 0;       // In the group; 0: not in it.
  };
  void Run();
  bool ShouldRegroup() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Free(const Member& member) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Regroup();
  void SendNext();
  void Fail(absl::string_view what, const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::unique_ptr<Communicators> communicators_;
  const BroadcastTimes times_;
  std::unique_ptr<Communicator> communicator_;  // The thread's.
  mutable Mutex mutex_;
  CondVar changed_;
  std::map<std::string, Member> members_ ABSL_GUARDED_BY(mutex_);
  // Begins with the time, so that it grows when the learner is started again as well.
  uint64_t generation_ ABSL_GUARDED_BY(mutex_);
  proto::WeightGroup offer_ ABSL_GUARDED_BY(mutex_);  // Size 0: none.
  bool standing_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;  // A member left the offered group.
  int num_failures_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time regroup_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  std::shared_ptr<const AdapterBlob> next_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const AdapterBlob> sending_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<bool> interrupted_ = false;
  std::thread thread_;
};

// A member's end. A thread of its own joins, so that versions go on coming from `fallback`
// meanwhile. Receive is called by one thread at a time, the rest by any.
class BroadcastSource final : public AdapterSource {
 public:
  BroadcastSource(AdapterSource* fallback, LearnerClient* client,
                  std::function<std::string()> member_id,
                  std::unique_ptr<Communicators> communicators, BroadcastTimes times = {});
  ~BroadcastSource() override;

  // What a heartbeat said: the group to be in, if any.
  void Offer(const proto::HeartbeatResponse& response);
  // To tell in heartbeats: 0 only when nothing here uses a group any more.
  uint64_t generation() const;
  absl::StatusOr<std::shared_ptr<const AdapterBlob>> Receive(std::optional<uint64_t> have) override;
  // Ends waits and leaves the group; Receive asks `fallback` from then on. Idempotent.
  void Cancel();
  bool joined() const;

 private:
  struct Session;
  void Run();
  void Leave(const std::shared_ptr<Session>& session, const absl::Status& why);

  AdapterSource* const fallback_;
  LearnerClient* const client_;
  const std::function<std::string()> member_id_;
  const std::unique_ptr<Communicators> communicators_;
  const BroadcastTimes times_;
  mutable Mutex mutex_;
  CondVar changed_;
  proto::WeightGroup offer_ ABSL_GUARDED_BY(mutex_);
  uint64_t tried_ ABSL_GUARDED_BY(mutex_) = 0;  // The last generation joined or failed to join.
  std::shared_ptr<Session> session_ ABSL_GUARDED_BY(mutex_);
  std::weak_ptr<Session> last_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace wideberth::transport
