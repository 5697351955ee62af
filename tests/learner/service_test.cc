// SPDX-License-Identifier: Apache-2.0
// What heartbeats tell actors of the weight wire: the newest version, and who passes it on.
#include "learner/service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/transport/blobs.h"

namespace wideberth::learner {
namespace {

using ::wideberth::testing::MakeBlob;

class ServiceTest : public ::testing::Test {
 protected:
  ServiceTest() {
    config_.mutable_learner()->set_adapter_fan_out(2);
    LearnerService::Parts parts;
    parts.config = &config_;
    parts.clock = &clock_;
    parts.members = &members_;
    parts.shelf = &shelf_;
    service_ = std::make_unique<LearnerService>(std::move(parts));
  }
  static std::string Address(int i) { return absl::StrCat("host-", i, ":1"); }
  std::string Join(int i) {
    proto::RegisterRequest request;
    request.set_role(proto::ACTOR);
    request.set_name(absl::StrCat("actor-", i));
    request.set_base_fingerprint("base");
    request.set_adapter_address(Address(i));
    return members_.Register(request)->member_id;
  }
  proto::HeartbeatResponse Beat(const std::string& id, const std::string& failed = "") {
    proto::HeartbeatRequest request;
    request.set_member_id(id);
    if (!failed.empty()) request.set_failed_adapter_address(failed);
    return *service_->Heartbeat(request);
  }

  proto::RunConfig config_;
  FakeClock clock_;
  Members members_{&clock_, absl::Seconds(60), "base"};
  transport::AdapterShelf shelf_;
  std::unique_ptr<LearnerService> service_;
};

TEST_F(ServiceTest, HeartbeatsTellTheNewestVersionAndItsFingerprint) {
  const std::string id = Join(0);
  EXPECT_FALSE(Beat(id).has_newest_version());
  ASSERT_TRUE(service_->Publish(MakeBlob(3)).ok());
  EXPECT_EQ(Beat(id).newest_version(), 3u);
  EXPECT_EQ(Beat(id).newest_fingerprint(), MakeBlob(3)->manifest.fingerprint());
  EXPECT_FALSE(Beat(id).has_weight_group()) << "nobody here is on a GPU";
}

TEST_F(ServiceTest, ActorsBeyondTheFanOutHaveVersionsFromOthersAndComplaintsAreHeard) {
  std::vector<std::string> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(Join(i));
  EXPECT_EQ(Beat(ids[0]).adapter_address(), "");
  EXPECT_EQ(Beat(ids[1]).adapter_address(), "");
  EXPECT_EQ(Beat(ids[2]).adapter_address(), Address(0));
  EXPECT_EQ(Beat(ids[3]).adapter_address(), Address(0));
  EXPECT_NE(Beat(ids[2], Address(0)).adapter_address(), Address(0));
  EXPECT_NE(Beat(ids[3]).adapter_address(), Address(0));
}

TEST_F(ServiceTest, AnActorThatFallsSilentPassesNothingOn) {
  std::vector<std::string> ids;
  for (int i = 0; i < 3; ++i) ids.push_back(Join(i));
  ASSERT_EQ(Beat(ids[2]).adapter_address(), Address(0));
  clock_.Advance(absl::Seconds(59));
  Beat(ids[1]);
  Beat(ids[2]);
  clock_.Advance(absl::Seconds(2));
  EXPECT_EQ(members_.ReapLost().size(), 1u);
  EXPECT_EQ(Beat(ids[2]).adapter_address(), "");
}

}  // namespace
}  // namespace wideberth::learner
