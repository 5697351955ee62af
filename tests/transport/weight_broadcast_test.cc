// SPDX-License-Identifier: Apache-2.0
// Broadcast groups against a fake communicator whose members can stall, fail and get lost: what
// arrives, how, and that every failure is followed by a group of those that are left.
#include "transport/weight_broadcast.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/testing/fake_wire.h"
#include "tests/transport/blobs.h"

namespace wideberth::transport {
namespace {

using ::wideberth::testing::FakeLearner;
using ::wideberth::testing::InMemoryLearnerClient;
using ::wideberth::testing::MakeBlob;

// kHangs cannot be interrupted.
enum class Fault {
  kNone,
  kStallsAtJoin,
  kHangsAtJoin,
  kStallsAtBroadcast,
  kDiesAtBroadcast,
  kGarbage
};

// All ends of all groups, in memory: a broadcast is through once every rank has taken part.
class FakeNet {
 public:
  struct Group {
    int size = 0;
    std::set<int> joined;
    bool dead = false;  // An end was destroyed: nobody's call succeeds any more.
    std::map<int, int> round_of;
    std::map<int, std::string> sent;  // By round.
    std::map<int, int> num_taken;
  };

  void SetFault(int member, Fault fault) {
    MutexLock lock(mutex_);
    faults_[member] = fault;
    changed_.SignalAll();
  }
  int num_ids() {
    MutexLock lock(mutex_);
    return num_ids_;
  }

 private:
  friend class FakeEnd;
  friend class FakeCommunicators;
  Mutex mutex_;
  CondVar changed_;
  int num_ids_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, Group> groups_ ABSL_GUARDED_BY(mutex_);
  std::map<int, Fault> faults_ ABSL_GUARDED_BY(mutex_);
};

class FakeEnd final : public Communicator {
 public:
  FakeEnd(FakeNet* net, int member, const proto::WeightGroup& group)
      : net_(net), member_(member), rank_(group.rank()), size_(group.size()) {}
  ~FakeEnd() override {
    MutexLock lock(net_->mutex_);
    if (!id_.empty()) net_->groups_[id_].dead = true;
    net_->changed_.SignalAll();
  }

  absl::Status Open(const std::string& unique_id, const BroadcastWait& wait) override {
    MutexLock lock(net_->mutex_);
    id_ = unique_id;
    FakeNet::Group& group = net_->groups_[id_];
    group.size = size_;
    const Fault fault = net_->faults_[member_];
    while (net_->faults_[member_] == Fault::kHangsAtJoin)
      net_->changed_.WaitFor(net_->mutex_, absl::Milliseconds(1));
    if (fault == Fault::kHangsAtJoin) return absl::UnavailableError("too late");
    if (fault != Fault::kStallsAtJoin) group.joined.insert(rank_);
    net_->changed_.SignalAll();
    return Await(wait, group, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return net_->faults_[member_] != Fault::kStallsAtJoin &&
             static_cast<int>(group.joined.size()) == size_;
    });
  }

  absl::Status Broadcast(char* data, uint64_t num_bytes, const BroadcastWait& wait) override {
    MutexLock lock(net_->mutex_);
    FakeNet::Group& group = net_->groups_[id_];
    const Fault fault = net_->faults_[member_];
    if (fault == Fault::kDiesAtBroadcast) {
      group.dead = true;
      net_->changed_.SignalAll();
      return absl::UnavailableError("died");
    }
    const int round = group.round_of[rank_]++;
    if (rank_ == 0) group.sent[round] = std::string(data, num_bytes);
    if (fault != Fault::kStallsAtBroadcast) ++group.num_taken[round];
    net_->changed_.SignalAll();
    const absl::Status through = Await(wait, group, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return group.num_taken[round] == size_;
    });
    if (!through.ok() || rank_ == 0) return through;
    std::string bytes = group.sent[round];
    bytes.resize(num_bytes);
    // The third of a version is its bytes.
    if (fault == Fault::kGarbage && round % 3 == 2) bytes[0] ^= 1;
    std::copy(bytes.begin(), bytes.end(), data);
    return absl::OkStatus();
  }

 private:
  template <typename Condition>
  absl::Status Await(const BroadcastWait& wait, const FakeNet::Group& group,
                     Condition condition) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    while (!condition()) {
      if (*wait.interrupted) return absl::CancelledError("interrupted");
      if (group.dead) return absl::UnavailableError("a member is gone");
      if (absl::Now() >= wait.deadline) return absl::DeadlineExceededError("not all took part");
      net_->changed_.WaitFor(net_->mutex_, absl::Milliseconds(1));
    }
    return absl::OkStatus();
  }

  FakeNet* const net_;
  const int member_, rank_, size_;
  std::string id_;
};

class FakeCommunicators final : public Communicators {
 public:
  FakeCommunicators(FakeNet* net, int member) : net_(net), member_(member) {}
  absl::StatusOr<std::string> NewUniqueId() override {
    MutexLock lock(net_->mutex_);
    return absl::StrCat("id-", ++net_->num_ids_);
  }
  std::unique_ptr<Communicator> Make(const proto::WeightGroup& group) override {
    return std::make_unique<FakeEnd>(net_, member_, group);
  }

