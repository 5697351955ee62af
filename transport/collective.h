// SPDX-License-Identifier: Apache-2.0
// What the learner's ranks do together in an optimiser step: add up their gradients, show each
// other their numbers. One rank does it alone; several go through rank 0 (rank_hub.h,
// rank_client.h) or, for gradients on GPUs, between them (device_collective.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/ranks.pb.h"

namespace wideberth::transport {

// Numbers of the caller's, in its memory or, where the collective takes it, a device's.
struct FlatBuffer {
  void* data = nullptr;
  int64_t num_values = 0;
  proto::DType dtype = proto::FLOAT32;  // FLOAT32 or FLOAT64.
};

// All ranks call the same operations in the same order, each from one thread. A call blocks until
// the parts of all ranks are there, at most learner.rank_timeout after the first of them; the error
// then names the missing rank, its host, the operation and how long it was waited for. After an
// error every further call fails with it, on every rank.
class Collective {
 public:
  virtual ~Collective() = default;
  virtual int rank() const = 0;
  virtual int world_size() const = 0;

  // In place. The same bytes on every rank, whatever the order in which they came. `operation` is
  // for people and must be equal everywhere: "gradient of step 7".
  virtual absl::Status AllReduceSum(absl::string_view operation, const FlatBuffer& buffer) = 0;
  // What every rank gave, by rank.
  virtual absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view operation,
                                                             std::string mine) = 0;
  // Whether AllReduceSum takes buffers on this rank's device; otherwise in main memory.
  virtual bool on_device() const { return false; }
};

class OneRank final : public Collective {
 public:
  int rank() const override { return 0; }
  int world_size() const override { return 1; }
  absl::Status AllReduceSum(absl::string_view, const FlatBuffer&) override {
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view, std::string mine) override {
    return std::vector<std::string>{std::move(mine)};
  }
  bool on_device() const override { return true; }
};

// Brings one part of an operation to rank 0 and its result back. Thread-safe; blocks. Repeating a
// part is harmless.
class RankWire {
 public:
  virtual ~RankWire() = default;
  virtual absl::StatusOr<proto::CombineResponse> Combine(const proto::CombineRequest& part) = 0;
};

// Through rank 0, several chunks under way at once.
class StarCollective final : public Collective {
 public:
  // `wire` outlives it. `chunk_bytes` must be equal on all ranks.
  StarCollective(int rank, int world_size, RankWire* wire, int64_t chunk_bytes = int64_t{4} << 20)
      : rank_(rank), world_size_(world_size), wire_(wire), chunk_bytes_(chunk_bytes) {}

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  absl::Status AllReduceSum(absl::string_view operation, const FlatBuffer& buffer) override;
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view operation,
                                                     std::string mine) override;

 private:
  const int rank_;
  const int world_size_;
  RankWire* const wire_;
  const int64_t chunk_bytes_;
  int64_t next_sequence_ = 0;
};

}  // namespace wideberth::transport
