// SPDX-License-Identifier: Apache-2.0
#include "transport/nccl_communicator.h"

#include <chrono>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"

namespace wideberth::transport {
namespace {

absl::Status CudaStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cudaGetErrorString(error)));
}

}  // namespace

NcclCommunicator::~NcclCommunicator() {
  cudaSetDevice(device_);
  // First, so that no kernel waits for a peer while the stream and the buffer are given back.
  if (communicator_ != nullptr) ncclCommAbort(communicator_);
  if (done_ != nullptr) cudaEventDestroy(done_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
  if (buffer_ != nullptr) cudaFree(buffer_);
}

absl::StatusOr<std::string> NcclCommunicator::NewUniqueId() {
  ncclUniqueId id;
  if (const ncclResult_t result = ncclGetUniqueId(&id); result != ncclSuccess) {
    return absl::InternalError(absl::StrCat("a group's unique id: ", ncclGetErrorString(result)));
  }
  return std::string(reinterpret_cast<const char*>(&id), sizeof(id));
}

absl::Status NcclCommunicator::UseDevice() const {
  return CudaStatus(cudaSetDevice(device_), absl::StrCat(name_, ": cudaSetDevice(", device_, ")"));
}

absl::Status NcclCommunicator::Open(const std::string& unique_id, absl::Time deadline) {
  ncclUniqueId id;
  if (unique_id.size() != sizeof(id)) {
    return absl::InvalidArgumentError(
        absl::StrCat(name_, ": unique id has ", unique_id.size(), " bytes, expected ", sizeof(id)));
  }
  std::memcpy(&id, unique_id.data(), sizeof(id));
  WB_RETURN_IF_ERROR(UseDevice());
  WB_RETURN_IF_ERROR(CudaStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), name_));
  WB_RETURN_IF_ERROR(CudaStatus(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming), name_));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return Settle(ncclCommInitRankConfig(&communicator_, size_, id, rank_, &config), "joining",
                deadline);
}

absl::Status NcclCommunicator::Expired(absl::string_view what, absl::Time started,
                                       absl::Time deadline) const {
  if (interrupted_ != nullptr && *interrupted_)
    return absl::CancelledError(absl::StrCat(name_, ": ", what, " was ended here"));
  if (absl::Now() < deadline) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat(
      name_, ": not every member took part in the ", what, " within ",
      absl::FormatDuration(absl::Now() - started), ", asked by rank ", rank_, " of ", size_));
}

// Waits for a non-blocking call to be through.
absl::Status NcclCommunicator::Settle(ncclResult_t result, absl::string_view what,
                                      absl::Time deadline) {
  const absl::Time started = absl::Now();
  while (result == ncclInProgress) {
    const ncclResult_t asked = ncclCommGetAsyncError(communicator_, &result);
    if (asked != ncclSuccess) result = asked;
    if (result != ncclInProgress) break;
    WB_RETURN_IF_ERROR(Expired(what, started, deadline));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (result == ncclSuccess) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(name_, ": ", what, ": ", ncclGetErrorString(result)));
}

absl::Status NcclCommunicator::Reserve(uint64_t num_bytes) {
  if (num_bytes <= buffer_bytes_) return absl::OkStatus();
  if (buffer_ != nullptr) cudaFree(std::exchange(buffer_, nullptr));
  buffer_bytes_ = 0;
  WB_RETURN_IF_ERROR(CudaStatus(cudaMalloc(&buffer_, num_bytes),
                                absl::StrCat(name_, ": ", num_bytes, " bytes of device memory")));
  buffer_bytes_ = num_bytes;
  return absl::OkStatus();
}

absl::Status NcclCommunicator::Broadcast(char* data, uint64_t num_bytes, absl::Time deadline) {
  WB_RETURN_IF_ERROR(Reserve(num_bytes));
  if (rank_ == 0) {
    WB_RETURN_IF_ERROR(CudaStatus(
        cudaMemcpyAsync(buffer_, data, num_bytes, cudaMemcpyHostToDevice, stream_), name_));
  }
  WB_RETURN_IF_ERROR(
      Settle(ncclBroadcast(buffer_, buffer_, num_bytes, ncclUint8, 0, communicator_, stream_),
             "broadcast", deadline));
  WB_RETURN_IF_ERROR(WaitForStream("broadcast", deadline));
  if (rank_ == 0) return absl::OkStatus();
  // Only now: a copy from the device into ordinary memory would block without a deadline until the
  // broadcast is over.
  return CudaStatus(cudaMemcpy(data, buffer_, num_bytes, cudaMemcpyDeviceToHost), name_);
}

absl::Status NcclCommunicator::AllReduceSum(const FlatBuffer& buffer, absl::Time deadline) {
  WB_RETURN_IF_ERROR(CudaStatus(cudaDeviceSynchronize(), absl::StrCat(name_, ": gradients")));
  const ncclDataType_t type = buffer.dtype == proto::FLOAT64 ? ncclFloat64 : ncclFloat32;
  WB_RETURN_IF_ERROR(
      Settle(ncclAllReduce(buffer.data, buffer.data, static_cast<size_t>(buffer.num_values), type,
                           ncclSum, communicator_, stream_),
             "all-reduce", deadline));
  return WaitForStream("all-reduce", deadline);
}

absl::Status NcclCommunicator::WaitForStream(absl::string_view what, absl::Time deadline) {
  const absl::Time started = absl::Now();
  WB_RETURN_IF_ERROR(CudaStatus(cudaEventRecord(done_, stream_), name_));
  while (true) {
    const cudaError_t state = cudaEventQuery(done_);
    if (state == cudaSuccess) return absl::OkStatus();
    if (state != cudaErrorNotReady) return CudaStatus(state, absl::StrCat(name_, ": ", what));
    ncclResult_t error = ncclSuccess;
    ncclCommGetAsyncError(communicator_, &error);
    if (error != ncclSuccess && error != ncclInProgress) {
      return absl::UnavailableError(
          absl::StrCat(name_, ": ", what, ": ", ncclGetErrorString(error)));
    }
    WB_RETURN_IF_ERROR(Expired(what, started, deadline));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace wideberth::transport
