// SPDX-License-Identifier: Apache-2.0
// Scorers under load: replicas in this process, each with its own server, batcher and device
// thread, asked through one client over loopback. Calls arrive at random, whether or not earlier
// ones are answered. The device is modelled (it sleeps), so that the figures are those of the pool.
// Usage: scorer_benchmark [SECONDS_A_ROW]
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/bounded_queue.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "scorer/batcher.h"
#include "scorer/score_endpoint.h"
#include "transport/metrics.h"
#include "transport/scorer_client.h"
#include "transport/scorer_service.h"

namespace wideberth::scorer {
namespace {

constexpr int kReplicas = 4;
constexpr int kItemsPerCall = 16;
constexpr double kTokensPerItem = 100;  // 20 .. 180.
constexpr double kBatchMs = 2, kMsPerToken = 0.01;
constexpr absl::Duration kCap = absl::Milliseconds(250);
constexpr absl::Duration kTimeout = absl::Seconds(1);
constexpr absl::Duration kWarmUp = absl::Seconds(2);
constexpr int kCallers = 500;

struct Case {
  double load;  // Of what the device can do in full batches.
  bool stalls;  // The first replica does nothing for 500 ms, about every 3 s.
  double hedge_quantile;
};

class ModelledDevice final : public ScoringModel {
 public:
  explicit ModelledDevice(bool stalls) : stalls_(stalls) {}
  PreparedItem Prepare(const proto::ScoreItem& item) override {
    PreparedItem prepared;
    prepared.num_new_tokens = static_cast<int64_t>(item.completion().size() / 4);
    prepared.tokens.resize(prepared.num_new_tokens);
    return prepared;
  }
  std::vector<proto::Score> ScoreBatch(const std::vector<PreparedItem>& items) override {
    int64_t num_tokens = 0;
    for (const PreparedItem& item : items) num_tokens += item.num_new_tokens;
    const absl::Time now = absl::Now();
    absl::Duration takes = absl::Milliseconds(kBatchMs + kMsPerToken * double(num_tokens));
    if (stalls_ && now >= next_stall_) {
      takes += absl::Milliseconds(500);
      next_stall_ = now + absl::Seconds(std::uniform_real_distribution<double>(2, 4)(random_));
    }
    absl::SleepFor(takes);
    proto::Score score = MakeScore(identity_, proto::SCORED, "");
    score.set_value(0.5);
    return std::vector<proto::Score>(items.size(), score);
  }
  const ScorerIdentity& identity() const override { return identity_; }

 private:
  const ScorerIdentity identity_{"modelled", "none", "none"};
  const bool stalls_;
  absl::Time next_stall_ = absl::Now() + absl::Seconds(1);
  std::mt19937 random_{7};
};

class RunningReplica {
 public:
  explicit RunningReplica(bool stalls)
      : model_(stalls), batcher_(Options(), &model_, &Clock::Real()) {
    endpoint_.Open(&batcher_);
    auto server = transport::ScorerServer::Start("127.0.0.1:0", &endpoint_);
    WB_CHECK(server.ok(), "a free port on loopback");
    server_ = *std::move(server);
    device_ = std::thread([this] { batcher_.Run(); });
  }
  ~RunningReplica() {
    batcher_.Close();
    device_.join();
    server_.reset();
  }
  std::string address() const { return server_->address(); }
  BatcherStats stats() const { return batcher_.Stats(); }

 private:
  static BatcherOptions Options() {
    BatcherOptions options;
    options.cache_items = 0;
    options.max_latency = kCap;
    return options;
  }
  transport::Metrics metrics_;
  ScoreEndpoint endpoint_{"modelled", &metrics_, &Clock::Real()};
  ModelledDevice model_;
  Batcher batcher_;
  std::unique_ptr<transport::ScorerServer> server_;
  std::thread device_;
};

double Percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const size_t at = std::min(values.size() - 1, static_cast<size_t>(share * double(values.size())));
  std::nth_element(values.begin(), values.begin() + std::ptrdiff_t(at), values.end());
  return values[at];
}

// What the calls of one row came to.
struct Tally {
  Mutex mutex;
  std::vector<double> call_ms ABSL_GUARDED_BY(mutex);  // Of those with a score for every item.
  int64_t num_items ABSL_GUARDED_BY(mutex) = 0;
  std::array<int64_t, proto::ScoreStatus_ARRAYSIZE> by_status ABSL_GUARDED_BY(mutex) = {};

