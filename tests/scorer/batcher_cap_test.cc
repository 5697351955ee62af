// SPDX-License-Identifier: Apache-2.0
// The batcher's latency cap, on a device whose batches take 2 ms and 1 ms a token.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "scorer/batcher.h"
#include "tests/scorer/fake_scoring_model.h"

namespace wideberth::scorer {
namespace {

using ::testing::HasSubstr;
using Scores = std::vector<proto::Score>;

constexpr absl::Duration kCap = absl::Milliseconds(100);

class BatcherCapTest : public ::testing::Test {
 protected:
  BatcherCapTest() {
    BatcherOptions options;
    options.max_batch_tokens = 1000;
    options.max_latency = kCap;
    options.cache_items = 0;
    batcher_.emplace(options, &model_, &clock_);
    model_.during_batch = [this] {
      int64_t tokens = 0;
      for (const std::string& text : model_.batches.back())
        tokens += static_cast<int64_t>(text.size());
      clock_.Advance(absl::Milliseconds(2 + tokens) + stall_);
    };
    for (int i = 0; i < 10; ++i) {  // So that it knows the device.
      Submit(1 + i % 5, 4);
      Drain();
    }
    answers_.clear();
  }

  // Items of `num_tokens` each, none like another.
  void Submit(int num_items, int num_tokens) {
    std::vector<proto::ScoreItem> items;
    for (int i = 0; i < num_items; ++i) {
      items.push_back(MakeItem("", absl::StrCat(num_++)));
      items.back().mutable_completion()->resize(num_tokens, 'x');
      items.back().mutable_prompt(0)->set_role(absl::StrCat("user", num_));
    }
    batcher_->Submit(items, [this](Scores scores) {
      for (proto::Score& score : scores) answers_.push_back(std::move(score));
    });
  }
  void Drain() {
    while (batcher_->Stats().num_waiting > 0) {
      if (batcher_->RunOnce(absl::ZeroDuration()) == 0) clock_.Advance(absl::Milliseconds(1));
    }
  }
  int Count(proto::ScoreStatus status) const {
    return static_cast<int>(
        std::count_if(answers_.begin(), answers_.end(),
                      [status](const proto::Score& score) { return score.status() == status; }));
  }
  double Slowest() const {
    double slowest = 0;
    for (const proto::Score& score : answers_) {
      if (score.status() == proto::SCORED) slowest = std::max(slowest, score.latency_ms());
    }
    return slowest;
  }

  FakeScoringModel model_;
  FakeClock clock_;
  absl::Duration stall_;
  int num_ = 100000;
  std::vector<proto::Score> answers_;
  std::optional<Batcher> batcher_;
};

TEST_F(BatcherCapTest, WhatWouldBeLateIsOverloadedAtOnceAndTheRestIsInTime) {
  Submit(40, 4);  // 160 ms of work.
  EXPECT_TRUE(answers_.empty()) << "a call is answered as a whole";
  Submit(1, 4);
  ASSERT_EQ(answers_.size(), 1);
  EXPECT_EQ(answers_[0].status(), proto::OVERLOADED);
  EXPECT_FALSE(answers_[0].has_value());
  EXPECT_THAT(answers_[0].message(), HasSubstr("it would be answered after about "));
  EXPECT_THAT(answers_[0].message(), HasSubstr("; at most 100ms (max_latency_ms)"));
  Drain();
  EXPECT_GT(Count(proto::SCORED), 10);
  EXPECT_GT(Count(proto::OVERLOADED), 10);
  EXPECT_LE(Slowest(), 105) << "but for a token more or less in a batch";
  Submit(1, 4);
  Drain();
  EXPECT_EQ(answers_.back().status(), proto::SCORED) << "room is given back";
}

TEST_F(BatcherCapTest, ABatchTakesHalfTheCapAtMost) {
  for (int i = 0; i < 40; ++i) Submit(1, 4);
  model_.batches.clear();
  Drain();
  ASSERT_GT(model_.batches.size(), 1);
  for (const auto& batch : model_.batches) EXPECT_LE(batch.size(), 12);
}

TEST_F(BatcherCapTest, ItemsThatComeWhileADeviceIsLateAreOverloaded) {
  stall_ = absl::Milliseconds(500);
  const auto batch = model_.during_batch;
  model_.during_batch = [&, this] {
    Submit(1, 4);
    batch();
    Submit(1, 4);
  };
  Submit(1, 4);
  clock_.Advance(absl::Milliseconds(10));
  batcher_->RunOnce(absl::ZeroDuration());
  ASSERT_EQ(answers_.size(), 2);
  EXPECT_EQ(answers_[0].status(), proto::OVERLOADED);
  EXPECT_EQ(answers_[1].status(), proto::SCORED);
}

TEST_F(BatcherCapTest, AnIdleBatcherAcceptsOneItemWhateverItCosts) {
  Submit(2, 500);
  EXPECT_TRUE(answers_.empty());
  Drain();
  ASSERT_EQ(answers_.size(), 2);
  EXPECT_EQ(answers_[0].status(), proto::SCORED);
  EXPECT_EQ(answers_[1].status(), proto::OVERLOADED);
}

// Calls that arrive at random, at 90 % of what the device can do in full batches.
TEST_F(BatcherCapTest, AtNineTenthsOfTheCapacityAlmostEverythingIsInTime) {
  std::mt19937 random(5);
  // 48 tokens in 50 ms; a call has 12.
  std::exponential_distribution<double> gap(0.9 * 48 / 50 / 12);
  std::deque<double> arrivals;
  double at = 0;
  for (int i = 0; i < 5000; ++i) arrivals.push_back(at += gap(random));
  const absl::Time start = clock_.Now();
  const auto bring_due = [&] {
    while (!arrivals.empty() && start + absl::Milliseconds(arrivals.front()) <= clock_.Now()) {
      arrivals.pop_front();
      Submit(4, 3);
    }
  };
  // Those that arrive while the device works are seen by the batcher then.
  model_.during_batch = [&, this] {
    int64_t tokens = 2;
    for (const std::string& text : model_.batches.back())
      tokens += static_cast<int64_t>(text.size());
    for (; tokens > 0; --tokens) {
      clock_.Advance(absl::Milliseconds(1));
      bring_due();
    }
  };
  while (!arrivals.empty()) {
    bring_due();
    if (batcher_->RunOnce(absl::ZeroDuration()) == 0) clock_.Advance(absl::Milliseconds(1));
  }
  Drain();
  ASSERT_EQ(answers_.size(), 20000);
  EXPECT_EQ(Count(proto::SCORED) + Count(proto::OVERLOADED), 20000);
  EXPECT_LE(Slowest(), 100 + 2);
  EXPECT_LT(Count(proto::OVERLOADED), 20000 / 10);
}

}  // namespace
}  // namespace wideberth::scorer
