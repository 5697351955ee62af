// SPDX-License-Identifier: Apache-2.0
// Accepted groups wait here between the RPC threads that store them and the device thread that
// trains on them. The lease table bounds how many there can be. No torch and no RPC here.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "learner/lease_table.h"
#include "proto/wire.pb.h"

namespace wideberth::learner {

struct AcceptedGroup {
  Phase phase = Phase::kTrain;
  std::string member;  // "actor-0"
  proto::Prompt prompt;
  proto::SubmitGroupRequest request;
};

// Thread-safe.
class GroupPool {
 public:
  void Push(AcceptedGroup group);

  // Blocks until `n` groups of `phase` are there and takes them: the oldest policy versions first,
  // then the smallest ids, in order of id. Groups of other phases are thrown away. `between` is
  // called a few times a second, without the lock. Cancelled after `Interrupt`, the failure after
  // `Fail`, DeadlineExceeded when no group came for `patience` (the caller says who is to blame).
  absl::StatusOr<std::vector<AcceptedGroup>> Take(Phase phase, size_t n, absl::Duration patience,
                                                  const std::function<void()>& between);

  // Ends every Take that runs or comes later.
  void Interrupt();
  void Fail(const absl::Status& why);
  size_t size() const;

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<AcceptedGroup> groups_ ABSL_GUARDED_BY(mutex_);
  uint64_t num_pushed_ ABSL_GUARDED_BY(mutex_) = 0;
  bool interrupted_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace wideberth::learner
