// SPDX-License-Identifier: Apache-2.0
// Gradients of GPU learners: added up between the GPUs where every rank has one (NCCL in
// nccl_sums.h), through rank 0 otherwise. What ranks tell each other always goes through rank 0,
// which is also how all of them learn that one of them could not add up.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "transport/collective.h"

namespace wideberth::transport {

// One GPU's end of a communicator. One thread at a time. Every call ends by its timeout; after an
// error no other is made.
class DeviceSums {
 public:
  virtual ~DeviceSums() = default;
  // What rank 0 makes and every rank joins with.
  virtual absl::StatusOr<std::string> NewId() = 0;
  virtual absl::Status Join(const std::string& id, int rank, int world_size,
                            absl::Duration timeout) = 0;
  // In place, device memory.
  virtual absl::Status AllReduceSum(const FlatBuffer& buffer, absl::Duration timeout) = 0;
};

// Null where `device`, of ModelConfig, is no GPU, or where this program knows none.
std::unique_ptr<DeviceSums> MakeDeviceSums(const std::string& device);

class DeviceCollective final : public Collective {
 public:
  // `sums` may be null. `timeout`: learner.rank_timeout.
  DeviceCollective(std::unique_ptr<Collective> star, std::unique_ptr<DeviceSums> sums,
                   absl::Duration timeout)
      : star_(std::move(star)), sums_(std::move(sums)), timeout_(timeout) {}

  // Once, on every rank, before anything else. Where a rank has no GPU, or the GPUs cannot be
  // joined, which is warned of, sums go through rank 0 on all of them. Errors are the star's.
  absl::Status Connect();

  int rank() const override { return star_->rank(); }
  int world_size() const override { return star_->world_size(); }
  // OK on all ranks or on none: each hears of every other's failure, and which rank's it was.
  absl::Status AllReduceSum(absl::string_view operation, const FlatBuffer& buffer) override;
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view operation,
                                                     std::string mine) override {
    return star_->AllGather(operation, std::move(mine));
  }
  bool on_device() const override { return sums_ != nullptr; }

 private:
  absl::Status Agree(absl::string_view operation, const absl::Status& mine);

  const std::unique_ptr<Collective> star_;
  std::unique_ptr<DeviceSums> sums_;  // Null: through rank 0.
  const absl::Duration timeout_;
  absl::Status broken_;
};

}  // namespace wideberth::transport
