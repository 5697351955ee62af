// SPDX-License-Identifier: Apache-2.0
// Several replicas of one scorer, one of them slow, silent or full: the others answer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "base/bounded_queue.h"
#include "base/mutex.h"
#include "tests/transport/function_scorer.h"

namespace wideberth::transport {
namespace {

using Done = FunctionScorer::Done;

// Two replicas that answer at once, until told to hold calls, whichever they come to.
class TwoReplicas {
 public:
  // What becomes of the n-th call after Arm, from 0.
  using Act = std::function<void(int n, const proto::ScoreRequest&, Done)>;

  void Arm(Act act) {
    MutexLock lock(mutex_);
    act_ = std::move(act);
    num_calls_ = 0;
  }
  int num_calls() const {
    MutexLock lock(mutex_);
    return num_calls_;
  }
  // Enough of them that the usual latency is known.
  void WarmUp(ScorerClient& client) const {
    for (int i = 0; i < 20; ++i) ExpectLengths(client.Score(Items(8), absl::Seconds(30)), 8);
  }
  std::vector<ScorerClient::Endpoint> endpoints() const {
    return {a_server_->address(), b_server_->address()};
  }

 private:
  void Called(const proto::ScoreRequest& request, Done done) {
    Act act;
    int n = 0;
    {
      MutexLock lock(mutex_);
      act = act_;
      n = num_calls_++;
    }
    if (act) return act(n, request, std::move(done));
    AnswerLengths(request, std::move(done));
  }

