// SPDX-License-Identifier: Apache-2.0
// Ranks as threads over loopback: sums of several chunks, gathers, the end, and a rank 0 that goes
// away.
#include "transport/collective.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "absl/time/clock.h"
#include "tests/testing/fake_wire.h"
#include "transport/learner_service.h"
#include "transport/rank_client.h"
#include "transport/rank_hub.h"

namespace wideberth::transport {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::wideberth::testing::FakeLearner;

class CollectiveTest : public ::testing::Test {
 protected:
  void Serve(int world_size, double rank_timeout = 60) {
    RankHub::Options options;
    options.world_size = world_size;
    options.rank_timeout = absl::Seconds(rank_timeout);
    options.run_id = "run-1";
    options.config.mutable_learner()->set_rank_timeout(rank_timeout);
    options.base_fingerprint = "aa";
    hub_ = std::make_unique<RankHub>(std::move(options), &Clock::Real());
    auto server = LearnerServer::Start("127.0.0.1:0", &learner_, hub_.get());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::unique_ptr<RankClient> Client(int rank) {
    RankClient::Options options;
    options.rank = rank;
    options.unreachable_timeout = absl::Milliseconds(200);
    auto client = RankClient::Connect(server_->address(), absl::Seconds(30), options);
    EXPECT_TRUE(client.ok()) << client.status();
    proto::JoinRankRequest hello;
    hello.set_base_fingerprint("aa");
    const auto joined = (*client)->Join(hello);
    EXPECT_TRUE(joined.ok()) << joined.status();
    return *std::move(client);
  }
  // `work` on every rank, each in a thread of its own.
  void OnAllRanks(int world_size, const std::function<void(Collective&)>& work) {
    std::vector<std::jthread> ranks;
    for (int rank = 1; rank < world_size; ++rank) {
      ranks.emplace_back([this, rank, world_size, &work] {
        const auto client = Client(rank);
        StarCollective collective(rank, world_size, client.get(), /*chunk_bytes=*/64);
        work(collective);
      });
    }
    StarCollective collective(0, world_size, hub_.get(), /*chunk_bytes=*/64);
    ASSERT_TRUE(hub_->WaitForAll(absl::Seconds(30), [] { return false; }).ok());
    work(collective);
  }

  FakeLearner learner_;
  std::unique_ptr<RankHub> hub_;
  std::unique_ptr<LearnerServer> server_;
};

template <typename T>
std::vector<T> Random(int rank, int n) {
  std::mt19937 random(rank);
  std::normal_distribution<double> normal;
  std::vector<T> values(n);
  for (T& value : values) value = static_cast<T>(normal(random) * 1e3);
  return values;
}

template <typename T>
std::vector<T> SumOfRanks(int world_size, int n) {
  std::vector<T> sum = Random<T>(0, n);
  for (int rank = 1; rank < world_size; ++rank) {
    const std::vector<T> part = Random<T>(rank, n);
    for (int i = 0; i < n; ++i) sum[i] += part[i];
  }
  return sum;
}

TEST_F(CollectiveTest, SumsAndGathersAreEqualOnEveryRank) {
  for (const int world_size : {2, 4}) {
    Serve(world_size);
    OnAllRanks(world_size, [&](Collective& collective) {
      for (const int n : {0, 1, 8, 1000}) {
        std::vector<double> doubles = Random<double>(collective.rank(), n);
        ASSERT_TRUE(collective.AllReduceSum("doubles", {doubles.data(), n, proto::FLOAT64}).ok());
        EXPECT_EQ(doubles, SumOfRanks<double>(world_size, n));
        std::vector<float> floats = Random<float>(collective.rank(), n);
        ASSERT_TRUE(collective.AllReduceSum("floats", {floats.data(), n, proto::FLOAT32}).ok());
        EXPECT_EQ(floats, SumOfRanks<float>(world_size, n));
        const auto all = collective.AllGather("names", absl::StrCat("rank ", collective.rank()));
        ASSERT_TRUE(all.ok()) << all.status();
        ASSERT_EQ(all->size(), static_cast<size_t>(world_size));
        for (int rank = 0; rank < world_size; ++rank)
          EXPECT_EQ((*all)[rank], absl::StrCat("rank ", rank));
      }
    });
    server_.reset();
    hub_.reset();
  }
}

TEST_F(CollectiveTest, AMissingRankEndsTheOthersWithItsName) {
  Serve(3, /*rank_timeout=*/2);
  const auto there = Client(1);
  const auto silent = Client(2);
  silent->Note("training", 3);
  std::vector<double> mine = {1}, zero = {2};
  absl::Status of_one;
  std::jthread one([&] {
    StarCollective collective(1, 3, there.get());
    of_one = collective.AllReduceSum("gradient of step 4", {mine.data(), 1, proto::FLOAT64});
  });
  StarCollective collective(0, 3, hub_.get());
  const absl::Status of_zero =
      collective.AllReduceSum("gradient of step 4", {zero.data(), 1, proto::FLOAT64});
  one.join();
  EXPECT_THAT(std::string(of_zero.message()), HasSubstr("learner rank 2 (on "));
  EXPECT_THAT(std::string(of_zero.message()), HasSubstr("the gradient of step 4"));
  EXPECT_EQ(of_one.message(), of_zero.message());
  EXPECT_EQ(mine[0], 1);
  EXPECT_EQ(zero[0], 2);
}

TEST_F(CollectiveTest, StepsComeInOrderAndTheEndIsTold) {
  Serve(2);
  const auto client = Client(1);
  std::vector<std::string> seen;
  std::jthread rank([&] {
    int64_t done = -1;
    StarCollective collective(1, 2, client.get());
    while (true) {
      const auto step = client->FetchStep(done);
      ASSERT_TRUE(step.ok()) << step.status();
      if (step->ended()) return;
      seen.push_back(step->work());
      done = step->step();
      ASSERT_TRUE(collective.AllGather("done", "").ok());
    }
  });
  StarCollective collective(0, 2, hub_.get());
  for (int step = 0; step < 3; ++step) {
    hub_->Offer(step, absl::StrCat("step ", step));
    ASSERT_TRUE(collective.AllGather("done", "").ok());
  }
  hub_->End();
  rank.join();
  EXPECT_THAT(seen, ElementsAre("step 0", "step 1", "step 2"));
  EXPECT_TRUE(hub_->AllTold());
}

TEST_F(CollectiveTest, RanksEndWhenRankZeroIsGone) {
  Serve(2);
  const auto client = Client(1);
  const std::string address = server_->address();
  hub_->Fail(absl::AbortedError("the disk is full"));
  EXPECT_EQ(client->FetchStep(-1).status().message(), "the disk is full");
  server_.reset();
  const absl::Status gone = client->FetchStep(-1).status();
  EXPECT_THAT(std::string(gone.message()),
              HasSubstr(absl::StrCat("learner rank 0 at ", address, " could not be reached")));
}

TEST_F(CollectiveTest, ALostConnectionIsNoticedWithoutWaitingForSilence) {
  Serve(2);
  auto client = Client(1);
  while (hub_->Statuses()[0].state != "loading") std::this_thread::yield();
  client.reset();
  while (hub_->Statuses()[0].state != "lost") std::this_thread::yield();
}

TEST_F(CollectiveTest, AReasonToLeaveReachesRankZero) {
  Serve(2);
  const auto client = Client(1);
  client->Leave("stopped by signal 15");
  StarCollective collective(0, 2, hub_.get());
  EXPECT_THAT(std::string(collective.AllGather("metrics", "").status().message()),
              HasSubstr(": stopped by signal 15"));
}

}  // namespace
}  // namespace wideberth::transport
