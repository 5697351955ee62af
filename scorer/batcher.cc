// SPDX-License-Identifier: Apache-2.0
// Batches for the device thread. The lock covers bookkeeping only: neither the model nor a callback
// runs under it.
#include "scorer/batcher.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "scorer/conversation_key.h"

namespace wideberth::scorer {
BatcherOptions BatcherOptions::From(const proto::ScorerConfig& config) {
  BatcherOptions options;
  options.max_batch_tokens = config.max_batch_tokens();
  options.max_batch_wait = absl::Milliseconds(config.max_batch_wait_ms());
  options.queue_items = config.queue_items();
  options.cache_items = config.cache_items();
  options.timeout = absl::Seconds(config.timeout());
  options.max_latency = absl::Milliseconds(config.max_latency_ms());
  return options;
}

int64_t BatcherStats::num_answered() const {
  int64_t sum = 0;
  for (int64_t count : num_by_status) sum += count;
  return sum;
}

Batcher::Batcher(const BatcherOptions& options, ScoringModel* model, const Clock* clock)
    : options_(options), model_(model), clock_(*clock) {}

Batcher::~Batcher() { Abandon("the scorer has ended"); }

void Batcher::CallBack(const Completed& completed) {
  for (const std::shared_ptr<Request>& request : completed)
    request->done(std::move(request->scores));
}

void Batcher::Answer(const Waiter& waiter, proto::Score score, Completed* completed) {
  score.set_latency_ms(absl::ToDoubleMilliseconds(clock_.Now() - waiter.submitted));
  ++stats_.num_by_status[score.status()];
  if (score.status() == proto::MODEL_ERROR || score.status() == proto::MALFORMED_OUTPUT)
    stats_.last_error = score.message();
  Request& request = *waiter.request;
  request.scores[waiter.index] = std::move(score);
  if (--request.num_missing == 0) completed->push_back(waiter.request);
}

void Batcher::AnswerAll(Entry& entry, const proto::Score& score, Completed* completed) {
  for (const Waiter& waiter : entry.waiters) Answer(waiter, score, completed);
  stats_.num_waiting -= static_cast<int64_t>(entry.waiters.size());
  entry.waiters.clear();
}

void Batcher::AnswerOverdue(Entry& entry, const proto::Score& late, Completed* completed) {
  const absl::Time now = clock_.Now();
  std::vector<Waiter>& waiters = entry.waiters;
  const auto overdue = std::stable_partition(
      waiters.begin(), waiters.end(),
      [&](const Waiter& waiter) { return now < waiter.submitted + options_.timeout; });
  for (auto waiter = overdue; waiter != waiters.end(); ++waiter) Answer(*waiter, late, completed);
  stats_.num_waiting -= waiters.end() - overdue;
  waiters.erase(overdue, waiters.end());
}

void Batcher::DropGone(Entry& entry) {
  std::vector<Waiter>& waiters = entry.waiters;
  const auto gone = std::stable_partition(waiters.begin(), waiters.end(), [](const Waiter& waiter) {
    return waiter.request->gone == nullptr || !*waiter.request->gone;
  });
  if (gone == waiters.end()) return;
  stats_.num_dropped += waiters.end() - gone;
  stats_.num_waiting -= waiters.end() - gone;
  waiters.erase(gone, waiters.end());
  if (waiters.empty()) Unqueue(entry);
}

void Batcher::Remember(const std::string& key, const proto::Score& score) {
  if (options_.cache_items <= 0 || cache_index_.count(key) > 0) return;
  cache_.emplace_front(key, score);
  cache_.front().second.set_cached(true);
  cache_index_[key] = cache_.begin();
  if (static_cast<int64_t>(cache_.size()) > options_.cache_items) {
    cache_index_.erase(cache_.back().first);
    cache_.pop_back();
  }
}

const proto::Score* Batcher::Recall(const std::string& key) {
  const auto found = cache_index_.find(key);
  if (found == cache_index_.end()) return nullptr;
  cache_.splice(cache_.begin(), cache_, found->second);
  return &found->second->second;
}

double Batcher::TokensOf(const proto::ScoreItem& item) const {
  size_t bytes = item.completion().size();
  for (const proto::ChatMessage& message : item.prompt()) bytes += message.content().size();
  const double tokens_per_byte = read_bytes_ > 0 ? read_tokens_ / read_bytes_ : 0.25;
  return std::max(1.0, tokens_per_byte * static_cast<double>(bytes));
}

int64_t Batcher::BatchLimit() const {
  if (options_.max_latency <= absl::ZeroDuration() || !batch_time_.known())
    return options_.max_batch_tokens;
  return std::min(options_.max_batch_tokens, batch_time_.TokensWithin(options_.max_latency / 2));
}

absl::Duration Batcher::ExpectedLatency(double num_tokens) const {
  absl::Duration until_start;
  if (stats_.num_in_flight > 0) {
    const absl::Duration left = batch_started_ + batch_expected_ - clock_.Now();
    // One that is late by so much is expected to take as long again.
    until_start = left < absl::ZeroDuration() ? -left : left;
  }
  const double limit = static_cast<double>(BatchLimit());
  if (queued_tokens_ + num_tokens < limit)
    until_start = std::max(until_start, options_.max_batch_wait);
  const double num_batches = std::max(1.0, std::ceil((queued_tokens_ + num_tokens) / limit));
  return until_start + (num_batches - 1) * batch_time_.Of(limit) +
         batch_time_.Of(std::max(limit, num_tokens));
}

std::string Batcher::WhyNot(double num_tokens) const {
  if (closed_) return "the scorer is ending";
  if (stats_.num_waiting >= options_.queue_items) {
    return absl::StrCat("the queue holds ", stats_.num_waiting, " items, at most ",
                        options_.queue_items);
  }
  if (options_.max_latency <= absl::ZeroDuration() || stats_.num_waiting == 0 ||
      !batch_time_.known())
    return "";
  const absl::Duration expected = ExpectedLatency(num_tokens);
  if (expected <= options_.max_latency) return "";
  return absl::StrCat("it would be answered after about ",
                      absl::FormatDuration(absl::Trunc(expected, absl::Milliseconds(1))),
                      ", behind ", stats_.num_waiting, " items; at most ",
                      absl::FormatDuration(options_.max_latency), " (max_latency_ms)");
}

void Batcher::Enqueue(std::shared_ptr<Entry> entry) {
  queued_tokens_ += entry->num_tokens;
  arrived_.push_back(std::move(entry));
}

void Batcher::Unqueue(Entry& entry) {
  queued_tokens_ -= entry.num_tokens;
  entry.num_tokens = 0;
}

void Batcher::Submit(const std::vector<proto::ScoreItem>& items, Done done, Gone gone) {
  std::vector<std::string> keys;
  for (const proto::ScoreItem& item : items) keys.push_back(ConversationKey(item));
  auto request = std::make_shared<Request>();
  request->scores.resize(items.size());
  request->num_missing = items.size();
  request->done = std::move(done);
  request->gone = std::move(gone);
  Completed completed;
  if (items.empty()) completed.push_back(request);
  {
    MutexLock lock(mutex_);
    const absl::Time now = clock_.Now();
    for (size_t i = 0; i < items.size(); ++i) {
      Waiter waiter{request, i, now};
      if (const proto::Score* known = Recall(keys[i])) {
        ++stats_.num_cache_hits;
        Answer(waiter, *known, &completed);
        continue;
      }
      const double num_tokens = TokensOf(items[i]);
      if (const std::string why = WhyNot(num_tokens); !why.empty()) {
        Answer(waiter, MakeScore(model_->identity(), proto::OVERLOADED, why), &completed);
        continue;
      }
      ++stats_.num_waiting;
      std::shared_ptr<Entry>& entry = unanswered_[keys[i]];
      if (entry != nullptr) {
        ++stats_.num_merged;
      } else {
        entry = std::make_shared<Entry>();
        entry->key = keys[i];
        entry->item = items[i];
        entry->arrived = now;
        entry->num_tokens = num_tokens;
        Enqueue(entry);
      }
      entry->waiters.push_back(std::move(waiter));
    }
    changed_.Signal();
  }
  CallBack(completed);
}

void Batcher::ExpireOverdue() {
  Completed completed;
  {
    MutexLock lock(mutex_);
    const proto::Score late =
        MakeScore(model_->identity(), proto::TIMED_OUT,
                  absl::StrCat("not scored within ", absl::FormatDuration(options_.timeout)));
    for (auto& [key, entry] : unanswered_) {
      DropGone(*entry);
      AnswerOverdue(*entry, late, &completed);
    }
  }
  CallBack(completed);
}

void Batcher::Close() {
  MutexLock lock(mutex_);
  closed_ = true;
  changed_.SignalAll();
}

void Batcher::Abandon(const std::string& message) {
  Completed completed;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    const proto::Score score = MakeScore(model_->identity(), proto::OVERLOADED, message);
    for (auto& [key, entry] : unanswered_) AnswerAll(*entry, score, &completed);
    changed_.SignalAll();
  }
  model_->Interrupt();
  CallBack(completed);
}

