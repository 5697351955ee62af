// SPDX-License-Identifier: Apache-2.0
// One version = three broadcasts: the manifest's size (8 bytes), the manifest, the packed bytes it
// describes.
#include "transport/nccl_carrier.h"

#include <cuda_runtime.h>
#include <nccl.h>

#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"

namespace wideberth::transport {
namespace {

constexpr uint64_t kMaxManifestBytes = uint64_t{64} << 20;

absl::Status CudaStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cudaGetErrorString(error)));
}

}  // namespace

// The communicator, its stream and one device buffer that grows to the largest message.
struct NcclGroup::Device {
  int device = 0;
  int rank = 0;
  int size = 0;
  uint64_t generation = 0;
  ncclComm_t communicator = nullptr;
  cudaStream_t stream = nullptr;
  cudaEvent_t done = nullptr;
  void* buffer = nullptr;
  uint64_t buffer_bytes = 0;

  ~Device() {
    cudaSetDevice(device);
    // First, so that no kernel waits for a peer while the stream and the buffer are given back.
    if (communicator != nullptr) ncclCommAbort(communicator);
    if (done != nullptr) cudaEventDestroy(done);
    if (stream != nullptr) cudaStreamDestroy(stream);
    if (buffer != nullptr) cudaFree(buffer);
  }

  std::string Name() const {
    return absl::StrCat("weight group ", generation, " (rank ", rank, " of ", size, ")");
  }

