// SPDX-License-Identifier: Apache-2.0
// Between the RPC threads that bring conversations and the device thread that scores them: a
// bounded queue that forms batches, merges identical items, remembers answers and keeps deadlines.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"
#include "scorer/batch_time.h"
#include "scorer/scoring_model.h"

namespace wideberth::scorer {

struct BatcherOptions {
  int64_t max_batch_tokens = 8192;  // New tokens of one batch; an item with more goes alone.
  absl::Duration max_batch_wait = absl::Milliseconds(10);
  int64_t queue_items = 1024;  // Accepted and not yet answered; beyond: OVERLOADED.
  int64_t cache_items = 16384;
  absl::Duration timeout = absl::Seconds(120);
  // An item that would be answered later is OVERLOADED, and a batch takes half of it at most, as
  // far as recent batches tell; zero: no cap.
  absl::Duration max_latency = absl::ZeroDuration();

  static BatcherOptions From(const proto::ScorerConfig& config);
};

// Counted since the start.
struct BatcherStats {
  int64_t num_waiting = 0;    // Accepted and not yet answered, now.
  int64_t num_in_flight = 0;  // Items of the batch the device works on, now.
  std::array<int64_t, proto::ScoreStatus_ARRAYSIZE> num_by_status{};
  int64_t num_cache_hits = 0;
  int64_t num_dropped = 0;  // Whose caller had gone before they came into a batch.
  int64_t num_merged = 0;   // Joined an identical item that was still unanswered.
  int64_t num_batches = 0;
  int64_t num_batch_items = 0;
  int64_t num_tokens = 0;  // Real tokens scored, the template's constant head and what a guard
                           // wrote included.
  int64_t last_batch_items = 0;
  double busy_seconds = 0;  // In ScoreBatch.
  GenerationStats generation;
  std::string last_error;  // The newest MODEL_ERROR or MALFORMED_OUTPUT.

  int64_t num_answered() const;
};

// Thread-safe. `Run` and `RunOnce` belong to the device thread and are the only callers of the
// model; every other function returns without waiting for it. Every accepted item is answered
// exactly once: by its score, from the cache, or TIMED_OUT when its deadline passes, for which
// somebody calls `ExpireOverdue` now and then.
//
// With `max_latency`: in flight is at most half a cap, the batch behind it takes at most half a
// cap, and an item that would come into a later batch is accepted only where the whole fits; so
// what is accepted is answered within the cap, as far as the device takes as long as it did.
class Batcher final {
 public:
  // Receives one score per item, in order, exactly once, on whichever thread completes the request;
  // not at all where the caller has gone. Must not block.
  using Done = std::function<void(std::vector<proto::Score>)>;
  // Set once nobody waits for the answer any more; null: somebody always does.
  using Gone = std::shared_ptr<const std::atomic<bool>>;

  // `model` and `clock` outlive the batcher.
  Batcher(const BatcherOptions& options, ScoringModel* model, const Clock* clock);
  // What is still unanswered is answered OVERLOADED.
  ~Batcher();
  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  // Answers known items at once, accepts others as far as there is room and time; the rest is
  // OVERLOADED, as is everything after `Close`. An idle batcher accepts one item whatever it costs.
  void Submit(const std::vector<proto::ScoreItem>& items, Done done, Gone gone = nullptr)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Answers TIMED_OUT wherever the deadline has passed, also in the batch the device is busy with;
  // a late value still enters the cache. Forgets those whose caller has gone.
  void ExpireOverdue() ABSL_LOCKS_EXCLUDED(mutex_);

  // Accepts nothing more; `Run` answers what is left and returns.
  void Close() ABSL_LOCKS_EXCLUDED(mutex_);
  // Answers all that is left OVERLOADED with `message`, so that clients go elsewhere, and
  // interrupts the model; for an end that may not wait for the device.
  void Abandon(const std::string& message) ABSL_LOCKS_EXCLUDED(mutex_);

