// SPDX-License-Identifier: Apache-2.0
// Rank 0's book-keeping by a clock that moves when told: sums, repeats, and who is named when
// somebody is missing.
#include "transport/rank_hub.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

namespace wideberth::transport {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Bytes(const std::vector<double>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(double));
}
std::vector<double> Doubles(const std::string& bytes) {
  std::vector<double> values(bytes.size() / sizeof(double));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

class RankHubTest : public ::testing::Test {
 protected:
  std::unique_ptr<RankHub> Hub(int world_size) {
    RankHub::Options options;
    options.world_size = world_size;
    options.rank_timeout = absl::Seconds(10);
    options.run_id = "run-1";
    options.config.set_name("tiny");
    options.base_fingerprint = "aa";
    options.host = "host-0";
    options.pid = 100;
    options.on_failure = [this](const absl::Status& why) { failures_.push_back(why); };
    options.ticks_itself = false;
    auto hub = std::make_unique<RankHub>(std::move(options), &clock_);
    for (int rank = 1; rank < world_size; ++rank) EXPECT_TRUE(hub->Join(Hello(rank)).ok());
    return hub;
  }
  static proto::JoinRankRequest Hello(int rank) {
    proto::JoinRankRequest hello;
    hello.set_rank(rank);
    hello.set_host(absl::StrCat("host-", rank));
    hello.set_pid(100 + rank);
    hello.set_base_fingerprint("aa");
    return hello;
  }
  static proto::CombineRequest Part(int rank, const std::vector<double>& values,
                                    int64_t sequence = 0,
                                    const std::string& operation = "gradient of step 7") {
    proto::CombineRequest part;
    part.set_rank(rank);
    part.set_run_id("run-1");
    part.set_sequence(sequence);
    part.set_operation(operation);
    part.set_num_chunks(1);
    part.set_kind(proto::CombineRequest::SUM);
    part.set_dtype(proto::FLOAT64);
    part.set_data(Bytes(values));
    return part;
  }
  using Answers = std::vector<absl::StatusOr<proto::CombineResponse>>;
  static RankHub::Answer<proto::CombineResponse> Into(Answers* answers) {
    return [answers](absl::StatusOr<proto::CombineResponse> answer) {
      answers->push_back(std::move(answer));
    };
  }
  // A sign of life whose answer nobody waits for.
  static void Attend(RankHub& hub, int rank) {
    proto::AttendRequest request;
    request.set_rank(rank);
    request.set_run_id("run-1");
    request.set_state("training");
    hub.Attend(request, [](const absl::StatusOr<proto::AttendResponse>&) {});
  }

  FakeClock clock_;
  std::vector<absl::Status> failures_;
};

TEST_F(RankHubTest, SumsInTheOrderOfRanksHoweverThePartsCome) {
  const auto hub = Hub(3);
  Answers answers;
  // (1 + 1e16) - 1e16 is 0 in this order; in the order of arrival below it would be 1.
  hub->Contribute(Part(2, {-1e16, 3}), Into(&answers));
  hub->Contribute(Part(1, {1e16, 2}), Into(&answers));
  EXPECT_TRUE(answers.empty());
  hub->Contribute(Part(0, {1, 1}), Into(&answers));
  ASSERT_EQ(answers.size(), 3u);
  for (const auto& answer : answers) {
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_THAT(Doubles(answer->data(0)), ElementsAre((1 + 1e16) - 1e16, 6));
  }
}

TEST_F(RankHubTest, ARepeatedPartCountsOnceBeforeAndAfterTheResult) {
  const auto hub = Hub(2);
  Answers first, again, other, late;
  hub->Contribute(Part(1, {5}), Into(&first));
  hub->Contribute(Part(1, {5}), Into(&again));
  hub->Contribute(Part(0, {1}), Into(&other));
  hub->Contribute(Part(1, {5}), Into(&late));
  for (const Answers* answers : {&first, &again, &other, &late}) {
    ASSERT_EQ(answers->size(), 1u);
    ASSERT_TRUE((*answers)[0].ok());
    EXPECT_THAT(Doubles((*answers)[0]->data(0)), ElementsAre(6));
  }
  // Once every rank has gone on, a straggling repeat changes nothing and waits for nobody.
  Answers next, stale;
  hub->Contribute(Part(0, {1}, 1, "gradient of step 8"), Into(&next));
  hub->Contribute(Part(1, {2}, 1, "gradient of step 8"), Into(&next));
  hub->Contribute(Part(1, {5}), Into(&stale));
  ASSERT_EQ(stale.size(), 1u);
  EXPECT_FALSE(stale[0].ok());
  clock_.Advance(absl::Seconds(8));
  Attend(*hub, 1);
  clock_.Advance(absl::Seconds(8));
  hub->Tick();
  EXPECT_TRUE(failures_.empty()) << failures_[0];
}

TEST_F(RankHubTest, GathersByRank) {
  const auto hub = Hub(2);
  Answers answers;
  for (const int rank : {1, 0}) {
    proto::CombineRequest part = Part(rank, {});
    part.set_kind(proto::CombineRequest::GATHER);
    part.set_data(absl::StrCat("of ", rank));
    hub->Contribute(part, Into(&answers));
  }
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_THAT(answers[0]->data(), ElementsAre("of 0", "of 1"));
}

TEST_F(RankHubTest, ASilentRankIsNamedWithHostOperationAndAge) {
  const auto hub = Hub(3);
  Answers answers;
  clock_.Advance(absl::Seconds(4));
  Attend(*hub, 1);
  Attend(*hub, 2);
  hub->Contribute(Part(0, {1}), Into(&answers));
  clock_.Advance(absl::Seconds(8));
  hub->Contribute(Part(1, {1}), Into(&answers));
  hub->Tick();
  EXPECT_TRUE(answers.empty());
  clock_.Advance(absl::Seconds(2.5));
  hub->Tick();
  ASSERT_EQ(answers.size(), 2u);
  for (const auto& answer : answers) {
    EXPECT_EQ(answer.status().message(),
              "learner rank 2 (on host-2, process 102) has been silent for 10.5 s, expected at "
              "most 10 s (learner.rank_timeout); the gradient of step 7 has waited for it for 10.5 "
              "s and was given up");
  }
  ASSERT_EQ(failures_.size(), 1u);
  // Everything that comes later ends the same way.
  Answers late;
  hub->Contribute(Part(2, {1}), Into(&late));
  ASSERT_EQ(late.size(), 1u);
  EXPECT_EQ(late[0].status(), failures_[0]);
}

TEST_F(RankHubTest, ARankThatLivesButDoesNotComeIsNamedToo) {
  const auto hub = Hub(2);
  Answers answers;
  hub->Contribute(Part(0, {1}), Into(&answers));
  for (int i = 0; i < 11; ++i) {
    clock_.Advance(absl::Seconds(1));
    Attend(*hub, 1);
    hub->Tick();
  }
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].status().message(),
            "learner rank 1 (on host-1, process 101), last heard of 0 s ago, did not bring its "
            "part of the gradient of step 7 within 11 s, expected at most 10 s "
            "(learner.rank_timeout)");
}

