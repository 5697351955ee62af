// SPDX-License-Identifier: Apache-2.0
// Scorer servers and the client over loopback: whatever replicas do, every item gets one typed
// result.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "absl/synchronization/notification.h"
#include "base/bounded_queue.h"
#include "tests/transport/function_scorer.h"

namespace wideberth::transport {
namespace {

using ::testing::HasSubstr;
using Done = FunctionScorer::Done;

TEST(ScorerWireTest, ABatchIsScoredInOrderThroughManyPieces) {
  FunctionScorer scorer(AnswerLengths);
  const auto server = Serve(&scorer);
  const auto client = ScorerClient::Create("safety", Quick());
  client->SetEndpoints({server->address()});
  ExpectLengths(client->Score(Items(100), absl::Seconds(30)), 100);
  EXPECT_TRUE(client->Score({}, absl::Seconds(30)).empty());
}

TEST(ScorerWireTest, AMessageBeyondTheLibrarysDefaultLimitPasses) {
  FunctionScorer scorer(AnswerLengths);
  const auto server = Serve(&scorer);
  const auto client = ScorerClient::Create("safety", Quick());
  client->SetEndpoints({server->address()});
  std::vector<proto::ScoreItem> items(1);
  items[0].set_completion(std::string(6'000'000, 'x'));
  EXPECT_EQ(client->Score(items, absl::Seconds(30))[0].value(), 6'000'000.0);
}

TEST(ScorerWireTest, TwoReplicasShareABatch) {
  // Neither answers before both have something to do: with one replica alone this ends in
  // time-outs.
  std::atomic<int> num_busy = 0;
  absl::Notification both_busy;
  BoundedQueue<std::function<void()>> answers(64);
  const auto hold = [&](std::atomic<bool>& seen, const proto::ScoreRequest& request, Done done) {
    if (!seen.exchange(true) && ++num_busy == 2) both_busy.Notify();
    std::function<void()> answer = [request, done] { done(LengthsOf(request)); };
    ASSERT_TRUE(answers.TryPush(answer).ok());
  };
  std::atomic<bool> a_seen = false, b_seen = false;
  FunctionScorer a([&](const proto::ScoreRequest& request, Done done) {
    hold(a_seen, request, std::move(done));
  });
  FunctionScorer b([&](const proto::ScoreRequest& request, Done done) {
    hold(b_seen, request, std::move(done));
  });
  const auto a_server = Serve(&a), b_server = Serve(&b);
  const auto client = ScorerClient::Create("safety", Quick());
  client->SetEndpoints({a_server->address(), b_server->address()});
  std::thread answering([&] {
    if (!both_busy.WaitForNotificationWithTimeout(absl::Seconds(30))) return;
    while (auto answer = answers.Pop(absl::Seconds(30))) (*answer)();
  });
  ExpectLengths(client->Score(Items(64), absl::Seconds(30)), 64);
  answers.Close();
  answering.join();
}

TEST(ScorerWireTest, WhenAReplicaDiesMidCallTheOtherAnswers) {
  absl::Notification a_has_it, b_has_it, any;
  std::atomic<bool> first = true;
  const auto die_if_first = [&](absl::Notification& mine, const proto::ScoreRequest& request,
                                Done done) {
    if (first.exchange(false)) {
      mine.Notify();
      any.Notify();
      return;  // Never answered.
    }
    done(LengthsOf(request));
  };
  FunctionScorer a([&](const proto::ScoreRequest& request, Done done) {
    die_if_first(a_has_it, request, std::move(done));
  });
  FunctionScorer b([&](const proto::ScoreRequest& request, Done done) {
    die_if_first(b_has_it, request, std::move(done));
  });
  auto a_server = Serve(&a), b_server = Serve(&b);
  const auto client = ScorerClient::Create("safety", Quick());
  client->SetEndpoints({a_server->address(), b_server->address()});
  std::vector<proto::Score> scores;
  std::thread caller([&] { scores = client->Score(Items(8), absl::Seconds(60)); });
  any.WaitForNotification();
  (a_has_it.HasBeenNotified() ? a_server : b_server).reset();
  caller.join();
  ExpectLengths(scores, 8);
}

TEST(ScorerWireTest, ARestartedReplicaAtANewAddressIsFoundInTime) {
  FunctionScorer scorer(AnswerLengths);
  auto dead = Serve(&scorer);
  const std::string dead_address = dead->address();
  dead.reset();
  const auto client = ScorerClient::Create("safety", Quick());
  client->SetEndpoints({dead_address});
  std::vector<proto::Score> scores;
  std::thread caller([&] { scores = client->Score(Items(8), absl::Seconds(60)); });
  const auto server = Serve(&scorer);
  client->SetEndpoints({server->address()});
  caller.join();
  ExpectLengths(scores, 8);
}

TEST(ScorerWireTest, WithoutAnyReplicaItemsTimeOut) {
  const auto client = ScorerClient::Create("safety", Quick());
  ExpectAll(client->Score(Items(3), absl::Milliseconds(100)), 3, proto::TIMED_OUT,
            "no replica is registered");
}

TEST(ScorerWireTest, UnreachableReplicasAreAModelErrorThatNamesOne) {
  FunctionScorer scorer(AnswerLengths);
  auto server = Serve(&scorer);
  const std::string address = server->address();
  server.reset();
  ScorerClient::Options options = Quick();
  options.unreachable_timeout = absl::Milliseconds(50);
  const auto client = ScorerClient::Create("safety", options);
  client->SetEndpoints({address});
  ExpectAll(client->Score(Items(3), absl::Seconds(60)), 3, proto::MODEL_ERROR, address);
}

TEST(ScorerWireTest, AReplicaThatFailsEveryTimeIsGivenUpAfterMaxAttempts) {
  std::atomic<int> calls = 0;
  FunctionScorer scorer([&](const proto::ScoreRequest&, Done done) {
    ++calls;
    done(absl::InternalError("no luck"));
  });
  const auto server = Serve(&scorer);
  const auto client = ScorerClient::Create("safety", Quick());
  client->SetEndpoints({server->address()});
  ExpectAll(client->Score(Items(3), absl::Seconds(60)), 3, proto::MODEL_ERROR, "no luck");
  EXPECT_EQ(calls, Quick().max_attempts);
}

TEST(ScorerWireTest, AVerdictAboutTheRequestIsNotRetried) {
  std::atomic<int> calls = 0;
  FunctionScorer scorer([&](const proto::ScoreRequest&, Done done) {
    ++calls;
    done(absl::InvalidArgumentError("item has no prompt"));
  });
  const auto server = Serve(&scorer);
  const auto client = ScorerClient::Create("safety", Quick());
  client->SetEndpoints({server->address()});
  ExpectAll(client->Score(Items(3), absl::Seconds(60)), 3, proto::MODEL_ERROR,
            "item has no prompt");
  EXPECT_EQ(calls, 1);
}

TEST(ScorerWireTest, AnAnswerOfTheWrongLengthIsAModelErrorNotAShiftedScore) {
  FunctionScorer scorer([](const proto::ScoreRequest& request, Done done) {
    proto::ScoreResponse response = LengthsOf(request);
    response.mutable_score()->RemoveLast();
    done(response);
  });
  const auto server = Serve(&scorer);
  const auto client = ScorerClient::Create("safety", Quick());
  client->SetEndpoints({server->address()});
  ExpectAll(client->Score(Items(3), absl::Seconds(60)), 3, proto::MODEL_ERROR,
            "answered 2 scores to 3 items");
}

TEST(ScorerWireTest, ASilentReplicaIsATimeOut) {
  BoundedQueue<Done> held(8);
  FunctionScorer scorer(
      [&](const proto::ScoreRequest&, Done done) { ASSERT_TRUE(held.TryPush(done).ok()); });
  auto server = Serve(&scorer);
  const auto client = ScorerClient::Create("safety", Quick());
  client->SetEndpoints({server->address()});
  ExpectAll(client->Score(Items(3), absl::Milliseconds(300)), 3, proto::TIMED_OUT,
            "did not answer");
  server.reset();
  // The answer comes after client and server are gone.
  while (auto done = held.Pop(absl::ZeroDuration())) (*done)(proto::ScoreResponse());
}

TEST(ScorerWireTest, AFullQueueIsTriedAgain) {
  std::atomic<int> calls = 0;
  FunctionScorer scorer([&](const proto::ScoreRequest& request, Done done) {
    if (++calls < 10) return done(absl::ResourceExhaustedError("queue is full"));
    done(LengthsOf(request));
  });
  const auto server = Serve(&scorer);
  const auto client = ScorerClient::Create("safety", Quick());
  client->SetEndpoints({server->address()});
  ExpectLengths(client->Score(Items(8), absl::Seconds(60)), 8);
  EXPECT_EQ(calls, 10);
}

TEST(ScorerWireTest, AQueueThatStaysFullIsOverloaded) {
  FunctionScorer scorer([](const proto::ScoreRequest&, Done done) {
    done(absl::ResourceExhaustedError("queue is full"));
  });
  const auto server = Serve(&scorer);
  const auto client = ScorerClient::Create("safety", Quick());
  client->SetEndpoints({server->address()});
  ExpectAll(client->Score(Items(8), absl::Milliseconds(300)), 8, proto::OVERLOADED,
            "queue is full");
}

TEST(ScorerWireTest, OnlyTheOverloadedItemsOfAnAnswerAreSentAgain) {
  BoundedQueue<int> sizes(8);
  FunctionScorer scorer([&](const proto::ScoreRequest& request, Done done) {
    proto::ScoreResponse response = LengthsOf(request);
    for (proto::Score& score : *response.mutable_score()) {
      if (request.item_size() == 8 && score.value() >= 5) {
        score.clear_value();
        score.set_status(proto::OVERLOADED);
      }
    }
    int size = request.item_size();
    ASSERT_TRUE(sizes.TryPush(size).ok());
    done(response);
  });
  const auto server = Serve(&scorer);
  const auto client = ScorerClient::Create("safety", Quick());
  client->SetEndpoints({server->address()});
  ExpectLengths(client->Score(Items(8), absl::Seconds(60)), 8);
  EXPECT_EQ(sizes.Pop(absl::ZeroDuration()), 8);
  EXPECT_EQ(sizes.Pop(absl::ZeroDuration()), 3);
}

TEST(ScorerWireTest, TypedFailuresOfTheScorerReachTheCallerUnchanged) {
  FunctionScorer scorer([](const proto::ScoreRequest& request, Done done) {
    proto::ScoreResponse response;
    for (int i = 0; i < request.item_size(); ++i) {
      proto::Score* score = response.add_score();
      score->set_status(i == 0 ? proto::REFUSED_INPUT : proto::MALFORMED_OUTPUT);
      score->set_message("NaN logits");
    }
    done(response);
  });
  const auto server = Serve(&scorer);
  const auto client = ScorerClient::Create("safety", Quick());
  client->SetEndpoints({server->address()});
  const auto scores = client->Score(Items(2), absl::Seconds(60));
  EXPECT_EQ(scores[0].status(), proto::REFUSED_INPUT);
  EXPECT_EQ(scores[1].status(), proto::MALFORMED_OUTPUT);
  EXPECT_EQ(scores[1].message(), "NaN logits");
}

TEST(ScorerWireTest, CancelEndsAWaitingScore) {
  absl::Notification entered;
  BoundedQueue<Done> held(8);
  FunctionScorer scorer([&](const proto::ScoreRequest&, Done done) {
    ASSERT_TRUE(held.TryPush(done).ok());
    entered.Notify();
  });
  const auto server = Serve(&scorer);
  const auto client = ScorerClient::Create("safety", Quick());
  client->SetEndpoints({server->address()});
  std::vector<proto::Score> scores;
  std::thread caller([&] { scores = client->Score(Items(3), absl::Seconds(60)); });
  entered.WaitForNotification();
  client->Cancel();
  caller.join();
  ExpectAll(scores, 3, proto::MODEL_ERROR, "cancelled");
}

}  // namespace
}  // namespace wideberth::transport