 private:
  FakeNet* const net_;
  const int member_;
};

class BroadcastTest : public ::testing::Test {
 protected:
  static constexpr int kLearner = -1;
  // A member's stream counts how often it was asked; the learner's handler says "by broadcast".
  struct Member {
    class Stream final : public AdapterSource {
     public:
      explicit Stream(AdapterShelf* shelf) : shelf_(shelf) {}
      absl::StatusOr<std::shared_ptr<const AdapterBlob>> Receive(
          std::optional<uint64_t> have) override {
        const auto blob = shelf_->Newest(FetchRequest("", have));
        num_versions += blob != nullptr;
        return blob;
      }
      AdapterShelf* const shelf_;
      std::atomic<int> num_versions = 0;
    };
    Member(AdapterShelf* shelf, FakeLearner* learner) : stream(shelf), client(learner) {}
    Stream stream;
    InMemoryLearnerClient client;
    std::unique_ptr<BroadcastSource> source;
    std::atomic<bool> alive = true;
    std::optional<uint64_t> have;
  };

  BroadcastTest() {
    times_.join = absl::Milliseconds(300);
    times_.send = absl::Milliseconds(300);
    times_.regroup = absl::Milliseconds(100);
    times_.max_regroup = absl::Milliseconds(200);
    learner_.on_fetch = [this](const proto::FetchAdapterRequest& request)
        -> absl::StatusOr<std::shared_ptr<const AdapterBlob>> {
      const auto newest = shelf_.Newest(request);
      if (newest == nullptr) return newest;
      if (!carrier_->Carries(request.weight_generation(), *newest)) {
        ++num_streamed_[std::stoi(request.member_id())];
        return newest;
      }
      auto announced = std::make_shared<AdapterBlob>();
      announced->manifest = newest->manifest;
      return announced;
    };
    carrier_ = std::make_unique<BroadcastCarrier>(
        std::make_unique<FakeCommunicators>(&net_, kLearner), times_);
    heartbeats_ = std::jthread([this](std::stop_token stop) {
      while (!stop.stop_requested()) {
        Beat();
        absl::SleepFor(absl::Milliseconds(5));
      }
    });
  }
  ~BroadcastTest() override {
    StopBeating();
    for (auto& member : members_) member->source->Cancel();
  }

  void Add(int n) {
    MutexLock lock(mutex_);
    for (; n > 0; --n) {
      const int id = static_cast<int>(members_.size());
      auto& member = *members_.emplace_back(std::make_unique<Member>(&shelf_, &learner_));
      BroadcastTimes times = times_;
      times.join = absl::Seconds(30);  // Ended by the learner's word.
      times.send = absl::Seconds(30);
      member.source = std::make_unique<BroadcastSource>(
          &member.stream, &member.client, [id] { return absl::StrCat(id); },
          std::make_unique<FakeCommunicators>(&net_, id), times);
    }
  }
  void StopBeating() {
    heartbeats_.request_stop();
    if (heartbeats_.joinable()) heartbeats_.join();
  }
  void Beat() {
    MutexLock lock(mutex_);
    for (size_t i = 0; i < members_.size(); ++i) {
      if (!members_[i]->alive) continue;
      proto::HeartbeatResponse response;
      const auto group = carrier_->Heartbeat(absl::StrCat(i), members_[i]->source->generation());
      if (group.has_value()) *response.mutable_weight_group() = *group;
      members_[i]->source->Offer(response);
    }
  }
  // A condition that must come true, however slow the machine.
  template <typename Condition>
  static bool Eventually(Condition condition) {
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    while (!condition()) {
      if (absl::Now() >= deadline) return false;
      absl::SleepFor(absl::Milliseconds(1));
    }
    return true;
  }
  bool AllJoined(int n) {
    return Eventually([&] {
      int joined = 0;
      for (const auto& member : members_) joined += member->source->joined();
      return carrier_->num_members() == n && joined == n;
    });
  }
  void Publish(uint64_t version) {
    newest_ = MakeBlob(version);
    carrier_->Publish(newest_);
    ASSERT_TRUE(shelf_.Publish(newest_).ok());
  }
  // Everybody alive asks until the newest is there; how many of them had it by stream.
  int ReceiveAll(const std::set<int>& without = {}) {
    std::atomic<int> streamed = 0;
    std::vector<std::thread> receivers;
    for (size_t i = 0; i < members_.size(); ++i) {
      if (without.count(static_cast<int>(i)) > 0) continue;
      receivers.emplace_back([&, i] {
        Member& member = *members_[i];
        const int before = member.stream.num_versions + num_streamed_[i];
        std::shared_ptr<const AdapterBlob> blob;
        const bool came = Eventually([&] {
          const auto received = member.source->Receive(member.have);
          EXPECT_TRUE(received.ok()) << received.status();
          if (received.ok() && *received != nullptr) blob = *received;
          return blob != nullptr;
        });
        ASSERT_TRUE(came);
        EXPECT_EQ(blob->bytes, newest_->bytes);
        member.have = blob->manifest.version();
        streamed += member.stream.num_versions + num_streamed_[i] > before;
      });
    }
    for (std::thread& receiver : receivers) receiver.join();
    return streamed;
  }