  // Scores until closed and empty.
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  // Scores the next batch if one is due: the token budget is full, its oldest item has waited
  // `max_batch_wait`, or the batcher is closed. Else waits once, at most `max_block`, for a reason
  // to look again. Returns the number of distinct items scored.
  int64_t RunOnce(absl::Duration max_block) ABSL_LOCKS_EXCLUDED(mutex_);

  BatcherStats Stats() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Request {
    std::vector<proto::Score> scores;
    size_t num_missing = 0;
    Done done;
    Gone gone;
  };
  struct Waiter {
    std::shared_ptr<Request> request;
    size_t index = 0;
    absl::Time submitted;
  };
  // One distinct conversation, queued or in flight. Its waiters are guarded by the batcher's mutex,
  // the rest is constant.
  struct Entry {
    std::string key;
    proto::ScoreItem item;
    absl::Time arrived;
    double num_tokens = 0;  // Guarded as well. By its length until prepared, zero once unqueued.
    std::vector<Waiter> waiters;
  };
  struct Ready {
    std::shared_ptr<Entry> entry;
    PreparedItem prepared;
  };
  // Requests whose last score arrived; their callbacks run after the lock is released.
  using Completed = std::vector<std::shared_ptr<Request>>;
  static void CallBack(const Completed& completed);

  void Answer(const Waiter& waiter, proto::Score score, Completed* completed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Those whose deadline has passed.
  void AnswerOverdue(Entry& entry, const proto::Score& late, Completed* completed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AnswerAll(Entry& entry, const proto::Score& score, Completed* completed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remember(const std::string& key, const proto::Score& score)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  const proto::Score* Recall(const std::string& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropGone(Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Enqueue(std::shared_ptr<Entry> entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // It waits for a batch no longer.
  void Unqueue(Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Why an item of `num_tokens` cannot be accepted; empty where it can.
  std::string WhyNot(double num_tokens) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  double TokensOf(const proto::ScoreItem& item) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // From now to the answer of an item of `num_tokens` that would be accepted, its batch as full as
  // it may become.
  absl::Duration ExpectedLatency(double num_tokens) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t BatchLimit() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // Tokens.
  absl::Duration UntilDue() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Device thread: arrivals become ready until a batch is full.
  void PrepareArrivals() ABSL_LOCKS_EXCLUDED(mutex_);
  void NotePrepared(Entry& entry, const PreparedItem& prepared) ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<Ready> TakeBatch() ABSL_LOCKS_EXCLUDED(mutex_);
  void ScoreAndAnswer(std::vector<Ready> batch) ABSL_LOCKS_EXCLUDED(mutex_);

  const BatcherOptions options_;
  ScoringModel* const model_;
  const Clock& clock_;

  // Device thread only.
  std::deque<Ready> ready_;
  int64_t ready_tokens_ = 0;

  mutable Mutex mutex_;
  CondVar changed_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<std::shared_ptr<Entry>> arrived_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<std::string, std::shared_ptr<Entry>> unanswered_
      ABSL_GUARDED_BY(mutex_);  // By key: queued, ready or in flight.
  using CacheList = std::list<std::pair<std::string, proto::Score>>;  // Most recently used first.
  CacheList cache_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<std::string, CacheList::iterator> cache_index_ ABSL_GUARDED_BY(mutex_);
  BatcherStats stats_ ABSL_GUARDED_BY(mutex_);
  double queued_tokens_ ABSL_GUARDED_BY(mutex_) = 0;  // Of entries accepted and not in a batch.
  double read_bytes_ ABSL_GUARDED_BY(mutex_) = 0, read_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  BatchTime batch_time_ ABSL_GUARDED_BY(mutex_);
  // Of the batch in flight.
  absl::Time batch_started_ ABSL_GUARDED_BY(mutex_);
  absl::Duration batch_expected_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace wideberth::scorer
