// SPDX-License-Identifier: Apache-2.0
// The weight wire behind its interfaces: what verifies, what is published, and what a receiver
// stages.
#include "transport/adapter_carrier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "base/mutex.h"
#include "tests/testing/fake_wire.h"
#include "tests/transport/blobs.h"
#include "transport/adapter_shelf.h"

namespace wideberth::transport {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::wideberth::testing::FakeLearner;
using ::wideberth::testing::InMemoryLearnerClient;
using ::wideberth::testing::MakeBlob;

TEST(AdapterBlobTest, AManifestThatContradictsItselfIsRefusedWithTheTensorsName) {
  EXPECT_TRUE(VerifyAdapterBlob(*MakeBlob(1)).ok());
  auto blob = MakeBlob(1);
  blob->manifest.mutable_tensor(1)->set_offset_bytes(8);
  EXPECT_THAT(std::string(VerifyAdapterBlob(*blob).message()),
              HasSubstr("tensor b starts at byte 8, must follow"));
  blob = MakeBlob(1);
  blob->manifest.mutable_tensor(0)->set_shape(0, -1);
  EXPECT_TRUE(absl::IsInvalidArgument(VerifyAdapterBlob(*blob)));
  blob = MakeBlob(1);
  blob->manifest.mutable_tensor(1)->add_shape(int64_t{1} << 62);
  EXPECT_TRUE(absl::IsInvalidArgument(VerifyAdapterBlob(*blob)));
  blob = MakeBlob(1);
  blob->manifest.set_dtype(proto::BFLOAT16);
  EXPECT_TRUE(absl::IsInvalidArgument(VerifyAdapterBlob(*blob)));
  blob = MakeBlob(1);
  blob->manifest.set_num_bytes(uint64_t{1} << 50);
  EXPECT_TRUE(absl::IsInvalidArgument(VerifyAdapterManifest(blob->manifest)));
  blob = MakeBlob(1);
  blob->manifest.clear_tensor();
  EXPECT_TRUE(absl::IsInvalidArgument(VerifyAdapterBlob(*blob)));
}

TEST(AdapterShelfTest, HandsOutOnlyWhatIsNewerAndPublishesOnlyUpwards) {
  AdapterShelf shelf;
  proto::FetchAdapterRequest request;
  EXPECT_EQ(shelf.Newest(request), nullptr);
  ASSERT_TRUE(shelf.Publish(MakeBlob(0)).ok());
  EXPECT_EQ(shelf.Newest(request)->manifest.version(), 0u);
  request.set_have_any(true);
  request.set_have_version(0);
  EXPECT_EQ(shelf.Newest(request), nullptr);
  ASSERT_TRUE(shelf.Publish(MakeBlob(3)).ok());
  EXPECT_EQ(shelf.Newest(request)->manifest.version(), 3u);
  EXPECT_TRUE(absl::IsInvalidArgument(shelf.Publish(MakeBlob(3))));
  auto changed = MakeBlob(4);
  changed->bytes[0] ^= 1;
  EXPECT_TRUE(absl::IsDataLoss(shelf.Publish(changed)));
  EXPECT_EQ(shelf.Newest(request)->manifest.version(), 3u);
}

TEST(AdapterShelfTest, HoldsTheNewestAndWhatOthersHold) {
  AdapterShelf shelf;
  std::vector<std::weak_ptr<const AdapterBlob>> published;
  std::shared_ptr<const AdapterBlob> streamed;
  for (uint64_t version = 0; version < 10; ++version) {
    const std::shared_ptr<const AdapterBlob> blob = MakeBlob(version);
    published.push_back(blob);
    if (version == 3) streamed = blob;
    ASSERT_TRUE(shelf.Publish(blob).ok());
  }
  for (uint64_t version = 0; version < 10; ++version)
    EXPECT_EQ(published[version].expired(), version != 3 && version != 9) << version;
  EXPECT_TRUE(shelf.Keeps(*streamed)) << "one newer version is in memory";
}

TEST(AdapterShelfTest, TheOldestOfTooManyVersionsBeingStreamedIsGivenUp) {
  AdapterShelf shelf;
  std::vector<std::shared_ptr<const AdapterBlob>> streamed;
  for (uint64_t version = 0; version < AdapterShelf::kMaxVersions; ++version) {
    ASSERT_TRUE(shelf.Publish(streamed.emplace_back(MakeBlob(version))).ok());
    EXPECT_TRUE(shelf.Keeps(*streamed[0]));
  }
  ASSERT_TRUE(shelf.Publish(MakeBlob(20)).ok());
  EXPECT_FALSE(shelf.Keeps(*streamed[0]));
  EXPECT_TRUE(shelf.Keeps(*streamed[1]));
}

class CountingWaiter final : public AdapterShelf::Waiter {
 public:
  void Published(std::shared_ptr<const AdapterBlob> blob) override {
    versions.push_back(blob->manifest.version());
  }
  std::vector<uint64_t> versions;
};

TEST(AdapterShelfTest, TellsAWaiterOfTheNextVersionOnce) {
  AdapterShelf shelf;
  proto::FetchAdapterRequest request;
  const auto waiter = std::make_shared<CountingWaiter>();
  auto gone = std::make_shared<CountingWaiter>();
  EXPECT_EQ(shelf.NewestOrWait(request, waiter), nullptr);
  EXPECT_EQ(shelf.NewestOrWait(request, gone), nullptr);
  gone.reset();
  ASSERT_TRUE(shelf.Publish(MakeBlob(1)).ok());
  ASSERT_TRUE(shelf.Publish(MakeBlob(2)).ok());
  EXPECT_THAT(waiter->versions, ::testing::ElementsAre(1));
  EXPECT_NE(shelf.NewestOrWait(request, waiter), nullptr);
  request.set_have_any(true);
  request.set_have_version(2);
  EXPECT_EQ(shelf.NewestOrWait(request, waiter), nullptr);
  shelf.PassOn(MakeBlob(3));
  EXPECT_THAT(waiter->versions, ::testing::ElementsAre(1, 3));
}

class AdapterReceiverTest : public ::testing::Test {
 protected:
  AdapterReceiverTest() {
    learner_.on_fetch = [this](const proto::FetchAdapterRequest& request)
        -> absl::StatusOr<std::shared_ptr<const AdapterBlob>> {
      EXPECT_EQ(request.member_id(), "actor-0#1");
      ++num_fetches_;
      if (wrong_ != nullptr) return wrong_;
      return shelf_.Newest(request);
    };
  }
  // Polls once an hour: whatever happens sooner happens because somebody waits.
  std::unique_ptr<AdapterReceiver> Receiver() {
    return std::make_unique<AdapterReceiver>(
        &source_, &client_, [] { return "actor-0#1"; }, absl::Hours(1), /*shelf=*/nullptr,
        [this](std::shared_ptr<const AdapterBlob> blob) {
          MutexLock lock(mutex_);
          prepared_.push_back(std::move(blob));
        });
  }
  static absl::Time Soon() { return absl::Now() + absl::Seconds(30); }

