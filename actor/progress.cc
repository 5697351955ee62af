// SPDX-License-Identifier: Apache-2.0
#include "actor/progress.h"

#include <string>

#include "transport/message_limits.h"

namespace wideberth::actor {

void Progress::SetState(absl::string_view state) {
  MutexLock lock(mutex_);
  status_.set_state(std::string(state));
}

void Progress::SetVersion(uint64_t version) {
  MutexLock lock(mutex_);
  status_.set_policy_version(version);
}

void Progress::SetError(absl::string_view error) {
  MutexLock lock(mutex_);
  status_.set_last_error(std::string(error.substr(0, transport::kMaxSentenceBytes)));
}

void Progress::SetSwap(absl::Duration took) {
  MutexLock lock(mutex_);
  status_.set_swap_seconds(absl::ToDoubleSeconds(took));
}

void Progress::CountGenerated(int64_t num_tokens, absl::Duration took) {
  MutexLock lock(mutex_);
  status_.set_num_tokens(status_.num_tokens() + num_tokens);
  if (took > absl::ZeroDuration())
    status_.set_tokens_per_second(static_cast<double>(num_tokens) / absl::ToDoubleSeconds(took));
}

void Progress::CountSubmitted() {
  MutexLock lock(mutex_);
  status_.set_num_items(status_.num_items() + 1);
}

proto::MemberStatus Progress::Snapshot() const {
  MutexLock lock(mutex_);
  return status_;
}

}  // namespace wideberth::actor
