// SPDX-License-Identifier: Apache-2.0
#include "transport/collective.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/status.h"

namespace wideberth::transport {
namespace {

constexpr int kLanes = 4;  // Chunks of one operation under way at once.

// The first error of several threads.
class FirstError {
 public:
  bool ok() const {
    MutexLock lock(mutex_);
    return status_.ok();
  }
  void Note(const absl::Status& status) {
    MutexLock lock(mutex_);
    if (status_.ok()) status_ = status;
  }
  absl::Status status() const {
    MutexLock lock(mutex_);
    return status_;
  }

 private:
  mutable Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::Status StarCollective::AllReduceSum(absl::string_view operation, const FlatBuffer& buffer) {
  const int64_t value_bytes = buffer.dtype == proto::FLOAT64 ? 8 : 4;
  const int64_t total = buffer.num_values * value_bytes;
  const int64_t step = std::max(value_bytes, chunk_bytes_ / value_bytes * value_bytes);
  // An empty buffer has one empty chunk: its ranks meet all the same.
  const auto num_chunks = static_cast<int>(std::max<int64_t>(1, (total + step - 1) / step));
  proto::CombineRequest common;
  common.set_rank(rank_);
  common.set_sequence(next_sequence_++);
  common.set_operation(std::string(operation));
  common.set_num_chunks(num_chunks);
  common.set_kind(proto::CombineRequest::SUM);
  common.set_dtype(buffer.dtype);
  auto* const bytes = static_cast<char*>(buffer.data);
  FirstError failed;
  const auto lane = [&](int first) {
    proto::CombineRequest part = common;
    for (int chunk = first; chunk < num_chunks && failed.ok(); chunk += kLanes) {
      char* const begin = bytes + chunk * step;
      const int64_t size = std::min(step, total - chunk * step);
      part.set_chunk(chunk);
      part.set_data(begin, size);
      const absl::StatusOr<proto::CombineResponse> sum = wire_->Combine(part);
      if (!sum.ok()) return failed.Note(sum.status());
      if (sum->data_size() != 1 || static_cast<int64_t>(sum->data(0).size()) != size) {
        return failed.Note(absl::DataLossError(absl::StrCat(
            operation, ": the sum of chunk ", chunk, " has ",
            sum->data_size() == 1 ? sum->data(0).size() : 0, " bytes, expected ", size)));
      }
      std::copy_n(sum->data(0).data(), size, begin);  // Which is null where nothing is summed.
    }
  };
  {
    std::vector<std::jthread> lanes;
    for (int i = 1; i < std::min(kLanes, num_chunks); ++i) lanes.emplace_back(lane, i);
    lane(0);
  }
  return failed.status();
}

absl::StatusOr<std::vector<std::string>> StarCollective::AllGather(absl::string_view operation,
                                                                   std::string mine) {
  proto::CombineRequest part;
  part.set_rank(rank_);
  part.set_sequence(next_sequence_++);
  part.set_operation(std::string(operation));
  part.set_chunk(0);
  part.set_num_chunks(1);
  part.set_kind(proto::CombineRequest::GATHER);
  part.set_data(std::move(mine));
  WB_ASSIGN_OR_RETURN(proto::CombineResponse all, wire_->Combine(part));
  if (all.data_size() != world_size_) {
    return absl::DataLossError(
        absl::StrCat(operation, ": ", all.data_size(), " ranks, expected ", world_size_));
  }
  return std::vector<std::string>(std::make_move_iterator(all.mutable_data()->begin()),
                                  std::make_move_iterator(all.mutable_data()->end()));
}

}  // namespace wideberth::transport
