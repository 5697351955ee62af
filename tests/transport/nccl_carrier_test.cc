// SPDX-License-Identifier: Apache-2.0
// The NCCL carrier on whatever GPUs are here. Two ranks need two GPUs; with one, a group of one
// still joins, broadcasts and ends.
#include "transport/nccl_carrier.h"

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/time/clock.h"
#include "tests/transport/blobs.h"

namespace wideberth::transport {
namespace {

using ::wideberth::testing::MakeBlob;

class NcclCarrierTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cudaGetDeviceCount(&num_devices_) != cudaSuccess || num_devices_ == 0)
      GTEST_SKIP() << "no GPU here";
    const auto id = NcclGroup::NewUniqueId();
    ASSERT_TRUE(id.ok()) << id.status();
    group_.set_generation(1);
    group_.set_unique_id(*id);
  }
  proto::WeightGroup Rank(int rank, int size) const {
    proto::WeightGroup group = group_;
    group.set_rank(rank);
    group.set_size(size);
    return group;
  }
  int num_devices_ = 0;
  proto::WeightGroup group_;
};

TEST_F(NcclCarrierTest, AGroupOfOneJoinsAndBroadcasts) {
  auto group = NcclGroup::Join(Rank(0, 1), 0, absl::Seconds(60));
  ASSERT_TRUE(group.ok()) << group.status();
  EXPECT_TRUE((*group)->Send(*MakeBlob(1, 1'000'000), absl::Seconds(60)).ok());
  EXPECT_TRUE((*group)->Send(*MakeBlob(2), absl::Seconds(60)).ok());
}

TEST_F(NcclCarrierTest, AMemberThatNeverJoinsEndsTheJoinAtItsDeadline) {
  const auto group = NcclGroup::Join(Rank(0, 2), 0, absl::Seconds(2));
  EXPECT_TRUE(absl::IsDeadlineExceeded(group.status())) << group.status();
}

TEST_F(NcclCarrierTest, AVersionArrivesByteForByteOnAnotherGpu) {
  if (num_devices_ < 2) GTEST_SKIP() << "one GPU here, two are needed";
  const auto sent = MakeBlob(3, 1'000'000);
  absl::StatusOr<std::shared_ptr<const AdapterBlob>> received = absl::UnknownError("nothing yet");
  std::thread member([&] {
    auto group = NcclGroup::Join(Rank(1, 2), 1, absl::Seconds(60));
    received = group.ok() ? (*group)->Receive(absl::Seconds(60)) : group.status();
  });
  auto group = NcclGroup::Join(Rank(0, 2), 0, absl::Seconds(60));
  const absl::Status status =
      group.ok() ? (*group)->Send(*sent, absl::Seconds(60)) : group.status();
  member.join();
  EXPECT_TRUE(status.ok()) << status;
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_EQ((*received)->bytes, sent->bytes);
}

}  // namespace
}  // namespace wideberth::transport