TEST_F(RankHubTest, ABrokenConnectionEndsItSoonerUnlessItComesBack) {
  const auto hub = Hub(2);
  hub->HungUp(1);
  clock_.Advance(absl::Seconds(4));
  hub->Tick();
  Attend(*hub, 1);
  clock_.Advance(absl::Seconds(4));
  hub->Tick();
  EXPECT_TRUE(failures_.empty());
  hub->HungUp(1);
  clock_.Advance(absl::Seconds(5.5));
  hub->Tick();
  ASSERT_EQ(failures_.size(), 1u);
  EXPECT_EQ(failures_[0].message(),
            "learner rank 1 (on host-1, process 101) is gone: its connection broke 5.5 s ago and "
            "did not come back");
}

TEST_F(RankHubTest, RanksOutOfStepAreRefused) {
  const auto hub = Hub(2);
  Answers answers;
  hub->Contribute(Part(0, {1}), Into(&answers));
  hub->Contribute(Part(1, {1}, 0, "gradient of step 8"), Into(&answers));
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_THAT(std::string(answers[0].status().message()),
              HasSubstr("is at the gradient of step 8 in 1 chunks, learner rank 0 (on host-0, "
                        "process 100) at the gradient of step 7"));
  EXPECT_FALSE(answers[1].ok());
}

