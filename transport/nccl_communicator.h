// SPDX-License-Identifier: Apache-2.0
// One NCCL communicator with its stream and a buffer in device memory: what the weight wire
// (nccl_broadcast.cc) and the learner ranks' gradients (nccl_sums.cc) have in common. Every wait
// has a deadline; after an error nothing but the destructor, which aborts, may be called. `gpu`
// preset only; private to transport, since it names NCCL's types.
#pragma once

#include <cuda_runtime.h>
#include <nccl.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "transport/collective.h"

namespace wideberth::transport {

class NcclCommunicator {
 public:
  // `name` is for errors: "weight group 3 (rank 0 of 2)".
  NcclCommunicator(std::string name, int device, int rank, int size)
      : name_(std::move(name)), device_(device), rank_(rank), size_(size) {}
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  static absl::StatusOr<std::string> NewUniqueId();
  // Until all members have joined.
  absl::Status Open(const std::string& unique_id, absl::Time deadline);
  // Main memory: `data` is read on rank 0 and written on the others.
  absl::Status Broadcast(char* data, uint64_t num_bytes, absl::Time deadline);
  // Device memory, in place; what is queued on the device's other streams is awaited first.
  absl::Status AllReduceSum(const FlatBuffer& buffer, absl::Time deadline);

  // Waits end as soon as `*interrupted` is set; null: by their deadlines only.
  void EndWaitsOn(const std::atomic<bool>* interrupted) { interrupted_ = interrupted; }

  int rank() const { return rank_; }
  const std::string& name() const { return name_; }
  // For calls from another thread than the last one's.
  absl::Status UseDevice() const;

 private:
  absl::Status Settle(ncclResult_t result, absl::string_view what, absl::Time deadline);
  absl::Status Expired(absl::string_view what, absl::Time started, absl::Time deadline) const;
  absl::Status Reserve(uint64_t num_bytes);
  absl::Status WaitForStream(absl::string_view what, absl::Time deadline);

  const std::string name_;
  const int device_, rank_, size_;
  const std::atomic<bool>* interrupted_ = nullptr;
  ncclComm_t communicator_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t done_ = nullptr;
  void* buffer_ = nullptr;
  uint64_t buffer_bytes_ = 0;
};

}  // namespace wideberth::transport
