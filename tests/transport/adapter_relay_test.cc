// SPDX-License-Identifier: Apache-2.0
// Actors that have versions from each other: what a relay may bring, what happens when it does not,
// and 64 of them on loopback while relays die.
#include "transport/adapter_relay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "learner/relay_tree.h"
#include "tests/testing/fake_wire.h"
#include "tests/transport/blobs.h"
#include "transport/adapter_service.h"

namespace wideberth::transport {
namespace {

using ::wideberth::testing::FakeLearner;
using ::wideberth::testing::MakeBlob;

class RelayedSourceTest : public ::testing::Test {
 protected:
  class Learner final : public AdapterSource {
   public:
    absl::StatusOr<std::shared_ptr<const AdapterBlob>> Receive(std::optional<uint64_t>) override {
      ++num_calls;
      return blob;
    }
    std::shared_ptr<const AdapterBlob> blob;
    int num_calls = 0;
  };

  void SetUp() override { Serve(); }
  void Serve() {
    auto server = AdapterServer::Start("127.0.0.1:0", &relay_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  RelayedSource::Parts Parts() {
    return {&learner_, [] { return "actor-1#2"; }, [this] { Heartbeat(); }};
  }
  void Heartbeat() {
    ++num_heartbeats_;
    proto::HeartbeatResponse response;
    response.set_adapter_address(server_->address());
    response.set_newest_version(newest_->manifest.version());
    response.set_newest_fingerprint(newest_->manifest.fingerprint());
    source_->Announce(response);
  }
  uint64_t Receive(std::optional<uint64_t> have) {
    const auto blob = source_->Receive(have);
    EXPECT_TRUE(blob.ok()) << blob.status();
    return blob.ok() && *blob != nullptr ? (*blob)->manifest.version() : 0;
  }

  AdapterShelf relay_;
  std::unique_ptr<AdapterServer> server_;
  Learner learner_;
  std::shared_ptr<const AdapterBlob> newest_ = MakeBlob(1);
  int num_heartbeats_ = 0;
  std::unique_ptr<RelayedSource> source_ = std::make_unique<RelayedSource>(Parts());
};

TEST_F(RelayedSourceTest, AsksTheLearnerUntilARelayIsNamedAndTheRelayThen) {
  learner_.blob = newest_;
  EXPECT_EQ(Receive({}), 1u);
  EXPECT_EQ(learner_.num_calls, 1);
  Heartbeat();
  relay_.PassOn(newest_);
  EXPECT_EQ(Receive({}), 1u);
  EXPECT_EQ(learner_.num_calls, 1);
}

TEST_F(RelayedSourceTest, AVersionNotYetAnnouncedIsAskedForAndTaken) {
  Heartbeat();
  newest_ = MakeBlob(2);
  relay_.PassOn(newest_);
  EXPECT_EQ(Receive(1), 2u);
  EXPECT_EQ(num_heartbeats_, 2);
  EXPECT_EQ(learner_.num_calls, 0);
}

TEST_F(RelayedSourceTest, AVersionTheLearnerDidNotPublishIsNeverTaken) {
  learner_.blob = newest_;
  Heartbeat();
  auto forged = MakeBlob(1);
  forged->bytes[0] ^= 1;
  forged->manifest.set_fingerprint(Fingerprint(forged->bytes));
  relay_.PassOn(forged);
  const auto blob = source_->Receive({});
  ASSERT_TRUE(blob.ok());
  EXPECT_EQ((*blob)->manifest.fingerprint(), newest_->manifest.fingerprint());
  EXPECT_EQ(learner_.num_calls, 1);
  EXPECT_EQ(source_->TakeFailed(), server_->address());
  EXPECT_EQ(source_->TakeFailed(), "") << "it is complained of once";
  EXPECT_EQ(Receive({}), 1u);
  EXPECT_EQ(learner_.num_calls, 2) << "a relay that failed is left alone";
}

TEST_F(RelayedSourceTest, ADeadRelayIsPassedOverAtOnceAndTheNextOneAsked) {
  learner_.blob = newest_;
  Heartbeat();
  server_->Shutdown(absl::ZeroDuration());
  EXPECT_EQ(Receive({}), 1u);
  EXPECT_EQ(learner_.num_calls, 1);
  Serve();
  newest_ = MakeBlob(3);
  relay_.PassOn(newest_);
  Heartbeat();
  EXPECT_EQ(Receive(1), 3u);
  EXPECT_EQ(learner_.num_calls, 1);
}

TEST_F(RelayedSourceTest, ARelayThatStaysBehindIsPassedOver) {
  RelayedSource::Parts parts = Parts();
  parts.patience = absl::ZeroDuration();
  source_ = std::make_unique<RelayedSource>(parts);
  relay_.PassOn(newest_);
  Heartbeat();
  newest_ = MakeBlob(2);
  learner_.blob = newest_;
  Heartbeat();
  EXPECT_EQ(Receive(1), 2u);
  EXPECT_EQ(learner_.num_calls, 1);
  EXPECT_EQ(source_->TakeFailed(), server_->address());
}

TEST_F(RelayedSourceTest, CancelEndsAWaitAtARelay) {
  Heartbeat();
  std::thread receiver([&] { (void)Receive(1); });
  source_->Cancel();
  receiver.join();
  EXPECT_EQ(learner_.num_calls, 1);
}

// ---- 64 receivers ----

// Learner and actors of one process over real sockets; the tree as the learner's service has it.
class Fleet {
 public:
  struct Actor {
    AdapterShelf shelf;
    std::unique_ptr<AdapterServer> server;
    std::unique_ptr<RelayedSource> source;
    std::unique_ptr<LearnerClient> client;
    std::unique_ptr<GrpcAdapterSource> direct;
    std::unique_ptr<AdapterReceiver> receiver;
    std::atomic<bool> alive = true;
  };

  explicit Fleet(int num_actors) {
    learner_.on_fetch = [this](const proto::FetchAdapterRequest& request)
        -> absl::StatusOr<std::shared_ptr<const AdapterBlob>> {
      return learner_.on_shelf.Newest(request);
    };
    auto server = LearnerServer::Start("127.0.0.1:0", &learner_);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    for (int i = 0; i < num_actors; ++i) Add(i);
    {
      MutexLock lock(mutex_);
      UpdateTree();
    }
    heartbeats_ = std::jthread([this](std::stop_token stop) {
      while (!stop.stop_requested()) {
        for (size_t i = 0; i < actors_.size(); ++i) Beat(i);
        absl::SleepFor(absl::Milliseconds(20));
      }
    });
  }
  ~Fleet() {
    heartbeats_.request_stop();
    heartbeats_.join();
    for (size_t i = 0; i < actors_.size(); ++i) Kill(i);
  }

  void Publish(uint64_t version, int64_t num_floats) {
    newest_ = MakeBlob(version, num_floats);
    EXPECT_TRUE(learner_.on_shelf.Publish(newest_).ok());
  }
  bool Alive(size_t i) const { return actors_[i]->alive; }
  // The learner is not told; it hears of it from the children.
  void Kill(size_t i) {
    Actor& actor = *actors_[i];
    if (!actor.alive.exchange(false)) return;
    actor.client->Cancel();
    actor.source->Cancel();
    actor.receiver->Stop();
    actor.server->Shutdown(absl::ZeroDuration());
  }
  absl::StatusOr<std::shared_ptr<const AdapterBlob>> WaitFor(size_t i, uint64_t version) {
    return actors_[i]->receiver->WaitFor(version, absl::Now() + absl::Seconds(60));
  }
  int MaxDepth() {
    MutexLock lock(mutex_);
    int depth = 0;
    for (size_t i = 0; i < actors_.size(); ++i) depth = std::max(depth, tree_.Depth(Name(i)));
    return depth;
  }

 private:
  class ShelfLearner final : public FakeLearner {
   public:
    AdapterShelf* shelf() override { return &on_shelf; }
    AdapterShelf on_shelf;
  };
  static std::string Name(size_t i) { return absl::StrCat("actor-", i); }

  void Add(size_t i) {
    actors_.push_back(std::make_unique<Actor>());
    Actor& actor = *actors_.back();
    auto server = AdapterServer::Start("127.0.0.1:0", &actor.shelf);
    EXPECT_TRUE(server.ok()) << server.status();
    actor.server = *std::move(server);
    auto client = LearnerClient::Connect(server_->address(), absl::Seconds(30));
    EXPECT_TRUE(client.ok()) << client.status();
    actor.client = *std::move(client);
    actor.direct = std::make_unique<GrpcAdapterSource>(actor.client.get(), [i] { return Name(i); });
    actor.source = std::make_unique<RelayedSource>(
        RelayedSource::Parts{actor.direct.get(), [i] { return Name(i); }, [this, i] { Beat(i); }});
    actor.receiver = std::make_unique<AdapterReceiver>(
        actor.source.get(), actor.client.get(), [i] { return Name(i); }, absl::Milliseconds(50),
        &actor.shelf);
  }
  void UpdateTree() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::vector<learner::RelayTree::Actor> alive;
    for (size_t i = 0; i < actors_.size(); ++i)
      alive.push_back({Name(i), actors_[i]->server->address()});
    tree_.Update(alive);
  }
  void Beat(size_t i) {
    Actor& actor = *actors_[i];
    proto::HeartbeatResponse response;
    if (const auto newest = learner_.on_shelf.Newest({}); newest != nullptr) {
      response.set_newest_version(newest->manifest.version());
      response.set_newest_fingerprint(newest->manifest.fingerprint());
    }
    {
      MutexLock lock(mutex_);
      if (const std::string failed = actor.source->TakeFailed(); !failed.empty()) tree_.Bar(failed);
      response.set_adapter_address(tree_.ParentAddress(Name(i)));
    }
    actor.source->Announce(response);
  }

  ShelfLearner learner_;
  std::shared_ptr<const AdapterBlob> newest_;
  std::unique_ptr<LearnerServer> server_;
  std::vector<std::unique_ptr<Actor>> actors_;
  Mutex mutex_;
  learner::RelayTree tree_ ABSL_GUARDED_BY(mutex_){3};
  std::jthread heartbeats_;
};

TEST(RelayFleetTest, SixtyFourReceiversEndWithTheNewestWhileRelaysDie) {
  constexpr size_t kNumActors = 64;
  Fleet fleet(kNumActors);
  EXPECT_EQ(fleet.MaxDepth(), 4);
  std::minstd_rand random(11);
  constexpr uint64_t kLast = 12;
  for (uint64_t version = 1; version <= kLast; ++version) {
    fleet.Publish(version, 300'000);
    // In the middle of it, those first in the tree more often than others.
    if (version > 2) fleet.Kill(random() % (version % 2 == 0 ? 12 : kNumActors));
    if (version % 3 == 0) {
      for (size_t i = 0; i < kNumActors; i += 7) {
        if (!fleet.Alive(i)) continue;
        EXPECT_TRUE(fleet.WaitFor(i, version).ok());
      }
    }
  }
  int num_alive = 0;
  for (size_t i = 0; i < kNumActors; ++i) {
    if (!fleet.Alive(i)) continue;
    ++num_alive;
    const auto blob = fleet.WaitFor(i, kLast);
    ASSERT_TRUE(blob.ok()) << "actor " << i << ": " << blob.status();
    EXPECT_EQ((*blob)->manifest.version(), kLast);
    EXPECT_EQ((*blob)->bytes, MakeBlob(kLast, 300'000)->bytes);
  }
  EXPECT_GE(num_alive, 50);
  EXPECT_LT(num_alive, 64);
}

}  // namespace
}  // namespace wideberth::transport
