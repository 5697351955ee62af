// SPDX-License-Identifier: Apache-2.0
// NCCL on whatever GPUs are here. Two ranks of one process need two GPUs. Two processes share one:
// NCCL refuses a GPU that it meets twice on one host, but with an NCCL_HOSTID each they are on two
// hosts for it. They talk through sockets on the loopback interface then, so the rates printed here
// say nothing about NVLink.
#include <cuda_runtime.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/transport/blobs.h"
#include "transport/device_collective.h"
#include "transport/weight_broadcast.h"

namespace wideberth::transport {
namespace {

using ::wideberth::testing::MakeBlob;

// One end of a group on GPU `device`, each call with a deadline of its own.
class NcclGroup {
 public:
  static absl::StatusOr<std::string> NewUniqueId() {
    return MakeCommunicators("cuda:0")->NewUniqueId();
  }
  static absl::StatusOr<std::unique_ptr<NcclGroup>> Join(const proto::WeightGroup& group,
                                                         int device, absl::Duration timeout) {
    auto joined = std::make_unique<NcclGroup>();
    joined->end_ = MakeCommunicators(absl::StrCat("cuda:", device))->Make(group);
    if (const absl::Status status = joined->end_->Open(group.unique_id(), joined->Within(timeout));
        !status.ok()) {
      return status;
    }
    return joined;
  }
  absl::Status Send(const AdapterBlob& blob, absl::Duration timeout) {
    return SendBlob(end_.get(), blob, Within(timeout));
  }
  absl::StatusOr<std::shared_ptr<const AdapterBlob>> Receive(absl::Duration timeout) {
    return ReceiveBlob(end_.get(), Within(timeout));
  }

