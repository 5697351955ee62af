// SPDX-License-Identifier: Apache-2.0
// The scorer's queue: batching, bounds, merging, memory and deadlines, with a fake model and a
// clock that moves only when told to.
#include "scorer/batcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <thread>

#include "base/clock.h"
#include "scorer/conversation_key.h"
#include "tests/scorer/fake_scoring_model.h"

namespace wideberth::scorer {
namespace {

using ::testing::ElementsAre;
using Scores = std::vector<proto::Score>;

class BatcherTest : public ::testing::Test {
 protected:
  void Make(const BatcherOptions& options) { batcher_.emplace(options, &model_, &clock_); }

  // The answer arrives in the returned optional.
  std::shared_ptr<std::optional<Scores>> Submit(const std::vector<proto::ScoreItem>& items) {
    auto answer = std::make_shared<std::optional<Scores>>();
    batcher_->Submit(items, [answer](Scores scores) {
      ASSERT_FALSE(answer->has_value()) << "answered twice";
      *answer = std::move(scores);
    });
    return answer;
  }
  int64_t RunOnce() { return batcher_->RunOnce(absl::ZeroDuration()); }
  int64_t Count(proto::ScoreStatus status) const { return batcher_->Stats().num_by_status[status]; }

  FakeScoringModel model_;
  FakeClock clock_;
  std::optional<Batcher> batcher_;
};

TEST_F(BatcherTest, ItemsOfSeveralRequestsShareABatchAndReturnInOrder) {
  Make({});
  const auto first = Submit({MakeItem("p", "aa"), MakeItem("p", "bbb")});
  const auto second = Submit({MakeItem("p", "c")});
  EXPECT_EQ(RunOnce(), 0) << "the batch is not full and nobody has waited";
  clock_.Advance(absl::Milliseconds(10));
  EXPECT_EQ(RunOnce(), 3);
  EXPECT_THAT(model_.batches, ElementsAre(ElementsAre("aa", "bbb", "c")));
  ASSERT_TRUE(first->has_value() && second->has_value());
  EXPECT_EQ((**first)[0].value(), 2);
  EXPECT_EQ((**first)[1].value(), 3);
  EXPECT_EQ((**second)[0].value(), 1);
  const proto::Score& score = (**second)[0];
  EXPECT_EQ(score.status(), proto::SCORED);
  EXPECT_EQ(score.scorer_name(), "safety");
  EXPECT_EQ(score.model_fingerprint(), "weights");
  EXPECT_EQ(score.template_hash(), "template");
  EXPECT_EQ(score.latency_ms(), 10);
  EXPECT_FALSE(score.cached());
}

TEST_F(BatcherTest, AFullTokenBudgetDoesNotWaitAndIsNotExceeded) {
  BatcherOptions options;
  options.max_batch_tokens = 6;
  Make(options);
  Submit({MakeItem("p", "aaaa"), MakeItem("p", "bbb"), MakeItem("p", "cc"),
          MakeItem("p", "dddddddddd")});
  EXPECT_EQ(RunOnce(), 1);
  EXPECT_EQ(RunOnce(), 2);
  EXPECT_EQ(RunOnce(), 1);
  EXPECT_THAT(model_.batches, ElementsAre(ElementsAre("aaaa"), ElementsAre("bbb", "cc"),
                                          ElementsAre("dddddddddd")));
}

TEST_F(BatcherTest, NobodyWaitsForCompanyLongerThanTheCap) {
  BatcherOptions options;
  options.max_batch_wait = absl::Milliseconds(50);
  Make(options);
  const auto answer = Submit({MakeItem("p", "a")});
  clock_.Advance(absl::Milliseconds(49));
  EXPECT_EQ(RunOnce(), 0);
  Submit({MakeItem("p", "b")});
  clock_.Advance(absl::Milliseconds(1));
  EXPECT_EQ(RunOnce(), 2);
  EXPECT_TRUE(answer->has_value());
}

TEST_F(BatcherTest, BeyondTheQueueItemsAreOverloadedAndTheOthersScored) {
  BatcherOptions options;
  options.queue_items = 2;
  Make(options);
  const auto answer = Submit({MakeItem("p", "a"), MakeItem("p", "b"), MakeItem("p", "c")});
  clock_.Advance(absl::Seconds(1));
  RunOnce();
  ASSERT_TRUE(answer->has_value());
  EXPECT_EQ((**answer)[1].status(), proto::SCORED);
  const proto::Score& refused = (**answer)[2];
  EXPECT_EQ(refused.status(), proto::OVERLOADED);
  EXPECT_FALSE(refused.has_value());
  EXPECT_EQ(refused.message(), "the queue holds 2 items, at most 2");
  const auto later = Submit({MakeItem("p", "c")});
  clock_.Advance(absl::Seconds(1));
  RunOnce();
  EXPECT_EQ((**later)[0].status(), proto::SCORED) << "room is given back";
}

TEST_F(BatcherTest, IdenticalItemsAreComputedOnceWhileUnansweredAndRememberedAfterwards) {
  Make({});
  const auto first = Submit({MakeItem("p", "abc"), MakeItem("p", "abc")});
  const auto second = Submit({MakeItem("p", "abc"), MakeItem("q", "abc")});
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(RunOnce(), 2);
  EXPECT_EQ((**first)[1].value(), 3);
  EXPECT_EQ((**second)[0].value(), 3);
  EXPECT_EQ(batcher_->Stats().num_merged, 2);
  const auto third = Submit({MakeItem("p", "abc")});
  ASSERT_TRUE(third->has_value()) << "answered from memory, at once";
  EXPECT_TRUE((**third)[0].cached());
  EXPECT_EQ((**third)[0].value(), 3);
  EXPECT_EQ((**third)[0].latency_ms(), 0);
  EXPECT_EQ(batcher_->Stats().num_cache_hits, 1);
  EXPECT_EQ(model_.batches.size(), 1);
}

TEST_F(BatcherTest, AnItemThatArrivesWhileItsTwinIsComputedJoinsIt) {
  Make({});
  std::shared_ptr<std::optional<Scores>> joined;
  model_.during_batch = [&] { joined = Submit({MakeItem("p", "abc")}); };
  Submit({MakeItem("p", "abc")});
  clock_.Advance(absl::Seconds(1));
  RunOnce();
  ASSERT_TRUE(joined->has_value());
  EXPECT_EQ((**joined)[0].value(), 3);
}

TEST_F(BatcherTest, TheCacheForgetsTheLeastRecentlyUsed) {
  BatcherOptions options;
  options.cache_items = 2;
  options.max_batch_tokens = 1;
  Make(options);
  Submit({MakeItem("p", "a"), MakeItem("p", "b")});
  while (RunOnce() > 0) continue;
  EXPECT_TRUE(Submit({MakeItem("p", "a")})->has_value());
  Submit({MakeItem("p", "c")});
  RunOnce();
  EXPECT_TRUE(Submit({MakeItem("p", "a")})->has_value());
  EXPECT_FALSE(Submit({MakeItem("p", "b")})->has_value());
}

TEST_F(BatcherTest, WithoutACacheEverythingIsComputed) {
  BatcherOptions options;
  options.cache_items = 0;
  options.max_batch_tokens = 1;
  Make(options);
  Submit({MakeItem("p", "a")});
  RunOnce();
  EXPECT_FALSE(Submit({MakeItem("p", "a")})->has_value());
}

TEST_F(BatcherTest, OnlyScoresAreRemembered) {
  Make({});
  const auto failed = Submit({MakeItem("p", "!"), MakeItem("p", "")});
  clock_.Advance(absl::Seconds(1));
  RunOnce();
  ASSERT_TRUE(failed->has_value());
  EXPECT_EQ((**failed)[0].status(), proto::MODEL_ERROR);
  EXPECT_EQ((**failed)[0].message(), "told to fail");
  EXPECT_EQ((**failed)[1].status(), proto::REFUSED_INPUT);
  EXPECT_FALSE((**failed)[0].has_value() || (**failed)[1].has_value());
  EXPECT_FALSE(Submit({MakeItem("p", "!")})->has_value());
  EXPECT_EQ(batcher_->Stats().last_error, "told to fail");
}

TEST_F(BatcherTest, AnItemNotScoredInTimeIsTimedOutAndNotComputed) {
  BatcherOptions options;
  options.timeout = absl::Seconds(5);
  Make(options);
  const auto answer = Submit({MakeItem("p", "a")});
  clock_.Advance(absl::Seconds(3));
  const auto younger = Submit({MakeItem("p", "bb")});
  clock_.Advance(absl::Seconds(2));
  batcher_->ExpireOverdue();
  ASSERT_TRUE(answer->has_value());
  EXPECT_EQ((**answer)[0].status(), proto::TIMED_OUT);
  EXPECT_FALSE((**answer)[0].has_value());
  EXPECT_EQ((**answer)[0].message(), "not scored within 5s");
  EXPECT_EQ((**answer)[0].latency_ms(), 5000);
  RunOnce();
  EXPECT_THAT(model_.batches, ElementsAre(ElementsAre("bb")));
  EXPECT_TRUE(younger->has_value());
  EXPECT_EQ(batcher_->Stats().num_waiting, 0);
}

TEST_F(BatcherTest, AnItemOverdueInTheModelIsAnsweredAtOnceAndItsLateValueKept) {
  BatcherOptions options;
  options.timeout = absl::Seconds(5);
  Make(options);
  const auto answer = Submit({MakeItem("p", "a")});
  model_.during_batch = [&] {
    clock_.Advance(absl::Seconds(5));
    batcher_->ExpireOverdue();
    EXPECT_TRUE(answer->has_value());
  };
  clock_.Advance(absl::Seconds(1));
  RunOnce();
  EXPECT_EQ((**answer)[0].status(), proto::TIMED_OUT);
  const auto again = Submit({MakeItem("p", "a")});
  ASSERT_TRUE(again->has_value());
  EXPECT_EQ((**again)[0].status(), proto::SCORED);
  EXPECT_EQ((**again)[0].value(), 1);
}

TEST_F(BatcherTest, CloseScoresWhatIsQueuedAndAcceptsNothingMore) {
  Make({});
  const auto answer = Submit({MakeItem("p", "a")});
  batcher_->Close();
  const auto late = Submit({MakeItem("p", "b")});
  ASSERT_TRUE(late->has_value());
  EXPECT_EQ((**late)[0].status(), proto::OVERLOADED);
  batcher_->Run();
  ASSERT_TRUE(answer->has_value());
  EXPECT_EQ((**answer)[0].status(), proto::SCORED);
}

TEST_F(BatcherTest, NothingIsLeftUnansweredByTheEnd) {
  Make({});
  const auto abandoned = Submit({MakeItem("p", "a")});
  batcher_->Abandon("the scorer was told to end");
  ASSERT_TRUE(abandoned->has_value());
  EXPECT_EQ((**abandoned)[0].status(), proto::OVERLOADED) << "another scorer may have it";
  EXPECT_EQ((**abandoned)[0].message(), "the scorer was told to end");
  EXPECT_TRUE(model_.interrupted);
  Make({});
  const auto orphan = Submit({MakeItem("p", "a")});
  batcher_.reset();
  EXPECT_TRUE(orphan->has_value());
}

TEST_F(BatcherTest, WhatNobodyWaitsForAnyMoreIsNotComputed) {
  Make({});
  const auto gone = std::make_shared<std::atomic<bool>>(false);
  batcher_->Submit(
      {MakeItem("p", "a"), MakeItem("p", "bb")}, [](Scores) { FAIL(); }, gone);
  const auto stays = Submit({MakeItem("p", "bb")});
  *gone = true;
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(RunOnce(), 1);
  EXPECT_THAT(model_.batches, ElementsAre(ElementsAre("bb")));
  ASSERT_TRUE(stays->has_value()) << "the same item of another caller";
  EXPECT_EQ((**stays)[0].value(), 2);
  EXPECT_EQ(batcher_->Stats().num_dropped, 2);
  EXPECT_EQ(batcher_->Stats().num_waiting, 0);
}

TEST_F(BatcherTest, AnEmptyRequestIsAnsweredAtOnce) {
  Make({});
  const auto answer = Submit({});
  ASSERT_TRUE(answer->has_value());
  EXPECT_TRUE((*answer)->empty());
}

TEST_F(BatcherTest, StatisticsAddUp) {
  Make({});
  Submit({MakeItem("p", "aa"), MakeItem("p", "bbb"), MakeItem("p", "")});
  EXPECT_EQ(batcher_->Stats().num_waiting, 3);
  model_.during_batch = [&] {
    EXPECT_EQ(batcher_->Stats().num_in_flight, 2);
    clock_.Advance(absl::Seconds(2));
  };
  clock_.Advance(absl::Seconds(1));
  RunOnce();
  const BatcherStats stats = batcher_->Stats();
  EXPECT_EQ(stats.num_waiting, 0);
  EXPECT_EQ(stats.num_in_flight, 0);
  EXPECT_EQ(Count(proto::SCORED), 2);
  EXPECT_EQ(Count(proto::REFUSED_INPUT), 1);
  EXPECT_EQ(stats.num_answered(), 3);
  EXPECT_EQ(stats.num_tokens, 5);
  EXPECT_EQ(stats.num_batches, 1);
  EXPECT_EQ(stats.last_batch_items, 2);
  EXPECT_EQ(stats.busy_seconds, 2);
}

// The same item again while its first question is generated has a deadline of its own.
TEST_F(BatcherTest, WhoJoinsLateIsNotTimedOutWithTheOthers) {
  BatcherOptions options;
  options.timeout = absl::Seconds(60);
  Make(options);
  const auto first = Submit({MakeItem("p", "ab")});
  clock_.Advance(absl::Seconds(1));
  std::shared_ptr<std::optional<Scores>> second;
  model_.clock = &clock_;
  model_.during_batch = [&] {
    if (second) return;
    clock_.Advance(absl::Seconds(50));
    second = Submit({MakeItem("p", "ab")});
    clock_.Advance(absl::Seconds(10));
  };
  EXPECT_EQ(RunOnce(), 1);
  EXPECT_EQ((**first)[0].status(), proto::TIMED_OUT);
  EXPECT_FALSE(second->has_value());
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(RunOnce(), 1);
  EXPECT_EQ((**second)[0].status(), proto::SCORED);
  EXPECT_EQ(batcher_->Stats().num_waiting, 0);
}

// For TSan: requests from several threads, deadlines from another, one device thread.
TEST_F(BatcherTest, ManyThreadsGetEveryAnswerOnce) {
  BatcherOptions options;
  options.max_batch_tokens = 64;
  options.cache_items = 8;
  options.max_batch_wait = absl::ZeroDuration();
  Make(options);
  std::thread device([&] { batcher_->Run(); });
  constexpr int kThreads = 4, kRequests = 50;
  Mutex mutex;
  int num_answers = 0;
  std::vector<std::thread> callers;
  for (int t = 0; t < kThreads; ++t) {
    callers.emplace_back([&, t] {
      for (int r = 0; r < kRequests; ++r) {
        const std::string prompt = std::to_string((t * kRequests + r) % 30);
        batcher_->Submit({MakeItem(prompt, "abc"), MakeItem(prompt, "de")}, [&](Scores scores) {
          EXPECT_EQ(scores[0].value(), 3);
          EXPECT_EQ(scores[1].value(), 2);
          MutexLock lock(mutex);
          ++num_answers;
        });
        batcher_->ExpireOverdue();
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  batcher_->Close();
  device.join();
  MutexLock lock(mutex);
  EXPECT_EQ(num_answers, kThreads * kRequests);
}

TEST(ConversationKeyTest, DependsOnTheConversationOnly) {
  proto::ScoreItem item = MakeItem("ab", "c");
  proto::ScoreItem same = item;
  same.set_id("another");
  EXPECT_EQ(ConversationKey(item), ConversationKey(same));
  EXPECT_NE(ConversationKey(item), ConversationKey(MakeItem("a", "bc")));
  same.mutable_prompt(0)->set_role("assistant");
  EXPECT_NE(ConversationKey(item), ConversationKey(same));
}

}  // namespace
}  // namespace wideberth::scorer
