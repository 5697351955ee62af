// SPDX-License-Identifier: Apache-2.0
// Ranks as threads over loopback: sums of several chunks, gathers, the end, and a rank 0 that goes
// away.
#include "transport/collective.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/mutex.h"
#include "tests/testing/fake_wire.h"
#include "transport/device_collective.h"
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

// GPUs that add up in this process's memory. What goes wrong, where it is told to.
class FakeGpus {
 public:
  explicit FakeGpus(int world_size) : world_size_(world_size) {}
  int joins_refused = -1;  // By this rank.
  int sums_refused = -1;

  class End final : public DeviceSums {
   public:
    explicit End(FakeGpus* gpus) : gpus_(gpus) {}
    absl::StatusOr<std::string> NewId() override { return std::string("id of rank 0"); }
    absl::Status Join(const std::string& id, int rank, int, absl::Duration) override {
      rank_ = rank;
      if (id != "id of rank 0") return absl::InternalError(absl::StrCat("a foreign id ", id));
      return rank == gpus_->joins_refused ? absl::UnavailableError("no such device")
                                          : absl::OkStatus();
    }
    absl::Status AllReduceSum(const FlatBuffer& buffer, absl::Duration timeout) override {
      if (rank_ == gpus_->sums_refused) return absl::UnavailableError("peer access lost");
      return gpus_->Add(buffer, timeout);
    }

   private:
    FakeGpus* const gpus_;
    int rank_ = -1;
  };

  int num_sums() {
    MutexLock lock(mutex_);
    return num_sums_;
  }

 private:
  absl::Status Add(const FlatBuffer& buffer, absl::Duration timeout) {
    auto* const values = static_cast<double*>(buffer.data);
    MutexLock lock(mutex_);
    sum_.resize(buffer.num_values);
    for (int64_t i = 0; i < buffer.num_values; ++i) sum_[i] += values[i];
    ++num_sums_;
    changed_.SignalAll();
    const absl::Time deadline = absl::Now() + timeout;
    while (num_sums_ < world_size_ && absl::Now() < deadline)
      changed_.WaitFor(mutex_, deadline - absl::Now());
    if (num_sums_ < world_size_) return absl::DeadlineExceededError("not every member took part");
    std::copy(sum_.begin(), sum_.end(), values);
    return absl::OkStatus();
  }

  const int world_size_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<double> sum_ ABSL_GUARDED_BY(mutex_);
  int num_sums_ ABSL_GUARDED_BY(mutex_) = 0;
};

class DeviceCollectiveTest : public CollectiveTest {
 protected:
  struct Outcome {
    bool on_device = false;
    absl::Status first, second;
    std::vector<double> values;
  };
  // Every rank connects and adds up twice; `without_gpu` has none.
  std::vector<Outcome> AddUp(FakeGpus* gpus, int without_gpu = -1) {
    Serve(3);
    std::vector<Outcome> outcomes(3);
    OnAllRanks(3, [&](Collective& star) {
      class Borrowed final : public Collective {
       public:
        explicit Borrowed(Collective* of) : of_(of) {}
        int rank() const override { return of_->rank(); }
        int world_size() const override { return of_->world_size(); }
        absl::Status AllReduceSum(absl::string_view operation, const FlatBuffer& buffer) override {
          return of_->AllReduceSum(operation, buffer);
        }
        absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view operation,
                                                           std::string mine) override {
          return of_->AllGather(operation, std::move(mine));
        }

       private:
        Collective* const of_;
      };
      std::unique_ptr<DeviceSums> sums;
      if (star.rank() != without_gpu) sums = std::make_unique<FakeGpus::End>(gpus);
      DeviceCollective collective(std::make_unique<Borrowed>(&star), std::move(sums),
                                  absl::Milliseconds(300));
      Outcome& outcome = outcomes[star.rank()];
      EXPECT_TRUE(collective.Connect().ok());
      outcome.on_device = collective.on_device();
      outcome.values = {1.0 + star.rank(), -2.5};
      FlatBuffer buffer{outcome.values.data(), 2, proto::FLOAT64};
      outcome.first = collective.AllReduceSum("gradient of step 1", buffer);
      if (!outcome.first.ok())
        outcome.second = collective.AllReduceSum("gradient of step 2", buffer);
    });
    return outcomes;
  }
};

TEST_F(DeviceCollectiveTest, SumsGoBetweenTheGpusWhereEveryRankHasOne) {
  FakeGpus gpus(3);
  for (const Outcome& outcome : AddUp(&gpus)) {
    EXPECT_TRUE(outcome.on_device);
    EXPECT_TRUE(outcome.first.ok()) << outcome.first;
    EXPECT_THAT(outcome.values, ElementsAre(6, -7.5));
  }
  EXPECT_EQ(gpus.num_sums(), 3);
}

TEST_F(DeviceCollectiveTest, ARankWithoutAGpuOrThatCannotJoinTakesAllThroughRankZero) {
  for (const bool joins : {false, true}) {
    FakeGpus gpus(3);
    if (joins) gpus.joins_refused = 1;
    for (const Outcome& outcome : AddUp(&gpus, joins ? -1 : 2)) {
      EXPECT_FALSE(outcome.on_device);
      EXPECT_TRUE(outcome.first.ok()) << outcome.first;
      EXPECT_THAT(outcome.values, ElementsAre(6, -7.5));
    }
    EXPECT_EQ(gpus.num_sums(), 0);
  }
}

TEST_F(DeviceCollectiveTest, ASumThatFailsOnOneRankFailsOnAllAndNamesIt) {
  FakeGpus gpus(3);
  gpus.sums_refused = 1;
  for (const Outcome& outcome : AddUp(&gpus)) {
    EXPECT_TRUE(outcome.on_device);
    EXPECT_THAT(std::string(outcome.first.message()),
                HasSubstr("gradient of step 1: learner rank 0: not every member took part; learner "
                          "rank 1: peer access lost; learner rank 2: not every"));
    EXPECT_EQ(outcome.second, outcome.first) << "broken for good, without another wait";
  }
}

}  // namespace
}  // namespace wideberth::transport
