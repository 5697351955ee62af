// SPDX-License-Identifier: Apache-2.0
// The weight wire between GPUs: one NCCL broadcast per policy version from the learner (rank 0) to
// every member of the group. Built in the `gpu` preset only. gRPC stays the way for everybody else
// and for every version a broadcast did not deliver.
#pragma once

#include <atomic>
#include <cstdint>
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

class NcclCommunicator;

// One communicator generation on one device. Every wait has a deadline; the first failure aborts
// the communicator, after which every call is FailedPrecondition and a new generation is needed.
// One thread at a time.
class NcclGroup final {
 public:
  // The bytes rank 0 hands out as WeightGroup.unique_id.
  static absl::StatusOr<std::string> NewUniqueId();
  // Blocks until all `size` members have joined, at most `timeout`.
  static absl::StatusOr<std::unique_ptr<NcclGroup>> Join(const proto::WeightGroup& group,
                                                         int device, absl::Duration timeout);
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  // Rank 0. Blocks until every member has taken part, at most `timeout`.
  absl::Status Send(const AdapterBlob& blob, absl::Duration timeout);
  // The other ranks: the version rank 0 sends next, verified. Blocks at most `timeout`.
  absl::StatusOr<std::shared_ptr<const AdapterBlob>> Receive(absl::Duration timeout);

 private:
  explicit NcclGroup(std::unique_ptr<NcclCommunicator> group);
  std::unique_ptr<NcclCommunicator> group_;
};

// The learner's end: Publish returns at once, a thread of its own broadcasts the newest version. A
// version that a newer one overtakes, or that a broken group cannot deliver, is left to gRPC.
// Thread-safe.
class NcclAdapterCarrier final : public AdapterCarrier {
 public:
  NcclAdapterCarrier(std::unique_ptr<NcclGroup> group, absl::Duration timeout);
  ~NcclAdapterCarrier() override;
  absl::Status Publish(std::shared_ptr<const AdapterBlob> blob) override;
  // Whether the group must be made anew.
  bool broken() const { return broken_; }

 private:
  void Run();

  const std::unique_ptr<NcclGroup> group_;
  const absl::Duration timeout_;
  Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<const AdapterBlob> next_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<bool> broken_ = false;
  std::thread thread_;
};

// A member's end: takes part in the next broadcast; where that fails, and from then on, asks
// `fallback`. Give its AdapterReceiver an infinite poll interval, so that it takes part only when
// somebody waits for a version the learner has announced. Called by one thread.
class NcclAdapterSource final : public AdapterSource {
 public:
  NcclAdapterSource(std::unique_ptr<NcclGroup> group, AdapterSource* fallback,
                    absl::Duration timeout)
      : group_(std::move(group)), fallback_(fallback), timeout_(timeout) {}
  absl::StatusOr<std::shared_ptr<const AdapterBlob>> Receive(std::optional<uint64_t> have) override;

 private:
  std::unique_ptr<NcclGroup> group_;
  AdapterSource* const fallback_;
  const absl::Duration timeout_;
};

}  // namespace wideberth::transport
