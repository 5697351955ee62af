// SPDX-License-Identifier: Apache-2.0
// Sums between GPUs over NCCL, of the `gpu` preset.
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/device.h"
#include "base/status.h"
#include "transport/device_collective.h"
#include "transport/nccl_communicator.h"

namespace wideberth::transport {
namespace {

class NcclSums final : public DeviceSums {
 public:
  explicit NcclSums(int device) : device_(device) {}

  absl::StatusOr<std::string> NewId() override { return NcclCommunicator::NewUniqueId(); }

  absl::Status Join(const std::string& id, int rank, int world_size,
                    absl::Duration timeout) override {
    group_ = std::make_unique<NcclCommunicator>(
        absl::StrCat("gradient group (rank ", rank, " of ", world_size, ")"), device_, rank,
        world_size);
    const absl::Status joined = group_->Open(id, absl::Now() + timeout);
    if (!joined.ok()) group_.reset();
    return joined;
  }

  absl::Status AllReduceSum(const FlatBuffer& buffer, absl::Duration timeout) override {
    if (group_ == nullptr) return absl::FailedPreconditionError("the gradient group is broken");
    absl::Status summed = group_->UseDevice();
    if (summed.ok()) summed = group_->AllReduceSum(buffer, absl::Now() + timeout);
    if (!summed.ok()) group_.reset();
    return summed;
  }

 private:
  const int device_;
  std::unique_ptr<NcclCommunicator> group_;
};

}  // namespace

std::unique_ptr<DeviceSums> MakeDeviceSums(const std::string& device) {
  const std::optional<int> gpu = GpuOf(device);
  return gpu ? std::make_unique<NcclSums>(*gpu) : nullptr;
}

}  // namespace wideberth::transport