  absl::Status Open(const proto::WeightGroup& group, absl::Time deadline) {
    ncclUniqueId id;
    if (group.unique_id().size() != sizeof(id)) {
      return absl::InvalidArgumentError(absl::StrCat(
          Name(), ": unique id has ", group.unique_id().size(), " bytes, expected ", sizeof(id)));
    }
    std::memcpy(&id, group.unique_id().data(), sizeof(id));
    WB_RETURN_IF_ERROR(
        CudaStatus(cudaSetDevice(device), absl::StrCat(Name(), ": cudaSetDevice(", device, ")")));
    WB_RETURN_IF_ERROR(
        CudaStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), Name()));
    WB_RETURN_IF_ERROR(CudaStatus(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), Name()));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    return Settle(ncclCommInitRankConfig(&communicator, size, id, rank, &config), "joining",
                  deadline);
  }

  // Waits for a non-blocking call to be through.
  absl::Status Settle(ncclResult_t result, absl::string_view what, absl::Time deadline) {
    while (result == ncclInProgress) {
      const ncclResult_t asked = ncclCommGetAsyncError(communicator, &result);
      if (asked != ncclSuccess) result = asked;
      if (result != ncclInProgress) break;
      if (absl::Now() >= deadline)
        return absl::DeadlineExceededError(
            absl::StrCat(Name(), ": ", what, " did not end in time"));
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (result == ncclSuccess) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat(Name(), ": ", what, ": ", ncclGetErrorString(result)));
  }

  absl::Status Reserve(uint64_t num_bytes) {
    if (num_bytes <= buffer_bytes) return absl::OkStatus();
    if (buffer != nullptr) cudaFree(std::exchange(buffer, nullptr));
    buffer_bytes = 0;
    WB_RETURN_IF_ERROR(
        CudaStatus(cudaMalloc(&buffer, num_bytes),
                   absl::StrCat(Name(), ": ", num_bytes, " bytes of device memory")));
    buffer_bytes = num_bytes;
    return absl::OkStatus();
  }

  // `data` is read on rank 0 and written on the others.
  absl::Status Broadcast(char* data, uint64_t num_bytes, absl::Time deadline) {
    WB_RETURN_IF_ERROR(Reserve(num_bytes));
    if (rank == 0) {
      WB_RETURN_IF_ERROR(CudaStatus(
          cudaMemcpyAsync(buffer, data, num_bytes, cudaMemcpyHostToDevice, stream), Name()));
    }
    WB_RETURN_IF_ERROR(
        Settle(ncclBroadcast(buffer, buffer, num_bytes, ncclUint8, 0, communicator, stream),
               "broadcast", deadline));
    WB_RETURN_IF_ERROR(CudaStatus(cudaEventRecord(done, stream), Name()));
    WB_RETURN_IF_ERROR(WaitForStream(deadline));
    if (rank == 0) return absl::OkStatus();
    // Only now: a copy from the device into ordinary memory would block without a deadline until
    // the broadcast is over.
    return CudaStatus(cudaMemcpy(data, buffer, num_bytes, cudaMemcpyDeviceToHost), Name());
  }

  absl::Status WaitForStream(absl::Time deadline) {
    while (true) {
      const cudaError_t state = cudaEventQuery(done);
      if (state == cudaSuccess) return absl::OkStatus();
      if (state != cudaErrorNotReady) return CudaStatus(state, absl::StrCat(Name(), ": broadcast"));
      ncclResult_t error = ncclSuccess;
      ncclCommGetAsyncError(communicator, &error);
      if (error != ncclSuccess && error != ncclInProgress) {
        return absl::UnavailableError(
            absl::StrCat(Name(), ": broadcast: ", ncclGetErrorString(error)));
      }
      if (absl::Now() >= deadline) {
        return absl::DeadlineExceededError(
            absl::StrCat(Name(), ": not every member took part in the broadcast in time"));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
};

NcclGroup::NcclGroup(std::unique_ptr<Device> device) : device_(std::move(device)) {}
NcclGroup::~NcclGroup() = default;

absl::StatusOr<std::string> NcclGroup::NewUniqueId() {
  ncclUniqueId id;
  if (const ncclResult_t result = ncclGetUniqueId(&id); result != ncclSuccess) {
    return absl::InternalError(
        absl::StrCat("a weight group's unique id: ", ncclGetErrorString(result)));
  }
  return std::string(reinterpret_cast<const char*>(&id), sizeof(id));
}

absl::StatusOr<std::unique_ptr<NcclGroup>> NcclGroup::Join(const proto::WeightGroup& group,
                                                           int device, absl::Duration timeout) {
  auto opened = std::make_unique<Device>();
  opened->device = device;
  opened->rank = group.rank();
  opened->size = group.size();
  opened->generation = group.generation();
  WB_RETURN_IF_ERROR(opened->Open(group, absl::Now() + timeout));
  return std::unique_ptr<NcclGroup>(new NcclGroup(std::move(opened)));
}

absl::Status NcclGroup::Send(const AdapterBlob& blob, absl::Duration timeout) {
  if (device_ == nullptr) return absl::FailedPreconditionError("the weight group is broken");
  const absl::Time deadline = absl::Now() + timeout;
  std::string manifest = blob.manifest.SerializeAsString();
  uint64_t manifest_bytes = manifest.size();
  absl::Status status = CudaStatus(cudaSetDevice(device_->device), device_->Name());
  if (status.ok())
    status = device_->Broadcast(reinterpret_cast<char*>(&manifest_bytes), sizeof(manifest_bytes),
                                deadline);
  if (status.ok()) status = device_->Broadcast(manifest.data(), manifest_bytes, deadline);
  // Rank 0 only reads.
  if (status.ok())
    status = device_->Broadcast(const_cast<char*>(blob.bytes.data()), blob.bytes.size(), deadline);
  if (!status.ok()) device_.reset();
  return status;
}

absl::StatusOr<std::shared_ptr<const AdapterBlob>> NcclGroup::Receive(absl::Duration timeout) {
  if (device_ == nullptr) return absl::FailedPreconditionError("the weight group is broken");
  const absl::Time deadline = absl::Now() + timeout;
  auto blob = std::make_shared<AdapterBlob>();
  const absl::Status status = [&]() -> absl::Status {
    WB_RETURN_IF_ERROR(CudaStatus(cudaSetDevice(device_->device), device_->Name()));
    uint64_t manifest_bytes = 0;
    WB_RETURN_IF_ERROR(device_->Broadcast(reinterpret_cast<char*>(&manifest_bytes),
                                          sizeof(manifest_bytes), deadline));
    if (manifest_bytes == 0 || manifest_bytes > kMaxManifestBytes) {
      return absl::DataLossError(
          absl::StrCat(device_->Name(), ": a manifest of ", manifest_bytes, " bytes"));
    }
    std::string manifest(manifest_bytes, '\0');
    WB_RETURN_IF_ERROR(device_->Broadcast(manifest.data(), manifest_bytes, deadline));
    if (!blob->manifest.ParseFromString(manifest))
      return absl::DataLossError(absl::StrCat(device_->Name(), ": no manifest"));
    WB_RETURN_IF_ERROR(VerifyAdapterManifest(blob->manifest));
    blob->bytes.resize(blob->manifest.num_bytes());
    WB_RETURN_IF_ERROR(device_->Broadcast(blob->bytes.data(), blob->bytes.size(), deadline));
    return VerifyAdapterBlob(*blob);
  }();
  if (!status.ok()) {
    device_.reset();
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