  mutable Mutex mutex_;
  Act act_ ABSL_GUARDED_BY(mutex_);
  int num_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  FunctionScorer scorer_{
      [this](const proto::ScoreRequest& request, Done done) { Called(request, std::move(done)); }};
  std::unique_ptr<ScorerServer> a_server_ = Serve(&scorer_), b_server_ = Serve(&scorer_);
};

TEST(ScorerPoolTest, ASlowCallIsMadeToAnotherReplicaAndTheFirstAnswerCounts) {
  TwoReplicas replicas;
  ScorerClient::Options options = Quick();
  options.min_silence = absl::Hours(1);
  const auto client = ScorerClient::Create("safety", options);
  client->SetEndpoints(replicas.endpoints());
  replicas.WarmUp(*client);
  const ScorerClient::Stats before = client->stats();
  BoundedQueue<Done> held(8);
  replicas.Arm([&](int n, const proto::ScoreRequest& request, Done done) {
    if (n > 0) return AnswerLengths(request, std::move(done));
    ASSERT_TRUE(held.TryPush(done).ok());
  });
  ExpectLengths(client->Score(Items(8), absl::Minutes(10)), 8);
  EXPECT_EQ(client->stats().num_hedges, before.num_hedges + 1);
  EXPECT_EQ(client->stats().num_hedges_won, before.num_hedges_won + 1);
  EXPECT_EQ(client->stats().num_calls, before.num_calls + 2);
  while (auto done = held.Pop(absl::ZeroDuration())) (*done)(absl::InternalError("too late"));
  ExpectLengths(client->Score(Items(8), absl::Minutes(10)), 8);
}

TEST(ScorerPoolTest, TheReplicaThatLostIsToldThatNobodyWaits) {
  class Silent final : public ScoreHandler {
   public:
    void Score(proto::ScoreRequest, Done, Gone gone) override {
      ASSERT_TRUE(calls.TryPush(gone).ok());
    }
    BoundedQueue<Gone> calls{64};
  };
  Silent silent;
  FunctionScorer good(AnswerLengths);
  const auto silent_server = Serve(&silent), good_server = Serve(&good);
  ScorerClient::Options options = Quick();
  options.min_silence = absl::Milliseconds(20);
  const auto client = ScorerClient::Create("safety", options);
  client->SetEndpoints({silent_server->address(), good_server->address()});
  ExpectLengths(client->Score(Items(64), absl::Minutes(10)), 64);
  const auto gone = silent.calls.Pop(absl::Minutes(1));
  ASSERT_TRUE(gone.has_value());
  const absl::Time deadline = absl::Now() + absl::Minutes(1);
  while (!**gone && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_TRUE(**gone);
}

TEST(ScorerPoolTest, HedgingCanBeSwitchedOffAndNeverAsksTheSameReplica) {
  struct Case {
    double hedge_quantile;
    size_t num_replicas;
    absl::Duration min_silence;
  };
  for (const Case& c : {Case{1, 2, absl::Hours(1)}, Case{0.95, 1, absl::Hours(1)},
                        Case{0.95, 1, absl::Milliseconds(1)}}) {
    TwoReplicas replicas;
    ScorerClient::Options options = Quick();
    options.hedge_quantile = c.hedge_quantile;
    options.min_silence = c.min_silence;
    const auto client = ScorerClient::Create("safety", options);
    auto endpoints = replicas.endpoints();
    endpoints.resize(c.num_replicas, {""});
    client->SetEndpoints(endpoints);
    replicas.WarmUp(*client);
    BoundedQueue<Done> held(64);
    replicas.Arm(
        [&](int, const proto::ScoreRequest&, Done done) { ASSERT_TRUE(held.TryPush(done).ok()); });
    ExpectAll(client->Score(Items(8), absl::Milliseconds(300)), 8, proto::TIMED_OUT,
              "did not answer");
    EXPECT_EQ(replicas.num_calls(), 1);
    while (auto done = held.Pop(absl::ZeroDuration())) (*done)(absl::InternalError("too late"));
  }
}

TEST(ScorerPoolTest, WhatGoesWrongWithAHedgeIsNoFailureWhileTheFirstCallIsInFlight) {
  for (const bool typed : {false, true}) {
    TwoReplicas replicas;
    ScorerClient::Options options = Quick();
    options.max_attempts = 1;
    options.min_silence = absl::Hours(1);
    const auto client = ScorerClient::Create("safety", options);
    client->SetEndpoints(replicas.endpoints());
    replicas.WarmUp(*client);
    const int64_t hedges_before = client->stats().num_hedges;
    BoundedQueue<std::function<void()>> first(1);
    absl::Notification hedge_failed;
    replicas.Arm([&](int n, const proto::ScoreRequest& request, Done done) {
      if (n == 0) {
        std::function<void()> answer = [request, done] { done(LengthsOf(request)); };
        ASSERT_TRUE(first.TryPush(answer).ok());
      } else if (n > 1) {
        AnswerLengths(request, std::move(done));
      } else if (typed) {
        proto::ScoreResponse errors = LengthsOf(request);
        for (proto::Score& score : *errors.mutable_score()) {
          score.clear_value();
          score.set_status(proto::MODEL_ERROR);
        }
        done(errors);
        hedge_failed.Notify();
      } else {
        done(absl::InternalError("no luck"));
        hedge_failed.Notify();
      }
    });
    std::vector<proto::Score> scores;
    std::thread caller([&] { scores = client->Score(Items(8), absl::Minutes(10)); });
    hedge_failed.WaitForNotification();
    // By the time other calls are over, the hedge's failure has been looked at.
    for (int i = 0; i < 3; ++i) ExpectLengths(client->Score(Items(8), absl::Minutes(10)), 8);
    (*first.Pop(absl::Minutes(1)))();
    caller.join();
    ExpectLengths(scores, 8);
    EXPECT_GT(client->stats().num_hedges, hedges_before);
  }
}

TEST(ScorerPoolTest, WhatASilentReplicaHoldsIsScoredByTheOtherAndNothingMoreIsAskedOfIt) {
  BoundedQueue<Done> held(1024);
  std::atomic<int> num_silent_calls = 0;
  FunctionScorer silent([&](const proto::ScoreRequest&, Done done) {
    ++num_silent_calls;
    ASSERT_TRUE(held.TryPush(done).ok());
  });
  FunctionScorer good(AnswerLengths);
  const auto silent_server = Serve(&silent), good_server = Serve(&good);
  ScorerClient::Options options = Quick();
  options.hedge_quantile = 1;
  options.min_silence = absl::Milliseconds(20);
  const auto client = ScorerClient::Create("safety", options);
  client->SetEndpoints({silent_server->address(), good_server->address()});
  ExpectLengths(client->Score(Items(64), absl::Minutes(10)), 64);
  const int before = num_silent_calls;
  EXPECT_GT(before, 0);
  EXPECT_EQ(client->stats().num_rescues, before);
  for (int i = 0; i < 10; ++i) ExpectLengths(client->Score(Items(64), absl::Minutes(10)), 64);
  EXPECT_LE(num_silent_calls, before + 4) << "now and then one call tries it";
  while (auto done = held.Pop(absl::ZeroDuration())) (*done)(absl::InternalError("too late"));
}

TEST(ScorerPoolTest, AnAddressThatAcceptsAndNeverSpeaksHoldsNothingUp) {
  const int listening = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(::bind(listening, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(listening, 8), 0);
  ASSERT_EQ(::getsockname(listening, reinterpret_cast<sockaddr*>(&address), &size), 0);
  FunctionScorer good(AnswerLengths);
  const auto good_server = Serve(&good);
  ScorerClient::Options options = Quick();
  options.min_silence = absl::Milliseconds(20);
  const auto client = ScorerClient::Create("safety", options);
  client->SetEndpoints(
      {absl::StrCat("127.0.0.1:", ntohs(address.sin_port)), good_server->address()});
  ExpectLengths(client->Score(Items(64), absl::Minutes(10)), 64);
  EXPECT_GT(client->stats().num_rescues, 0);
  ::close(listening);
}

TEST(ScorerPoolTest, AFullReplicasItemsGoToAnotherWithoutAPause) {
  std::atomic<int> num_full_calls = 0;
  FunctionScorer full([&](const proto::ScoreRequest& request, Done done) {
    if (++num_full_calls % 2 == 0) return done(absl::ResourceExhaustedError("queue is full"));
    proto::ScoreResponse response = LengthsOf(request);
    for (proto::Score& score : *response.mutable_score()) {
      score.clear_value();
      score.set_status(proto::OVERLOADED);
    }
    done(response);
  });
  FunctionScorer good(AnswerLengths);
  const auto full_server = Serve(&full), good_server = Serve(&good);
  ScorerClient::Options options;
  options.first_backoff = options.max_backoff = absl::Hours(1);
  const auto client = ScorerClient::Create("safety", options);
  client->SetEndpoints({full_server->address(), good_server->address()});
  ExpectLengths(client->Score(Items(64), absl::Minutes(1)), 64);
  EXPECT_GT(num_full_calls, 0);
}

}  // namespace
}  // namespace wideberth::transport
