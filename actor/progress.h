// SPDX-License-Identifier: Apache-2.0
// What heartbeats, the health page and metrics tell of an actor.
#pragma once

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "proto/wire.pb.h"

namespace wideberth::actor {

// Thread-safe.
class Progress final {
 public:
  void SetState(absl::string_view state);
  void SetVersion(uint64_t version);
  void SetError(absl::string_view error);
  // Decoding stood still for so long while the version changed.
  void SetSwap(absl::Duration took);
  void CountGenerated(int64_t num_tokens, absl::Duration took);
  void CountSubmitted();
  proto::MemberStatus Snapshot() const;

 private:
  mutable Mutex mutex_;
  proto::MemberStatus status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace wideberth::actor