  void Note(const std::vector<proto::Score>& scores, absl::Duration took) {
    MutexLock lock(mutex);
    num_items += int64_t(scores.size());
    bool all = true;
    for (const proto::Score& score : scores) {
      ++by_status[score.status()];
      all &= score.status() == proto::SCORED;
    }
    if (all) call_ms.push_back(absl::ToDoubleMilliseconds(took));
  }
};

std::vector<proto::ScoreItem> MakeCall(std::mt19937& random, int64_t* serial) {
  std::uniform_int_distribution<int> tokens(20, 2 * int(kTokensPerItem) - 20);
  std::vector<proto::ScoreItem> items(kItemsPerCall);
  for (proto::ScoreItem& item : items) {
    item.set_completion(absl::StrCat(++*serial, " "));
    item.mutable_completion()->resize(size_t(4 * tokens(random)), 'x');
  }
  return items;
}

void Run(const Case& row, absl::Duration length) {
  std::vector<std::unique_ptr<RunningReplica>> replicas;
  std::vector<transport::ScorerClient::Endpoint> endpoints;
  for (int r = 0; r < kReplicas; ++r) {
    replicas.push_back(std::make_unique<RunningReplica>(row.stalls && r == 0));
    endpoints.emplace_back(replicas.back()->address());
  }
  transport::ScorerClient::Options options;
  options.hedge_quantile = row.hedge_quantile;
  const auto client = transport::ScorerClient::Create("modelled", options);
  client->SetEndpoints(endpoints);

  struct Call {
    absl::Time due;
    std::vector<proto::ScoreItem> items;
  };
  BoundedQueue<Call> calls(100000);
  Tally tally;
  const absl::Time start = absl::Now(), counted_from = start + kWarmUp;
  std::vector<std::thread> callers;
  for (int c = 0; c < kCallers; ++c) {
    callers.emplace_back([&] {
      while (auto call = calls.Pop(absl::InfiniteDuration())) {
        const auto scores = client->Score(call->items, kTimeout);
        if (call->due >= counted_from) tally.Note(scores, absl::Now() - call->due);
      }
    });
  }
  const double full = double(BatcherOptions().max_batch_tokens);
  const double tokens_per_ms = full / (kBatchMs + kMsPerToken * full) * kReplicas;
  const double calls_per_ms = row.load * tokens_per_ms / (kItemsPerCall * kTokensPerItem);
  std::mt19937 random(11);
  std::exponential_distribution<double> gap_ms(calls_per_ms);
  int64_t serial = 0;
  for (absl::Time due = start; due < start + kWarmUp + length;
       due += absl::Milliseconds(gap_ms(random))) {
    Call call{due, MakeCall(random, &serial)};
    absl::SleepFor(due - absl::Now());
    WB_CHECK(calls.TryPush(call).ok(), "the queue of calls has room");
  }
  calls.Close();
  for (std::thread& caller : callers) caller.join();

  int64_t num_answers = 0, num_refused = 0;
  for (const auto& replica : replicas) {
    const BatcherStats stats = replica->stats();
    num_answers += stats.num_answered();
    num_refused += stats.num_by_status[proto::OVERLOADED];
  }
  const transport::ScorerClient::Stats stats = client->stats();
  MutexLock lock(tally.mutex);
  const auto share = [](int64_t part, int64_t whole) {
    return 100.0 * double(part) / double(std::max<int64_t>(whole, 1));
  };
  const int64_t lost = tally.num_items - tally.by_status[proto::SCORED];
  std::printf(
      "| %.0f %% | %s | %s | %.0f | %.0f | %.0f | %.0f | %.1f %% | %.1f %% | %.1f %% | %lld (%lld) "
      "| %lld "
      "|\n",
      100 * row.load, row.stalls ? "yes" : "no", row.hedge_quantile < 1 ? "yes" : "no",
      Percentile(tally.call_ms, 0.5), Percentile(tally.call_ms, 0.95),
      Percentile(tally.call_ms, 0.99), Percentile(tally.call_ms, 0.999),
      share(num_refused, num_answers), share(lost, tally.num_items),
      share(stats.num_hedges, stats.num_calls), static_cast<long long>(stats.num_hedges),
      static_cast<long long>(stats.num_hedges_won), static_cast<long long>(stats.num_rescues));
  std::fflush(stdout);
}

}  // namespace
}  // namespace wideberth::scorer

int main(int argc, char** argv) {
  const absl::Duration length = absl::Seconds(argc > 1 ? std::atof(argv[1]) : 20);
  std::printf(
      "| load | a replica stalls | hedged | p50 ms | p95 ms | p99 ms | p99.9 ms | OVERLOADED "
      "answers | items "
      "without a score | calls hedged | hedges (won) | rescues |\n");
  std::printf("|---|---|---|---|---|---|---|---|---|---|---|---|\n");
  if (argc > 4) {
    wideberth::scorer::Run({std::atof(argv[2]), std::atoi(argv[3]) != 0, std::atof(argv[4])},
                           length);
    return 0;
  }
  for (const double load : {0.5, 0.7, 0.9, 1.1})
    wideberth::scorer::Run({load, false, 0.95}, length);
  for (const double hedge_quantile : {1.0, 0.95}) {
    for (const double load : {0.5, 0.7, 0.9, 1.1})
      wideberth::scorer::Run({load, true, hedge_quantile}, length);
  }
}
