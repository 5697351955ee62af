// SPDX-License-Identifier: Apache-2.0
#include "scorer/drain.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace wideberth::scorer {

void Drain::Open(Batcher* batcher, std::function<void()> announce) {
  MutexLock lock(mutex_);
  announce_ = std::move(announce);
  batcher_ = batcher;
  endpoint_.Open(batcher);
}

bool Drain::Begin(const absl::Status& why, absl::string_view cause, absl::Duration notice) {
  MutexLock lock(mutex_);
  const absl::Time now = clock_.Now();
  if (began_ == absl::InfiniteFuture()) {
    began_ = now;
    why_ = why;
    WB_LOG(INFO) << cause << ": ending";
    endpoint_.NoteDrain();
    if (announce_) announce_();
  }
  close_at_ = std::min(close_at_, now + notice);
  if (batcher_ != nullptr && now >= close_at_) batcher_->Close();
  return batcher_ != nullptr;
}

bool Drain::InTime() {
  MutexLock lock(mutex_);
  const absl::Time now = clock_.Now();
  const absl::Duration since = now - began_;
  if (batcher_ != nullptr && now >= close_at_) batcher_->Close();
  if (since < bound_) return true;
  if (batcher_ != nullptr) batcher_->Abandon("the scorer was told to end");
  return since < 2 * bound_;
}

absl::Status Drain::why() const {
  MutexLock lock(mutex_);
  return why_;
}

int ExitCode(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kDataLoss:
      return 2;
    default:
      return 1;
  }
}

}  // namespace wideberth::scorer
