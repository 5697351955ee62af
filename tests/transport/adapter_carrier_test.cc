// SPDX-License-Identifier: Apache-2.0
// The weight wire behind its interfaces: what verifies, what is published, and what a receiver
// stages.
#include "transport/adapter_carrier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "tests/testing/fake_wire.h"
#include "tests/transport/blobs.h"

namespace wideberth::transport {
namespace {

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

TEST(GrpcAdapterCarrierTest, HandsOutOnlyWhatIsNewerAndPublishesOnlyUpwards) {
  GrpcAdapterCarrier carrier;
  proto::FetchAdapterRequest request;
  EXPECT_EQ(carrier.Newest(request), nullptr);
  ASSERT_TRUE(carrier.Publish(MakeBlob(0)).ok());
  EXPECT_EQ(carrier.Newest(request)->manifest.version(), 0u);
  request.set_have_any(true);
  request.set_have_version(0);
  EXPECT_EQ(carrier.Newest(request), nullptr);
  ASSERT_TRUE(carrier.Publish(MakeBlob(3)).ok());
  EXPECT_EQ(carrier.Newest(request)->manifest.version(), 3u);
  EXPECT_TRUE(absl::IsInvalidArgument(carrier.Publish(MakeBlob(3))));
  auto changed = MakeBlob(4);
  changed->bytes[0] ^= 1;
  EXPECT_TRUE(absl::IsDataLoss(carrier.Publish(changed)));
  EXPECT_EQ(carrier.Newest(request)->manifest.version(), 3u);
}

class AdapterReceiverTest : public ::testing::Test {
 protected:
  AdapterReceiverTest() {
    learner_.on_fetch = [this](const proto::FetchAdapterRequest& request)
        -> absl::StatusOr<std::shared_ptr<const AdapterBlob>> {
      EXPECT_EQ(request.member_id(), "actor-0#1");
      ++num_fetches_;
      if (wrong_ != nullptr) return wrong_;
      return carrier_.Newest(request);
    };
  }
  // Polls once an hour: whatever happens sooner happens because somebody waits.
  std::unique_ptr<AdapterReceiver> Receiver() {
    return std::make_unique<AdapterReceiver>(
        &source_, &client_, [] { return "actor-0#1"; }, absl::Hours(1));
  }
  static absl::Time Soon() { return absl::Now() + absl::Seconds(30); }

  FakeLearner learner_;
  GrpcAdapterCarrier carrier_;
  std::shared_ptr<const AdapterBlob> wrong_;
  std::atomic<int> num_fetches_ = 0;
  InMemoryLearnerClient client_{&learner_};
  GrpcAdapterSource source_{&client_, [] { return "actor-0#1"; }};
};

TEST_F(AdapterReceiverTest, StagesTheNewestAndKeepsTheOlderOneUsable) {
  ASSERT_TRUE(carrier_.Publish(MakeBlob(0)).ok());
  const auto receiver = Receiver();
  const auto active = receiver->WaitFor(0, Soon());
  ASSERT_TRUE(active.ok()) << active.status();
  EXPECT_EQ((*active)->manifest.version(), 0u);
  EXPECT_EQ(receiver->TakeNewer(0), nullptr);
  EXPECT_EQ(receiver->TakeNewer(std::nullopt), *active);

  ASSERT_TRUE(carrier_.Publish(MakeBlob(1)).ok());
  ASSERT_TRUE(carrier_.Publish(MakeBlob(2)).ok());
  const auto staged = receiver->WaitFor(1, Soon());
  ASSERT_TRUE(staged.ok()) << staged.status();
  EXPECT_EQ((*staged)->manifest.version(), 2u) << "version 1 is skipped";
  EXPECT_EQ(receiver->TakeNewer(0), *staged);
  EXPECT_EQ(Fingerprint((*active)->bytes), (*active)->manifest.fingerprint());
}

TEST_F(AdapterReceiverTest, AWaiterIsWokenWhenTheVersionIsPublishedLater) {
  ASSERT_TRUE(carrier_.Publish(MakeBlob(0)).ok());
  const auto receiver = Receiver();
  ASSERT_TRUE(receiver->WaitFor(0, Soon()).ok());
  absl::StatusOr<std::shared_ptr<const AdapterBlob>> got = absl::UnknownError("nothing yet");
  std::thread waiter([&] { got = receiver->WaitFor(1, Soon()); });
  ASSERT_TRUE(carrier_.Publish(MakeBlob(1)).ok());
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
      HasSubstr("adapter version 5 did not arrive in time; newest here is none; last failure: "
                "adapter version 5 has fingerprint"));
  EXPECT_EQ(receiver->TakeNewer(std::nullopt), nullptr);
}

TEST_F(AdapterReceiverTest, RecoversWhenTheLearnerIsBack) {
  client_.Fail(absl::UnavailableError("learner restarts"));
  const auto receiver = Receiver();
  EXPECT_FALSE(receiver->WaitFor(0, absl::Now() + absl::Milliseconds(50)).ok());
  client_.Fail(absl::OkStatus());
  ASSERT_TRUE(carrier_.Publish(MakeBlob(0)).ok());
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
