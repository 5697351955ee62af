// SPDX-License-Identifier: Apache-2.0
// The only way objects pass between two threads of a process: bounded, with deadlines, closable.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/mutex.h"

namespace wideberth {

// Thread-safe. After `Close`, pushes fail and pops drain what is left; every waiter wakes.
template <typename T>
class BoundedQueue final {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}

  // ResourceExhausted at once when the queue is full, Cancelled when closed; `item` is moved from
  // only on success.
  absl::Status TryPush(T& item) {
    MutexLock lock(mutex_);
    if (closed_) return absl::CancelledError("queue is closed");
    if (items_.size() >= capacity_) return absl::ResourceExhaustedError("queue is full");
    items_.push_back(std::move(item));
    not_empty_.Signal();
    return absl::OkStatus();
  }

  // Blocks while full, at most `timeout`. DeadlineExceeded or Cancelled otherwise.
  absl::Status Push(T item, absl::Duration timeout) {
    const absl::Time deadline = absl::Now() + timeout;
    MutexLock lock(mutex_);
    while (!closed_ && items_.size() >= capacity_) {
      const absl::Duration left = deadline - absl::Now();
      if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("queue stayed full");
      not_full_.WaitFor(mutex_, left);
    }
    if (closed_) return absl::CancelledError("queue is closed");
    items_.push_back(std::move(item));
    not_empty_.Signal();
    return absl::OkStatus();
  }

  // Blocks while empty, at most `timeout`. Empty result: nothing came, or closed and drained.
  std::optional<T> Pop(absl::Duration timeout) {
    const absl::Time deadline = absl::Now() + timeout;
    MutexLock lock(mutex_);
    while (items_.empty()) {
      if (closed_) return std::nullopt;
      const absl::Duration left = deadline - absl::Now();
      if (left <= absl::ZeroDuration()) return std::nullopt;
      not_empty_.WaitFor(mutex_, left);
    }
    T item = std::move(items_.front());
    items_.pop_front();
    not_full_.Signal();
    return item;
  }

  void Close() {
    MutexLock lock(mutex_);
    closed_ = true;
    not_empty_.SignalAll();
    not_full_.SignalAll();
  }

  bool closed() const {
    MutexLock lock(mutex_);
    return closed_;
  }
  size_t size() const {
    MutexLock lock(mutex_);
    return items_.size();
  }

 private:
  const size_t capacity_;
  mutable Mutex mutex_;
  CondVar not_empty_;
  CondVar not_full_;
  std::deque<T> items_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace wideberth