  FakeNet net_;
  BroadcastTimes times_;
  AdapterShelf shelf_;
  FakeLearner learner_;
  std::array<std::atomic<int>, 8> num_streamed_ = {};  // By the learner, by member.
  std::shared_ptr<const AdapterBlob> newest_;
  std::unique_ptr<BroadcastCarrier> carrier_;
  Mutex mutex_;
  std::vector<std::unique_ptr<Member>> members_;
  std::jthread heartbeats_;
};

TEST_F(BroadcastTest, VersionsComeByBroadcastOnceTheGroupStands) {
  Publish(1);
  Add(3);
  EXPECT_EQ(ReceiveAll(), 3) << "by stream while there is no group";
  ASSERT_TRUE(AllJoined(3));
  for (const uint64_t version : {2, 3, 7}) {
    Publish(version);
    EXPECT_EQ(ReceiveAll(), 0);
  }
}

TEST_F(BroadcastTest, AMemberThatStallsAtJoiningIsLeftOut) {
  net_.SetFault(1, Fault::kHangsAtJoin);
  Add(3);
  ASSERT_TRUE(AllJoined(2)) << "all but the one that stalls";
  EXPECT_FALSE(members_[1]->source->joined());
  Publish(1);
  EXPECT_EQ(ReceiveAll(), 1);
  net_.SetFault(1, Fault::kNone);
  ASSERT_TRUE(AllJoined(3)) << "it is back";
}

TEST_F(BroadcastTest, AMemberLostInTheMiddleCostsOneVersionItsBroadcast) {
  Add(3);
  ASSERT_TRUE(AllJoined(3));
  net_.SetFault(2, Fault::kDiesAtBroadcast);
  Publish(1);
  EXPECT_EQ(ReceiveAll(), 3) << "by stream, and at once";
  members_[2]->alive = false;
  carrier_->Lose("2");
  ASSERT_TRUE(AllJoined(2));
  Publish(2);
  EXPECT_EQ(ReceiveAll({2}), 0);
}

TEST_F(BroadcastTest, AMemberThatStallsInABroadcastHoldsTheOthersNoLongerThanTheDeadline) {
  Add(2);
  ASSERT_TRUE(AllJoined(2));
  net_.SetFault(0, Fault::kStallsAtBroadcast);
  Publish(1);
  EXPECT_EQ(ReceiveAll(), 2);
  net_.SetFault(0, Fault::kNone);
  ASSERT_TRUE(AllJoined(2));
  Publish(2);
  EXPECT_EQ(ReceiveAll(), 0);
}

TEST_F(BroadcastTest, GarbageIsNotTakenAndTheMemberHasTheVersionByStream) {
  Add(2);
  ASSERT_TRUE(AllJoined(2));
  net_.SetFault(1, Fault::kGarbage);
  Publish(1);
  EXPECT_EQ(ReceiveAll(), 1);
  net_.SetFault(1, Fault::kNone);
  ASSERT_TRUE(Eventually([&] { return net_.num_ids() == 2; })) << "its leaving ends the group";
  ASSERT_TRUE(AllJoined(2));
  Publish(2);
  EXPECT_EQ(ReceiveAll(), 0);
}

TEST_F(BroadcastTest, TwoFailuresInARowAreFollowedByAGroup) {
  Add(2);
  ASSERT_TRUE(AllJoined(2));
  for (const uint64_t version : {1, 2}) {
    net_.SetFault(0, Fault::kDiesAtBroadcast);
    Publish(version);
    EXPECT_EQ(ReceiveAll(), 2);
    net_.SetFault(0, Fault::kNone);
    ASSERT_TRUE(AllJoined(2));
  }
  Publish(3);
  EXPECT_EQ(ReceiveAll(), 0);
}

TEST_F(BroadcastTest, AJoinerDuringABroadcastIsInTheNextGroup) {
  Add(2);
  ASSERT_TRUE(AllJoined(2));
  Publish(1);
  Add(1);
  EXPECT_LE(ReceiveAll(), 1 + 2) << "the group may be built anew before all have asked";
  ASSERT_TRUE(AllJoined(3));
  Publish(2);
  EXPECT_EQ(ReceiveAll(), 0);
}

TEST_F(BroadcastTest, BothEndsLeaveWhileTheyWait) {
  times_.join = times_.send = absl::Hours(1);
  carrier_ = nullptr;
  carrier_ = std::make_unique<BroadcastCarrier>(
      std::make_unique<FakeCommunicators>(&net_, kLearner), times_);
  net_.SetFault(0, Fault::kStallsAtJoin);
  Add(1);
  ASSERT_TRUE(Eventually([&] { return members_[0]->source->generation() != 0; }));
  members_[0]->source->Cancel();  // Joining.
  StopBeating();
  carrier_ = nullptr;  // Waits for the one that stalls.
}

}  // namespace
}  // namespace wideberth::transport
