// SPDX-License-Identifier: Apache-2.0
#include "scorer/score_endpoint.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "transport/message_limits.h"

namespace wideberth::scorer {
namespace {

constexpr absl::Duration kRateWindow = absl::Seconds(10);

proto::ScoreResponse Response(std::vector<proto::Score> scores) {
  proto::ScoreResponse response;
  for (proto::Score& score : scores) *response.add_score() = std::move(score);
  return response;
}

}  // namespace

ScoreEndpoint::ScoreEndpoint(std::string scorer_name, transport::Metrics* metrics,
                             const Clock* clock)
    : scorer_name_(std::move(scorer_name)),
      clock_(*clock),
      cache_hits_(
          metrics->NewCounter("wideberth_scorer_cache_hits_total", "Items answered from memory.")),
      merged_(metrics->NewCounter("wideberth_scorer_merged_items_total",
                                  "Items that joined an identical one still unanswered.")),
      batches_(metrics->NewCounter("wideberth_scorer_batches_total", "Batches scored.")),
      batch_items_(metrics->NewCounter("wideberth_scorer_batch_items_total",
                                       "Distinct items in all batches.")),
      tokens_(metrics->NewCounter("wideberth_scorer_tokens_total",
                                  "Tokens of the items scored, the template's included.")),
      busy_(metrics->NewCounter("wideberth_scorer_busy_seconds_total",
                                "Time the device spent on batches.")),
      answers_(metrics->NewCounter("wideberth_scorer_generated_answers_total",
                                   "Answers that a generative guard wrote.")),
      unreadable_(metrics->NewCounter("wideberth_scorer_unreadable_answers_total",
                                      "Generated answers without a verdict.")),
      answer_tokens_(metrics->NewCounter("wideberth_scorer_generated_tokens_total",
                                         "Tokens of generated answers.")),
      requests_(metrics->NewCounter("wideberth_scorer_requests_total",
                                    "Requests to a judge's server, retries included.")),
      dollars_(metrics->NewCounter("wideberth_scorer_dollars_total",
                                   "Cost of a judge's answers, by the configured prices.")),
      queue_(metrics->NewGauge("wideberth_scorer_queue_items",
                               "Items accepted and not yet answered.")),
      last_batch_(metrics->NewGauge("wideberth_scorer_last_batch_items",
                                    "Distinct items of the newest batch.")),
      rate_(metrics->NewGauge("wideberth_scorer_tokens_per_second",
                              "Tokens scored a second, over the last 10 seconds.")) {
  for (int status = proto::ScoreStatus_MIN; status <= proto::ScoreStatus_MAX; ++status) {
    items_[status] = metrics->NewCounter(
        "wideberth_scorer_items_total", "Items answered, by status.",
        {{"status", proto::ScoreStatus_Name(static_cast<proto::ScoreStatus>(status))}});
  }
}

void ScoreEndpoint::Open(Batcher* batcher) {
  MutexLock lock(mutex_);
  batcher_ = batcher;
}

void ScoreEndpoint::NoteDrain() {
  MutexLock lock(mutex_);
  draining_ = true;
}

void ScoreEndpoint::Score(proto::ScoreRequest request, Done done, Gone gone) {
  Batcher* batcher = nullptr;
  {
    MutexLock lock(mutex_);
    batcher = batcher_;
  }
  if (batcher == nullptr) {
    const proto::Score loading = MakeScore({scorer_name_, "", ""}, proto::OVERLOADED,
                                           "the scorer is still loading its model");
    done(Response(std::vector<proto::Score>(request.item_size(), loading)));
    return;
  }
  batcher->Submit(
      {request.item().begin(), request.item().end()},
      [done = std::move(done)](std::vector<proto::Score> scores) {
        done(Response(std::move(scores)));
      },
      std::move(gone));
}

BatcherStats ScoreEndpoint::Stats() const {
  return batcher_ == nullptr ? BatcherStats() : batcher_->Stats();
}

void ScoreEndpoint::Tick() {
  Batcher* batcher = nullptr;
  {
    MutexLock lock(mutex_);
    batcher = batcher_;
  }
  if (batcher != nullptr) batcher->ExpireOverdue();
  MutexLock lock(mutex_);
  const absl::Time now = clock_.Now();
  BatcherStats stats = Stats();
  samples_.push_back({now, stats.num_tokens});
  while (samples_.size() > 2 && now - samples_[1].time >= kRateWindow) samples_.pop_front();
  for (size_t status = 0; status < items_.size(); ++status) {
    items_[status]->Increment(
        static_cast<double>(stats.num_by_status[status] - counted_.num_by_status[status]));
  }
  cache_hits_->Increment(static_cast<double>(stats.num_cache_hits - counted_.num_cache_hits));
  merged_->Increment(static_cast<double>(stats.num_merged - counted_.num_merged));
  batches_->Increment(static_cast<double>(stats.num_batches - counted_.num_batches));
  batch_items_->Increment(static_cast<double>(stats.num_batch_items - counted_.num_batch_items));
  tokens_->Increment(static_cast<double>(stats.num_tokens - counted_.num_tokens));
  busy_->Increment(stats.busy_seconds - counted_.busy_seconds);
  const GenerationStats& before = counted_.generation;
  answers_->Increment(static_cast<double>(stats.generation.num_answers - before.num_answers));
  unreadable_->Increment(
      static_cast<double>(stats.generation.num_unreadable - before.num_unreadable));
  answer_tokens_->Increment(static_cast<double>(stats.generation.num_tokens - before.num_tokens));
  requests_->Increment(static_cast<double>(stats.generation.num_requests - before.num_requests));
  dollars_->Increment(stats.generation.dollars - before.dollars);
  queue_->Set(static_cast<double>(stats.num_waiting));
  last_batch_->Set(static_cast<double>(stats.last_batch_items));
  rate_->Set(TokensPerSecond());
  counted_ = std::move(stats);
}

std::string ScoreEndpoint::State(const BatcherStats& stats) const {
  if (draining_) return "draining";
  if (batcher_ == nullptr) return "loading";
  return stats.num_waiting > 0 ? "scoring" : "idle";
}

double ScoreEndpoint::TokensPerSecond() const {
  if (samples_.size() < 2) return 0;
  const double seconds = absl::ToDoubleSeconds(samples_.back().time - samples_.front().time);
  return seconds > 0
             ? static_cast<double>(samples_.back().num_tokens - samples_.front().num_tokens) /
                   seconds
             : 0;
}

proto::MemberStatus ScoreEndpoint::Status() const {
  MutexLock lock(mutex_);
  const BatcherStats stats = Stats();
  proto::MemberStatus status;
  status.set_state(State(stats));
  status.set_tokens_per_second(TokensPerSecond());
  status.set_num_items(static_cast<uint64_t>(stats.num_answered()));
  status.set_num_tokens(static_cast<uint64_t>(stats.num_tokens));
  if (!stats.last_error.empty())
    status.set_last_error(stats.last_error.substr(0, transport::kMaxSentenceBytes));
  return status;
}

transport::RoleStatus ScoreEndpoint::Page() const {
  MutexLock lock(mutex_);
  const BatcherStats stats = Stats();
  transport::RoleStatus page;
  page.state = State(stats);
  page.tokens_per_second = TokensPerSecond();
  page.num_items = static_cast<uint64_t>(stats.num_answered());
  page.last_error = stats.last_error;
  page.facts.emplace_back("scorer", scorer_name_);
  page.facts.emplace_back("items waiting", absl::StrCat(stats.num_waiting));
  for (size_t status = 0; status < stats.num_by_status.size(); ++status) {
    page.facts.emplace_back(proto::ScoreStatus_Name(static_cast<proto::ScoreStatus>(status)),
                            absl::StrCat(stats.num_by_status[status]));
  }
  page.facts.emplace_back("dropped, the caller has gone", absl::StrCat(stats.num_dropped));
  page.facts.emplace_back("cache hits", absl::StrCat(stats.num_cache_hits));
  page.facts.emplace_back("batches", absl::StrCat(stats.num_batches));
  const double mean = stats.num_batches > 0 ? static_cast<double>(stats.num_batch_items) /
                                                  static_cast<double>(stats.num_batches)
                                            : 0;
  page.facts.emplace_back("items a batch",
                          absl::StrFormat("%.1f (newest %d)", mean, stats.last_batch_items));
  const GenerationStats& generation = stats.generation;
  if (generation.num_answers > 0) {
    page.facts.emplace_back("answers written", absl::StrCat(generation.num_answers));
    page.facts.emplace_back("answers without a verdict", absl::StrCat(generation.num_unreadable));
    page.facts.emplace_back(
        "tokens an answer",
        absl::StrFormat("%.1f", static_cast<double>(generation.num_tokens) /
                                    static_cast<double>(generation.num_answers)));
  }
  if (generation.num_requests > 0) {
    page.facts.emplace_back(
        "requests",
        absl::StrFormat("%d (%d of them again)", generation.num_requests, generation.num_retries));
    page.facts.emplace_back("tokens of questions", absl::StrCat(generation.num_prompt_tokens));
    page.facts.emplace_back("tokens of answers", absl::StrCat(generation.num_tokens));
    page.facts.emplace_back("cost", absl::StrFormat("$%.4f", generation.dollars));
  }
  if (generation.num_remembered > 0)
    page.facts.emplace_back("answers remembered", absl::StrCat(generation.num_remembered));
  page.facts.emplace_back("device busy", absl::StrFormat("%.1f s", stats.busy_seconds));
  return page;
}

}  // namespace wideberth::scorer