void Batcher::NotePrepared(Entry& entry, const PreparedItem& prepared) {
  MutexLock lock(mutex_);
  // What it was taken for tells how far the guess is off; old items fade.
  constexpr double kFading = 0.99;
  const double tokens_per_byte = read_bytes_ > 0 ? read_tokens_ / read_bytes_ : 0.25;
  const double num_tokens = static_cast<double>(prepared.num_new_tokens);
  if (entry.num_tokens == 0) return;  // Its callers have just gone.
  read_bytes_ = kFading * read_bytes_ + entry.num_tokens / tokens_per_byte;
  read_tokens_ = kFading * read_tokens_ + num_tokens;
  queued_tokens_ += num_tokens - entry.num_tokens;
  entry.num_tokens = num_tokens;
}

void Batcher::PrepareArrivals() {
  for (;;) {
    std::shared_ptr<Entry> entry;
    {
      MutexLock lock(mutex_);
      if (arrived_.empty() || ready_tokens_ >= BatchLimit()) return;
      entry = std::move(arrived_.front());
      arrived_.pop_front();
      if (entry->waiters.empty()) {
        Unqueue(*entry);
        unanswered_.erase(entry->key);
        continue;
      }
    }
    PreparedItem prepared = model_->Prepare(entry->item);
    if (prepared.refusal.empty()) {
      NotePrepared(*entry, prepared);
      ready_tokens_ += prepared.num_new_tokens;
      ready_.push_back({std::move(entry), std::move(prepared)});
      continue;
    }
    Completed completed;
    {
      MutexLock lock(mutex_);
      Unqueue(*entry);
      unanswered_.erase(entry->key);
      AnswerAll(*entry, MakeScore(model_->identity(), proto::REFUSED_INPUT, prepared.refusal),
                &completed);
    }
    CallBack(completed);
  }
}