 private:
  BroadcastWait Within(absl::Duration timeout) { return {absl::Now() + timeout, &interrupted_}; }
  std::atomic<bool> interrupted_ = false;
  std::unique_ptr<Communicator> end_;
};

// Adapters of rank 16: small, of an 8B model, of a 14B model.
const std::vector<int64_t> kAdapterBytes = {1'000'000, 84'000'000, 138'000'000};
// Two versions of each size: the first makes room for it.
const uint64_t kNumVersions = 2 * kAdapterBytes.size();
std::shared_ptr<AdapterBlob> Version(uint64_t version) {
  return MakeBlob(version, kAdapterBytes[version / 2] / 4);
}

constexpr int64_t kNumGradients = 42'000'000;

// Before NCCL looks.
const bool kPlaced = [] {
  setenv("NCCL_SOCKET_IFNAME", "lo", 0);
  setenv("NCCL_HOSTID", std::getenv("WIDEBERTH_NCCL_ID") == nullptr ? "learner" : "member", 1);
  return true;
}();

// This program once more, as rank 1 in a process of its own that runs one test of MemberTest.
class Member {
 public:
  Member(const std::string& test, const std::string& unique_id) {
    setenv("WIDEBERTH_NCCL_ID", absl::BytesToHexString(unique_id).c_str(), 1);
    std::string self = "/proc/self/exe";
    std::string filter = absl::StrCat("--gtest_filter=MemberTest.", test);
    char* arguments[] = {self.data(), filter.data(), nullptr};
    EXPECT_EQ(posix_spawn(&pid_, self.c_str(), nullptr, nullptr, arguments, environ), 0);
    unsetenv("WIDEBERTH_NCCL_ID");
  }
  ~Member() {
    if (pid_ > 0) Kill();
  }
  void Kill() {
    kill(pid_, SIGKILL);
    Wait();
  }
  int Wait() {
    int status = -1;
    waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = -1;
};

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

TEST_F(NcclCarrierTest, VersionsArriveInAnotherProcessOnTheSameGpu) {
  Member member("ReceivesVersions", group_.unique_id());
  auto group = NcclGroup::Join(Rank(0, 2), 0, absl::Seconds(60));
  ASSERT_TRUE(group.ok()) << group.status();
  for (uint64_t version = 0; version < kNumVersions; ++version) {
    const auto blob = Version(version);
    const absl::Time start = absl::Now();
    const absl::Status sent = (*group)->Send(*blob, absl::Seconds(60));
    ASSERT_TRUE(sent.ok()) << sent;
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
    std::printf("%.0f MB in %.1f ms, %.2f GB/s\n", blob->bytes.size() / 1e6, seconds * 1e3,
                blob->bytes.size() / seconds / 1e9);
  }
  EXPECT_EQ(member.Wait(), 0);
}

TEST_F(NcclCarrierTest, AMemberKilledBetweenVersionsEndsTheSendAndANewGenerationWorks) {
  {
    Member member("ReceivesOneVersion", group_.unique_id());
    auto group = NcclGroup::Join(Rank(0, 2), 0, absl::Seconds(60));
    ASSERT_TRUE(group.ok()) << group.status();
    ASSERT_TRUE((*group)->Send(*MakeBlob(1, 1000), absl::Seconds(60)).ok());
    member.Kill();
    const absl::Time start = absl::Now();
    const absl::Status sent = (*group)->Send(*MakeBlob(2, 1'000'000), absl::Seconds(5));
    EXPECT_FALSE(sent.ok());
    EXPECT_LT(absl::Now() - start, absl::Seconds(8));
    std::printf("after %.1f ms: %s\n", absl::ToDoubleMilliseconds(absl::Now() - start),
                sent.ToString().c_str());
  }
  const auto id = NcclGroup::NewUniqueId();
  ASSERT_TRUE(id.ok()) << id.status();
  group_.set_generation(2);
  group_.set_unique_id(*id);
  Member member("ReceivesVersions", *id);
  const absl::Time start = absl::Now();
  auto group = NcclGroup::Join(Rank(0, 2), 0, absl::Seconds(60));
  ASSERT_TRUE(group.ok()) << group.status();
  std::printf("a new generation after %.1f s\n", absl::ToDoubleSeconds(absl::Now() - start));
  for (uint64_t version = 0; version < kNumVersions; ++version)
    ASSERT_TRUE((*group)->Send(*Version(version), absl::Seconds(60)).ok());
  EXPECT_EQ(member.Wait(), 0);
}

// Device memory: kNumGradients values, all of them `value`.
class Gradients {
 public:
  explicit Gradients(float value) : host_(kNumGradients, value) {
    EXPECT_EQ(cudaMalloc(&device_, bytes()), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(device_, host_.data(), bytes(), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~Gradients() { cudaFree(device_); }
  FlatBuffer buffer() const { return {device_, kNumGradients, proto::FLOAT32}; }
  bool AllAre(float value) {
    EXPECT_EQ(cudaMemcpy(host_.data(), device_, bytes(), cudaMemcpyDeviceToHost), cudaSuccess);
    return host_ == std::vector<float>(kNumGradients, value);
  }

 private:
  size_t bytes() const { return host_.size() * sizeof(float); }
  std::vector<float> host_;
  void* device_ = nullptr;
};

// Both ranks: 1 + 2, then 3 + 3.
void AddUp(const std::string& id, int rank) {
  const auto sums = MakeDeviceSums("cuda:0");
  ASSERT_NE(sums, nullptr);
  const absl::Status joined = sums->Join(id, rank, 2, absl::Seconds(60));
  ASSERT_TRUE(joined.ok()) << joined;
  Gradients gradients(rank == 0 ? 1 : 2);
  for (const float expected : {3, 6}) {
    const absl::Time start = absl::Now();
    const absl::Status summed = sums->AllReduceSum(gradients.buffer(), absl::Seconds(60));
    ASSERT_TRUE(summed.ok()) << summed;
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
    EXPECT_TRUE(gradients.AllAre(expected));
    if (rank == 0) std::printf("all-reduce of 168 MB in %.1f ms\n", seconds * 1e3);
  }
}

TEST_F(NcclCarrierTest, GradientsOfTwoProcessesAddUp) {
  Member member("AddsUp", group_.unique_id());
  AddUp(group_.unique_id(), 0);
  EXPECT_EQ(member.Wait(), 0);
}

// What the other process does; skipped where nobody started it.
class MemberTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* id = std::getenv("WIDEBERTH_NCCL_ID");
    if (id == nullptr) GTEST_SKIP() << "the other process's part";
    unique_id_ = absl::HexStringToBytes(id);
  }
  absl::StatusOr<std::unique_ptr<NcclGroup>> Join() const {
    proto::WeightGroup group;
    group.set_unique_id(unique_id_);
    group.set_rank(1);
    group.set_size(2);
    return NcclGroup::Join(group, 0, absl::Seconds(60));
  }
  std::string unique_id_;
};

TEST_F(MemberTest, ReceivesVersions) {
  auto group = Join();
  ASSERT_TRUE(group.ok()) << group.status();
  for (uint64_t version = 0; version < kNumVersions; ++version) {
    const auto sent = Version(version);
    const auto received = (*group)->Receive(absl::Seconds(60));
    ASSERT_TRUE(received.ok()) << received.status();
    EXPECT_EQ((*received)->manifest.version(), version);
    EXPECT_TRUE((*received)->bytes == sent->bytes) << "version " << version;
  }
}

TEST_F(MemberTest, ReceivesOneVersion) {
  auto group = Join();
  ASSERT_TRUE(group.ok()) << group.status();
  ASSERT_TRUE((*group)->Receive(absl::Seconds(60)).ok());
  absl::SleepFor(absl::Seconds(60));  // Until it is killed.
}

TEST_F(MemberTest, AddsUp) { AddUp(unique_id_, 1); }

}  // namespace
}  // namespace wideberth::transport
