// SPDX-License-Identifier: Apache-2.0
#include "learner/group_pool.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace wideberth::learner {

void GroupPool::Push(AcceptedGroup group) {
  MutexLock lock(mutex_);
  groups_.push_back(std::move(group));
  ++num_pushed_;
  changed_.SignalAll();
}

absl::StatusOr<std::vector<AcceptedGroup>> GroupPool::Take(Phase phase, size_t n,
                                                           absl::Duration patience,
                                                           const std::function<void()>& between) {
  constexpr absl::Duration kBetween = absl::Milliseconds(300);
  absl::Time last_news = absl::Now();
  uint64_t seen = 0;
  while (true) {
    {
      MutexLock lock(mutex_);
      if (!failure_.ok()) return failure_;
      if (interrupted_) return absl::CancelledError("asked to stop");
      groups_.erase(std::remove_if(groups_.begin(), groups_.end(),
                                   [&](const AcceptedGroup& g) { return g.phase != phase; }),
                    groups_.end());
      if (groups_.size() >= n) {
        const auto key = [](const AcceptedGroup& g) {
          return std::make_pair(g.request.policy_version(), g.request.group_id());
        };
        std::sort(groups_.begin(), groups_.end(),
                  [&](const AcceptedGroup& a, const AcceptedGroup& b) { return key(a) < key(b); });
        std::vector<AcceptedGroup> taken(std::make_move_iterator(groups_.begin()),
                                         std::make_move_iterator(groups_.begin() + n));
        groups_.erase(groups_.begin(), groups_.begin() + n);
        // The order of arrival must not reach the arithmetic: the same groups give the same step.
        std::sort(taken.begin(), taken.end(), [](const AcceptedGroup& a, const AcceptedGroup& b) {
          return a.request.group_id() < b.request.group_id();
        });
        return taken;
      }
      if (num_pushed_ != seen) {
        seen = num_pushed_;
        last_news = absl::Now();
      }
      const absl::Duration left = last_news + patience - absl::Now();
      if (left <= absl::ZeroDuration()) {
        return absl::DeadlineExceededError(
            absl::StrCat("no group was accepted for ", absl::FormatDuration(patience), "; ",
                         groups_.size(), " of ", n, " groups are here"));
      }
      changed_.WaitFor(mutex_, std::min(left, kBetween));
    }
    if (between) between();
  }
}

void GroupPool::Interrupt() {
  MutexLock lock(mutex_);
  interrupted_ = true;
  changed_.SignalAll();
}

void GroupPool::Fail(const absl::Status& why) {
  MutexLock lock(mutex_);
  if (failure_.ok()) failure_ = why;
  changed_.SignalAll();
}

size_t GroupPool::size() const {
  MutexLock lock(mutex_);
  return groups_.size();
}

}  // namespace wideberth::learner
