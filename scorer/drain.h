// SPDX-License-Identifier: Apache-2.0
// How a scorer ends: tells the others, accepts nothing more, scores what is queued, and does not
// wait for ever. Used by scorer/main.cc.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "scorer/batcher.h"
#include "scorer/score_endpoint.h"

namespace wideberth::scorer {

// Thread-safe: the learner's word, a signal and the loss of the learner arrive on different
// threads. The first cause counts.
class Drain final {
 public:
  // From Begin on what is queued has `bound` to be scored, a batch that cannot be interrupted twice
  // that. `endpoint` and `clock` outlive it.
  Drain(ScoreEndpoint* endpoint, absl::Duration bound, const Clock* clock)
      : endpoint_(*endpoint), bound_(bound), clock_(*clock) {}

  // The batcher to serve with from now on, also to the endpoint; null before it goes. `announce` is
  // called when the end begins; it may not block.
  void Open(Batcher* batcher, std::function<void()> announce = nullptr) ABSL_LOCKS_EXCLUDED(mutex_);

  // The state reads "draining" from now on; the batcher is closed after `notice`, in which the
  // clients hear of it and go elsewhere, and a second cause closes it at once. False: none is open,
  // nothing was accepted, and the process may leave at once.
  bool Begin(const absl::Status& why, absl::string_view cause,
             absl::Duration notice = absl::ZeroDuration()) ABSL_LOCKS_EXCLUDED(mutex_);

  // To be called a few times a second. Past the bound answers what is left OVERLOADED and
  // interrupts the model; false when the device is past twice the bound.
  bool InTime() ABSL_LOCKS_EXCLUDED(mutex_);

  // Why it began; OK before.
  absl::Status why() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  ScoreEndpoint& endpoint_;
  const absl::Duration bound_;
  const Clock& clock_;
  mutable Mutex mutex_;
  Batcher* batcher_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::function<void()> announce_ ABSL_GUARDED_BY(mutex_);
  absl::Time began_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  absl::Time close_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  absl::Status why_ ABSL_GUARDED_BY(mutex_);
};

// 0 for OK; 2 for bad input, where another start would end the same way; 1 for anything else.
int ExitCode(const absl::Status& status);

}  // namespace wideberth::scorer