absl::Duration Batcher::UntilDue() const {
  if (ready_.empty()) return absl::InfiniteDuration();
  if (closed_ || ready_tokens_ >= BatchLimit()) return absl::ZeroDuration();
  return ready_.front().entry->arrived + options_.max_batch_wait - clock_.Now();
}

std::vector<Batcher::Ready> Batcher::TakeBatch() {
  std::vector<Ready> batch;
  int64_t num_tokens = 0;
  MutexLock lock(mutex_);
  const int64_t limit = BatchLimit();
  while (!ready_.empty()) {
    const int64_t item_tokens = ready_.front().prepared.num_new_tokens;
    const bool wanted = !ready_.front().entry->waiters.empty();
    if (wanted && !batch.empty() && num_tokens + item_tokens > limit) break;
    Ready next = std::move(ready_.front());
    ready_.pop_front();
    ready_tokens_ -= item_tokens;
    Unqueue(*next.entry);
    if (!wanted) {
      unanswered_.erase(next.entry->key);
      continue;
    }
    num_tokens += item_tokens;
    next.prepared.deadline = next.entry->waiters.back().submitted + options_.timeout;
    batch.push_back(std::move(next));
  }
  stats_.num_in_flight = static_cast<int64_t>(batch.size());
  batch_started_ = clock_.Now();
  batch_expected_ = batch_time_.Of(static_cast<double>(num_tokens));
  return batch;
}

void Batcher::ScoreAndAnswer(std::vector<Ready> batch) {
  std::vector<PreparedItem> items;
  int64_t num_tokens = 0, num_new_tokens = 0;
  for (Ready& ready : batch) {
    num_new_tokens += ready.prepared.num_new_tokens;
    num_tokens += static_cast<int64_t>(ready.prepared.tokens.size());
    items.push_back(std::move(ready.prepared));
  }
  const absl::Time start = clock_.Now();
  const std::vector<proto::Score> scores = model_->ScoreBatch(items);
  WB_CHECK(scores.size() == batch.size(), "a scoring model answers every item");
  Completed completed;
  {
    MutexLock lock(mutex_);
    stats_.busy_seconds += absl::ToDoubleSeconds(clock_.Now() - start);
    batch_time_.Add(num_new_tokens, clock_.Now() - start);
    stats_.num_in_flight = 0;
    ++stats_.num_batches;
    stats_.last_batch_items = static_cast<int64_t>(batch.size());
    stats_.num_batch_items += stats_.last_batch_items;
    const GenerationStats generation = model_->generation();
    stats_.num_tokens += num_tokens + generation.num_tokens - stats_.generation.num_tokens;
    stats_.generation = generation;
    for (size_t i = 0; i < batch.size(); ++i) {
      if (scores[i].status() == proto::SCORED) Remember(batch[i].entry->key, scores[i]);
      if (scores[i].status() == proto::TIMED_OUT) {
        // Who asked for the same while it was generated has a deadline of their own.
        AnswerOverdue(*batch[i].entry, scores[i], &completed);
        if (!batch[i].entry->waiters.empty()) {
          Enqueue(batch[i].entry);
          continue;
        }
      }
      unanswered_.erase(batch[i].entry->key);
      AnswerAll(*batch[i].entry, scores[i], &completed);
    }
  }
  CallBack(completed);
}

int64_t Batcher::RunOnce(absl::Duration max_block) {
  PrepareArrivals();
  {
    MutexLock lock(mutex_);
    const absl::Duration until_due = UntilDue();
    if (until_due > absl::ZeroDuration()) {
      const absl::Duration wait = std::min(until_due, max_block);
      if (arrived_.empty() && !closed_ && wait > absl::ZeroDuration())
        changed_.WaitFor(mutex_, wait);
      return 0;
    }
  }
  ExpireOverdue();
  std::vector<Ready> batch = TakeBatch();
  const int64_t num_items = static_cast<int64_t>(batch.size());
  if (num_items > 0) ScoreAndAnswer(std::move(batch));
  return num_items;
}

void Batcher::Run() {
  for (;;) {
    RunOnce(absl::Seconds(1));
    if (!ready_.empty()) continue;
    MutexLock lock(mutex_);
    if (closed_ && arrived_.empty()) return;
  }
}

BatcherStats Batcher::Stats() const {
  MutexLock lock(mutex_);
  return stats_;
}

}  // namespace wideberth::scorer