TEST_F(RankHubTest, PartsOfDifferentSizeAreRefused) {
  const auto hub = Hub(2);
  Answers answers;
  hub->Contribute(Part(0, {1}), Into(&answers));
  hub->Contribute(Part(1, {1, 2}), Into(&answers));
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_THAT(std::string(answers[1].status().message()), HasSubstr("brings 16 bytes"));
}

TEST_F(RankHubTest, JoiningIsCheckedWithASentence) {
  const auto hub = Hub(2);
  const auto refused = [&](const proto::JoinRankRequest& hello) {
    return std::string(hub->Join(hello).status().message());
  };
  EXPECT_THAT(refused(Hello(2)), HasSubstr("expected a rank from 1 to 1"));
  EXPECT_THAT(refused(Hello(0)), HasSubstr("expected a rank from 1 to 1"));
  proto::JoinRankRequest hello = Hello(1);
  EXPECT_TRUE(hub->Join(hello).ok());  // A repeat.
  hello.set_pid(555);
  EXPECT_THAT(refused(hello), HasSubstr("(on host-1, process 101) has that rank already"));
  hello = Hello(1);
  hello.set_world_size(3);
  EXPECT_THAT(refused(hello), HasSubstr("was told of 3 ranks, rank 0 of 2"));
  hello = Hello(1);
  hello.set_base_fingerprint("bb");
  EXPECT_THAT(refused(hello),
              HasSubstr("has base weights with fingerprint bb, expected aa as in rank 0"));
}

TEST_F(RankHubTest, AStepIsHandedOutOnceItIsThereAndAgainWhenAskedAgain) {
  const auto hub = Hub(2);
  std::vector<absl::StatusOr<proto::FetchStepResponse>> answers;
  const auto fetch = [&](int64_t done) {
    proto::FetchStepRequest request;
    request.set_rank(1);
    request.set_done_step(done);
    hub->FetchStep(request, [&](absl::StatusOr<proto::FetchStepResponse> answer) {
      answers.push_back(std::move(answer));
    });
  };
  fetch(-1);
  EXPECT_TRUE(answers.empty());
  clock_.Advance(absl::Seconds(3));
  hub->Tick();  // Nothing for a while: an empty answer, ask again.
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_FALSE(answers[0]->has_work());
  fetch(-1);
  hub->Offer(0, "work");
  fetch(-1);
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(answers[1]->work(), "work");
  EXPECT_EQ(answers[2]->work(), "work");
  fetch(0);
  EXPECT_EQ(answers.size(), 3u);
  EXPECT_FALSE(hub->AllTold());
  hub->End();
  ASSERT_EQ(answers.size(), 4u);
  EXPECT_TRUE(answers[3]->ended());
  EXPECT_TRUE(hub->AllTold());
}

TEST_F(RankHubTest, ARankThatLeavesEndsEverybodysOperationsWithItsReason) {
  const auto hub = Hub(2);
  Answers answers;
  hub->Contribute(Part(0, {1}), Into(&answers));
  proto::LeaveRankRequest leave;
  leave.set_rank(1);
  leave.set_reason("no memory");
  EXPECT_TRUE(hub->Leave(leave).ok());
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].status().message(), "learner rank 1 (on host-1, process 101): no memory");
}

TEST_F(RankHubTest, WaitingForRanksNamesThoseThatAreMissing) {
  RankHub::Options options;
  options.world_size = 3;
  options.ticks_itself = false;
  RankHub hub(std::move(options), &clock_);
  ASSERT_FALSE(hub.Join(Hello(1)).ok());  // Its weights are not rank 0's, which has none here.
  const absl::Status missing = hub.WaitForAll(absl::ZeroDuration(), [] { return false; });
  EXPECT_EQ(missing.message(),
            "learner rank 1 (never joined), learner rank 2 (never joined) did not get ready within "
            "0 s (learner.step_timeout); learner.world_size is 3");
  EXPECT_TRUE(absl::IsCancelled(hub.WaitForAll(absl::Seconds(1), [] { return true; })));
}

}  // namespace
}  // namespace wideberth::transport
