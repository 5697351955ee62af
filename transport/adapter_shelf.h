// SPDX-License-Identifier: Apache-2.0
// The versions a process hands out on the weight wire: the newest, and those that are still being
// streamed. The learner's has what it published, an actor's what it received and passes on;
// adapter_service.h streams from it.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "proto/wire.pb.h"
#include "transport/adapter_blob.h"

namespace wideberth::transport {

// Thread-safe; no call blocks, and none but Publish takes time.
class AdapterShelf final {
 public:
  // One who waits for a newer version.
  class Waiter {
   public:
    virtual ~Waiter() = default;
    // There is one. Called by the thread that puts it here, without a lock; must be quick.
    virtual void Published(std::shared_ptr<const AdapterBlob> blob) = 0;
  };

  // Makes `blob` the newest version. Versions only grow: InvalidArgument otherwise, or when the
  // blob does not verify.
  absl::Status Publish(std::shared_ptr<const AdapterBlob> blob);
  // The same for what was verified and is passed on: a learner that begins anew may count lower.
  void PassOn(std::shared_ptr<const AdapterBlob> blob);

  // Null: nothing newer than the request has.
  std::shared_ptr<const AdapterBlob> Newest(const proto::FetchAdapterRequest& request) const;
  // The same; where it is null, `waiter` is told of the next version, once, if it is still there.
  std::shared_ptr<const AdapterBlob> NewestOrWait(const proto::FetchAdapterRequest& request,
                                                  const std::weak_ptr<Waiter>& waiter);

  // Versions that are held by streams are bounded: false when `blob` is overtaken by so many that
  // are in memory still that its stream has to end and go on with the newest.
  bool Keeps(const AdapterBlob& blob) const;
  static constexpr int kMaxVersions = 4;

 private:
  std::shared_ptr<const AdapterBlob> NewestLocked(const proto::FetchAdapterRequest& request) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Put(std::shared_ptr<const AdapterBlob> blob, std::vector<std::weak_ptr<Waiter>>* waiters)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  std::shared_ptr<const AdapterBlob> newest_ ABSL_GUARDED_BY(mutex_);
  // In the order of their coming; those that nobody holds are gone at the next one.
  std::deque<std::weak_ptr<const AdapterBlob>> in_memory_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::weak_ptr<Waiter>> waiters_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace wideberth::transport
