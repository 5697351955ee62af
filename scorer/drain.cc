// SPDX-License-Identifier: Apache-2.0
#include "scorer/drain.h"

#include "base/log.h"

namespace wideberth::scorer {

void Drain::Open(Batcher* batcher) {
  MutexLock lock(mutex_);
  batcher_ = batcher;
  endpoint_.Open(batcher);
}

bool Drain::Begin(const absl::Status& why, absl::string_view cause) {
  MutexLock lock(mutex_);
  if (began_ == absl::InfiniteFuture()) {
    began_ = clock_.Now();
    why_ = why;
    WB_LOG(INFO) << cause << ": ending";
    endpoint_.NoteDrain();
    if (batcher_ != nullptr) batcher_->Close();
  }
  return batcher_ != nullptr;
}

bool Drain::InTime() {
  MutexLock lock(mutex_);
  const absl::Duration since = clock_.Now() - began_;
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
