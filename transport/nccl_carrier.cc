// SPDX-License-Identifier: Apache-2.0
// One version = three broadcasts: the manifest's size (8 bytes), the manifest, the packed bytes it
// describes.
#include "transport/nccl_carrier.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "transport/nccl_communicator.h"

namespace wideberth::transport {
namespace {

constexpr uint64_t kMaxManifestBytes = uint64_t{64} << 20;

}  // namespace

NcclGroup::NcclGroup(std::unique_ptr<NcclCommunicator> group) : group_(std::move(group)) {}
NcclGroup::~NcclGroup() = default;

absl::StatusOr<std::string> NcclGroup::NewUniqueId() { return NcclCommunicator::NewUniqueId(); }

absl::StatusOr<std::unique_ptr<NcclGroup>> NcclGroup::Join(const proto::WeightGroup& group,
                                                           int device, absl::Duration timeout) {
  auto opened = std::make_unique<NcclCommunicator>(
      absl::StrCat("weight group ", group.generation(), " (rank ", group.rank(), " of ",
                   group.size(), ")"),
      device, group.rank(), group.size());
  WB_RETURN_IF_ERROR(opened->Open(group.unique_id(), absl::Now() + timeout));
  return std::unique_ptr<NcclGroup>(new NcclGroup(std::move(opened)));
}

absl::Status NcclGroup::Send(const AdapterBlob& blob, absl::Duration timeout) {
  if (group_ == nullptr) return absl::FailedPreconditionError("the weight group is broken");
  const absl::Time deadline = absl::Now() + timeout;
  std::string manifest = blob.manifest.SerializeAsString();
  uint64_t manifest_bytes = manifest.size();
  absl::Status status = group_->UseDevice();
  if (status.ok())
    status = group_->Broadcast(reinterpret_cast<char*>(&manifest_bytes), sizeof(manifest_bytes),
                               deadline);
  if (status.ok()) status = group_->Broadcast(manifest.data(), manifest_bytes, deadline);
  // Rank 0 only reads.
  if (status.ok())
    status = group_->Broadcast(const_cast<char*>(blob.bytes.data()), blob.bytes.size(), deadline);
  if (!status.ok()) group_.reset();
  return status;
}

absl::StatusOr<std::shared_ptr<const AdapterBlob>> NcclGroup::Receive(absl::Duration timeout) {
  if (group_ == nullptr) return absl::FailedPreconditionError("the weight group is broken");
  const absl::Time deadline = absl::Now() + timeout;
  auto blob = std::make_shared<AdapterBlob>();
  const absl::Status status = [&]() -> absl::Status {
    WB_RETURN_IF_ERROR(group_->UseDevice());
    uint64_t manifest_bytes = 0;
    WB_RETURN_IF_ERROR(group_->Broadcast(reinterpret_cast<char*>(&manifest_bytes),
                                         sizeof(manifest_bytes), deadline));
    if (manifest_bytes == 0 || manifest_bytes > kMaxManifestBytes) {
      return absl::DataLossError(
          absl::StrCat(group_->name(), ": a manifest of ", manifest_bytes, " bytes"));
    }
    std::string manifest(manifest_bytes, '\0');
    WB_RETURN_IF_ERROR(group_->Broadcast(manifest.data(), manifest_bytes, deadline));
    if (!blob->manifest.ParseFromString(manifest))
      return absl::DataLossError(absl::StrCat(group_->name(), ": no manifest"));
    WB_RETURN_IF_ERROR(VerifyAdapterManifest(blob->manifest));
    blob->bytes.resize(blob->manifest.num_bytes());
    WB_RETURN_IF_ERROR(group_->Broadcast(blob->bytes.data(), blob->bytes.size(), deadline));
    return VerifyAdapterBlob(*blob);
  }();
  if (!status.ok()) {
    group_.reset();
    return status;
  }
  return blob;
}

NcclAdapterCarrier::NcclAdapterCarrier(std::unique_ptr<NcclGroup> group, absl::Duration timeout)
    : group_(std::move(group)), timeout_(timeout) {
  thread_ = std::thread([this] { Run(); });
}

NcclAdapterCarrier::~NcclAdapterCarrier() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

absl::Status NcclAdapterCarrier::Publish(std::shared_ptr<const AdapterBlob> blob) {
  WB_RETURN_IF_ERROR(VerifyAdapterBlob(*blob));
  if (broken_) return absl::FailedPreconditionError("the weight group is broken");
  MutexLock lock(mutex_);
  next_ = std::move(blob);
  changed_.SignalAll();
  return absl::OkStatus();
}

void NcclAdapterCarrier::Run() {
  while (true) {
    std::shared_ptr<const AdapterBlob> blob;
    {
      MutexLock lock(mutex_);
      while (!stopped_ && next_ == nullptr) changed_.Wait(mutex_);
      if (stopped_) return;
      blob = std::exchange(next_, nullptr);
    }
    const absl::Status status = group_->Send(*blob, timeout_);
    if (status.ok()) continue;
    WB_LOG(WARNING) << "adapter version " << blob->manifest.version()
                    << " goes by gRPC: " << status.message();
    broken_ = true;
    return;
  }
}

absl::StatusOr<std::shared_ptr<const AdapterBlob>> NcclAdapterSource::Receive(
    std::optional<uint64_t> have) {
  if (group_ == nullptr) return fallback_->Receive(have);
  absl::StatusOr<std::shared_ptr<const AdapterBlob>> blob = group_->Receive(timeout_);
  if (!blob.ok()) {
    WB_LOG(WARNING) << "adapters come by gRPC: " << blob.status().message();
    group_ = nullptr;
    return fallback_->Receive(have);
  }
  // An older version than one that came by gRPC meanwhile.
  if (have && (*blob)->manifest.version() <= *have) return std::shared_ptr<const AdapterBlob>();
  return blob;
}

}  // namespace wideberth::transport