  FakeLearner learner_;
  AdapterShelf shelf_;
  std::shared_ptr<const AdapterBlob> wrong_;
  std::atomic<int> num_fetches_ = 0;
  Mutex mutex_;
  std::vector<std::shared_ptr<const AdapterBlob>> prepared_ ABSL_GUARDED_BY(mutex_);
  InMemoryLearnerClient client_{&learner_};
  GrpcAdapterSource source_{&client_, [] { return "actor-0#1"; }};
};

TEST_F(AdapterReceiverTest, StagesTheNewestAndKeepsTheOlderOneUsable) {
  ASSERT_TRUE(shelf_.Publish(MakeBlob(0)).ok());
  const auto receiver = Receiver();
  const auto active = receiver->WaitFor(0, Soon());
  ASSERT_TRUE(active.ok()) << active.status();
  EXPECT_EQ((*active)->manifest.version(), 0u);
  EXPECT_EQ(receiver->TakeNewer(0), nullptr);
  EXPECT_EQ(receiver->TakeNewer(std::nullopt), *active);

  ASSERT_TRUE(shelf_.Publish(MakeBlob(1)).ok());
  ASSERT_TRUE(shelf_.Publish(MakeBlob(2)).ok());
  const auto staged = receiver->WaitFor(1, Soon());
  ASSERT_TRUE(staged.ok()) << staged.status();
  EXPECT_EQ((*staged)->manifest.version(), 2u) << "version 1 is skipped";
  EXPECT_EQ(receiver->TakeNewer(0), *staged);
  {
    MutexLock lock(mutex_);
    EXPECT_THAT(prepared_, ::testing::ElementsAre(*active, *staged)) << "before they are handed on";
  }
  EXPECT_EQ(Fingerprint((*active)->bytes), (*active)->manifest.fingerprint());
}

TEST_F(AdapterReceiverTest, AWaiterIsWokenWhenTheVersionIsPublishedLater) {
  ASSERT_TRUE(shelf_.Publish(MakeBlob(0)).ok());
  const auto receiver = Receiver();
  ASSERT_TRUE(receiver->WaitFor(0, Soon()).ok());
  absl::StatusOr<std::shared_ptr<const AdapterBlob>> got = absl::UnknownError("nothing yet");
  std::thread waiter([&] { got = receiver->WaitFor(1, Soon()); });
  ASSERT_TRUE(shelf_.Publish(MakeBlob(1)).ok());
  waiter.join();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ((*got)->manifest.version(), 1u);
}

TEST_F(AdapterReceiverTest, AWrongVersionIsNeverStagedAndTheWaiterLearnsWhy) {
  auto changed = MakeBlob(5);
  changed->bytes[7] ^= 1;
  wrong_ = changed;
  const auto receiver = Receiver();
  const auto got = receiver->WaitFor(5, absl::Now() + absl::Milliseconds(200));
  EXPECT_TRUE(absl::IsDeadlineExceeded(got.status()));
  EXPECT_THAT(
      std::string(got.status().message()),
      ContainsRegex("adapter version 5 did not arrive within 20[0-9]ms; newest here is none; "
                    "last failure: adapter version 5 has fingerprint"));
  EXPECT_EQ(receiver->TakeNewer(std::nullopt), nullptr);
}

TEST_F(AdapterReceiverTest, RecoversWhenTheLearnerIsBack) {
  client_.Fail(absl::UnavailableError("learner restarts"));
  const auto receiver = Receiver();
  EXPECT_FALSE(receiver->WaitFor(0, absl::Now() + absl::Milliseconds(50)).ok());
  client_.Fail(absl::OkStatus());
  ASSERT_TRUE(shelf_.Publish(MakeBlob(0)).ok());
  EXPECT_TRUE(receiver->WaitFor(0, Soon()).ok());
}

TEST_F(AdapterReceiverTest, AcknowledgesWhatItIsTold) {
  proto::AcknowledgeAdapterRequest seen;
  absl::Notification came;
  learner_.on_acknowledge = [&](const proto::AcknowledgeAdapterRequest& request)
      -> absl::StatusOr<proto::AcknowledgeAdapterResponse> {
    seen = request;
    came.Notify();
    return proto::AcknowledgeAdapterResponse();
  };
  const auto receiver = Receiver();
  receiver->Acknowledge(3, "aa");
  came.WaitForNotification();
  EXPECT_EQ(seen.member_id(), "actor-0#1");
  EXPECT_EQ(seen.version(), 3u);
  EXPECT_EQ(seen.fingerprint(), "aa");
}

TEST_F(AdapterReceiverTest, StopWakesWaiters) {
  const auto receiver = Receiver();
  absl::Status status;
  std::thread waiter([&] { status = receiver->WaitFor(9, absl::InfiniteFuture()).status(); });
  // A waiter makes the receiver look again and again; three looks mean that it waits.
  while (num_fetches_ < 3) std::this_thread::yield();
  receiver->Stop();
  waiter.join();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

}  // namespace
}  // namespace wideberth::transport
