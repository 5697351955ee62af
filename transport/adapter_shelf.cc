// SPDX-License-Identifier: Apache-2.0
#include "transport/adapter_shelf.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace wideberth::transport {
namespace {

void Tell(const std::vector<std::weak_ptr<AdapterShelf::Waiter>>& waiters,
          const std::shared_ptr<const AdapterBlob>& blob) {
  for (const std::weak_ptr<AdapterShelf::Waiter>& waiter : waiters) {
    if (const auto alive = waiter.lock(); alive != nullptr) alive->Published(blob);
  }
}

}  // namespace

void AdapterShelf::Put(std::shared_ptr<const AdapterBlob> blob,
                       std::vector<std::weak_ptr<Waiter>>* waiters) {
  newest_ = std::move(blob);
  in_memory_.erase(std::remove_if(in_memory_.begin(), in_memory_.end(),
                                  [](const auto& version) { return version.expired(); }),
                   in_memory_.end());
  in_memory_.push_back(newest_);
  waiters->swap(waiters_);
}

absl::Status AdapterShelf::Publish(std::shared_ptr<const AdapterBlob> blob) {
  WB_RETURN_IF_ERROR(VerifyAdapterBlob(*blob));
  std::vector<std::weak_ptr<Waiter>> waiters;
  {
    MutexLock lock(mutex_);
    if (newest_ != nullptr && blob->manifest.version() <= newest_->manifest.version()) {
      return absl::InvalidArgumentError(
          absl::StrCat("adapter version ", blob->manifest.version(), " published after version ",
                       newest_->manifest.version(), ", must be higher"));
    }
    Put(blob, &waiters);
  }
  Tell(waiters, blob);
  return absl::OkStatus();
}

void AdapterShelf::PassOn(std::shared_ptr<const AdapterBlob> blob) {
  std::vector<std::weak_ptr<Waiter>> waiters;
  {
    MutexLock lock(mutex_);
    Put(blob, &waiters);
  }
  Tell(waiters, blob);
}

std::shared_ptr<const AdapterBlob> AdapterShelf::Newest(
    const proto::FetchAdapterRequest& request) const {
  MutexLock lock(mutex_);
  return NewestLocked(request);
}

std::shared_ptr<const AdapterBlob> AdapterShelf::NewestLocked(
    const proto::FetchAdapterRequest& request) const {
  if (newest_ == nullptr) return nullptr;
  if (request.have_any() && newest_->manifest.version() <= request.have_version()) return nullptr;
  return newest_;
}

std::shared_ptr<const AdapterBlob> AdapterShelf::NewestOrWait(
    const proto::FetchAdapterRequest& request, const std::weak_ptr<Waiter>& waiter) {
  MutexLock lock(mutex_);
  if (std::shared_ptr<const AdapterBlob> newest = NewestLocked(request); newest != nullptr)
    return newest;
  waiters_.erase(std::remove_if(waiters_.begin(), waiters_.end(),
                                [](const auto& other) { return other.expired(); }),
                 waiters_.end());
  waiters_.push_back(waiter);
  return nullptr;
}

bool AdapterShelf::Keeps(const AdapterBlob& blob) const {
  MutexLock lock(mutex_);
  int num_newer = 0;
  for (auto version = in_memory_.rbegin(); version != in_memory_.rend(); ++version) {
    const std::shared_ptr<const AdapterBlob> alive = version->lock();
    if (alive.get() == &blob) return true;
    if (alive != nullptr && ++num_newer >= kMaxVersions) return false;
  }
  return true;
}

}  // namespace wideberth::transport
