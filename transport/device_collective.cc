// SPDX-License-Identifier: Apache-2.0
#include "transport/device_collective.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status.h"

namespace wideberth::transport {

absl::Status DeviceCollective::Agree(absl::string_view operation, const absl::Status& mine) {
  WB_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                      star_->AllGather(absl::StrCat("end of the ", operation),
                                       mine.ok() ? "" : std::string(mine.message())));
  std::vector<std::string> failed;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (!all[rank].empty()) failed.push_back(absl::StrCat("learner rank ", rank, ": ", all[rank]));
  }
  if (failed.empty()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(operation, ": ", absl::StrJoin(failed, "; ")));
}

absl::Status DeviceCollective::Connect() {
  WB_ASSIGN_OR_RETURN(const std::vector<std::string> devices,
                      star_->AllGather("devices at the start", sums_ != nullptr ? "gpu" : "cpu"));
  for (const std::string& device : devices) {
    if (device != "gpu") sums_ = nullptr;
  }
  if (sums_ == nullptr) return absl::OkStatus();
  absl::StatusOr<std::string> id = rank() == 0 ? sums_->NewId() : std::string();
  WB_ASSIGN_OR_RETURN(const std::vector<std::string> ids,
                      star_->AllGather("id of the GPUs' group", id.ok() ? *id : ""));
  absl::Status joined = id.status();
  if (joined.ok() && ids[0].empty()) joined = absl::UnavailableError("rank 0 has no group to join");
  if (joined.ok()) joined = sums_->Join(ids[0], rank(), world_size(), timeout_);
  // The star's own errors come again with the next operation.
  const absl::Status all_joined = Agree("joining of the GPUs", joined);
  if (all_joined.ok()) {
    WB_LOG(INFO) << "gradients are added up between " << world_size() << " GPUs";
    return absl::OkStatus();
  }
  WB_LOG(WARNING) << all_joined.message() << "; gradients go through rank 0";
  sums_ = nullptr;
  return absl::OkStatus();
}

absl::Status DeviceCollective::AllReduceSum(absl::string_view operation, const FlatBuffer& buffer) {
  if (sums_ == nullptr) return star_->AllReduceSum(operation, buffer);
  if (!broken_.ok()) return broken_;
  broken_ = Agree(operation, sums_->AllReduceSum(buffer, timeout_));
  return broken_;
}

}  // namespace wideberth::transport
