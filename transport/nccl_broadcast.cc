// SPDX-License-Identifier: Apache-2.0
// Broadcasts of the weight wire over NCCL, of the `gpu` preset.
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/device.h"
#include "base/status.h"
#include "transport/nccl_communicator.h"
#include "transport/weight_broadcast.h"

namespace wideberth::transport {
namespace {

class NcclMember final : public Communicator {
 public:
  NcclMember(const proto::WeightGroup& group, int device)
      : nccl_(absl::StrCat("weight group ", group.generation(), " (rank ", group.rank(), " of ",
                           group.size(), ")"),
              device, group.rank(), group.size()) {}

  absl::Status Open(const std::string& unique_id, const BroadcastWait& wait) override {
    nccl_.EndWaitsOn(wait.interrupted);
    return nccl_.Open(unique_id, wait.deadline);
  }
  absl::Status Broadcast(char* data, uint64_t num_bytes, const BroadcastWait& wait) override {
    nccl_.EndWaitsOn(wait.interrupted);
    WB_RETURN_IF_ERROR(nccl_.UseDevice());
    return nccl_.Broadcast(data, num_bytes, wait.deadline);
  }

 private:
  NcclCommunicator nccl_;
};

class NcclMembers final : public Communicators {
 public:
  explicit NcclMembers(int device) : device_(device) {}
  absl::StatusOr<std::string> NewUniqueId() override { return NcclCommunicator::NewUniqueId(); }
  std::unique_ptr<Communicator> Make(const proto::WeightGroup& group) override {
    return std::make_unique<NcclMember>(group, device_);
  }

 private:
  const int device_;
};

}  // namespace

std::unique_ptr<Communicators> MakeCommunicators(const std::string& device) {
  const std::optional<int> gpu = GpuOf(device);
  return gpu ? std::make_unique<NcclMembers>(*gpu) : nullptr;
}

}  // namespace wideberth::transport
