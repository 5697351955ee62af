// SPDX-License-Identifier: Apache-2.0
// Who takes part: registrations, restarts under the same name, heartbeats and losses, under a clock
// that moves only when told.
#include "learner/members.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace wideberth::learner {
namespace {

using ::testing::HasSubstr;

class MembersTest : public ::testing::Test {
 protected:
  static proto::RegisterRequest Actor(const std::string& name) {
    proto::RegisterRequest request;
    request.set_role(proto::ACTOR);
    request.set_name(name);
    request.set_base_fingerprint("base");
    return request;
  }
  static proto::RegisterRequest Scorer(const std::string& name, const std::string& scorer,
                                       const std::string& address) {
    proto::RegisterRequest request;
    request.set_role(proto::SCORER);
    request.set_name(name);
    request.set_scorer_name(scorer);
    request.set_address(address);
    return request;
  }
  FakeClock clock_;
  Members members_{&clock_, absl::Seconds(60), "base"};
};

TEST_F(MembersTest, ARegistrationUnderTheSameNameEndsTheFormer) {
  const auto first = members_.Register(Actor("actor-0"));
  ASSERT_TRUE(first.ok());
  EXPECT_FALSE(first->ended_id.has_value());
  EXPECT_TRUE(members_.Touch(first->member_id, false));
  const auto second = members_.Register(Actor("actor-0"));
  EXPECT_EQ(second->ended_id, first->member_id);
  EXPECT_FALSE(members_.Touch(first->member_id, false));
  EXPECT_FALSE(members_.Heartbeat(first->member_id, {}, false));
  EXPECT_TRUE(members_.Touch(second->member_id, false));
  EXPECT_EQ(members_.NameOf(first->member_id), "actor-0");
  EXPECT_EQ(members_.NumAlive(proto::ACTOR), 1);
}

TEST_F(MembersTest, AMemberIsDescribedByNameHostAndSilence) {
  proto::RegisterRequest request = Actor("actor-0");
  request.set_host("node7");
  const auto first = members_.Register(request);
  clock_.Advance(absl::Milliseconds(2900));
  EXPECT_EQ(members_.Describe(first->member_id), "actor-0 on node7, heard of 2s ago");
  ASSERT_TRUE(members_.Register(request).ok());
  EXPECT_EQ(members_.Describe(first->member_id), "actor-0, since started again");
  EXPECT_EQ(members_.Describe("actor-0#77"), "unknown member");
}

TEST_F(MembersTest, AnActorOnOtherWeightsIsRefusedWithASentence) {
  proto::RegisterRequest request = Actor("actor-0");
  request.set_base_fingerprint("other");
  const auto result = members_.Register(request);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(result.status().message()),
              ::testing::AllOf(HasSubstr("actor-0 has base weights with fingerprint other"),
                               HasSubstr("expected base")));
  EXPECT_EQ(members_.NumAlive(proto::ACTOR), 0);
  EXPECT_FALSE(members_.Register(Actor("")).ok());
  EXPECT_FALSE(members_.Register(Scorer("s", "safety", "")).ok());
}

TEST_F(MembersTest, WithoutAHeartbeatAMemberIsLostOnceAndComesBackWithTheNext) {
  const auto id = members_.Register(Actor("actor-0"))->member_id;
  clock_.Advance(absl::Seconds(60));
  EXPECT_TRUE(members_.ReapLost().empty());
  clock_.Advance(absl::Seconds(1));
  const auto lost = members_.ReapLost();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].id, id);
  EXPECT_TRUE(members_.ReapLost().empty());
  EXPECT_EQ(members_.NumAlive(proto::ACTOR), 0);
  EXPECT_TRUE(members_.Heartbeat(id, {}, false));
  EXPECT_EQ(members_.NumAlive(proto::ACTOR), 1);
}

TEST_F(MembersTest, ScorersAreFoundByNameAndOnlyWhileTheyLive) {
  const auto first = members_.Register(Scorer("scorer-safety-0", "safety", "h:1"))->member_id;
  ASSERT_TRUE(members_.Register(Scorer("scorer-safety-1", "safety", "h:2")).ok());
  ASSERT_TRUE(members_.Register(Scorer("scorer-helpful-0", "helpful", "h:3")).ok());
  auto endpoints = members_.ScorerEndpoints();
  ASSERT_EQ(endpoints.size(), 3u);
  EXPECT_EQ(endpoints[0].scorer_name(), "helpful");
  EXPECT_EQ(endpoints[1].scorer_name(), "safety");
  EXPECT_EQ(endpoints[2].name(), "scorer-safety-1");
  EXPECT_EQ(endpoints[2].address(), "h:2");
  clock_.Advance(absl::Seconds(61));
  members_.Heartbeat(first, {}, false);
  members_.ReapLost();
  endpoints = members_.ScorerEndpoints();
  ASSERT_EQ(endpoints.size(), 1u);
  EXPECT_EQ(endpoints[0].address(), "h:1");
}

TEST_F(MembersTest, AScorerThatEndsIsNotFoundAnyMore) {
  const auto first = members_.Register(Scorer("scorer-safety-0", "safety", "h:1"))->member_id;
  ASSERT_TRUE(members_.Register(Scorer("scorer-safety-1", "safety", "h:2")).ok());
  proto::MemberStatus status;
  status.set_state("draining");
  members_.Heartbeat(first, status, false);
  const auto endpoints = members_.ScorerEndpoints();
  ASSERT_EQ(endpoints.size(), 1u);
  EXPECT_EQ(endpoints[0].address(), "h:2");
}

TEST_F(MembersTest, TheRunEndsForAMemberWhenItWasToldOrIsLost) {
  const auto a = members_.Register(Actor("actor-0"))->member_id;
  ASSERT_TRUE(members_.Register(Actor("actor-1")).ok());
  const absl::Duration silence = absl::Seconds(100);
  EXPECT_FALSE(members_.NotTold(silence).empty());
  members_.Heartbeat(a, {}, /*drain=*/true);
  EXPECT_FALSE(members_.NotTold(silence).empty());
  clock_.Advance(absl::Seconds(5));
  EXPECT_TRUE(members_.NotTold(absl::Seconds(4)).empty());  // Nobody waits for the silent.
  clock_.Advance(absl::Seconds(61));
  members_.Touch(a, true);
  members_.ReapLost();
  EXPECT_TRUE(members_.NotTold(silence).empty());
}

TEST_F(MembersTest, KnowsWhichActorsSampleFromAVersionAndKeepsTheLastError) {
  const auto a = members_.Register(Actor("actor-0"))->member_id;
  ASSERT_TRUE(members_.Register(Actor("actor-1")).ok());
  EXPECT_EQ(members_.ActorsAt(1), std::make_pair(0, 2));
  EXPECT_TRUE(members_.Acknowledge(a, 2, "f"));
  EXPECT_EQ(members_.ActorsAt(1), std::make_pair(1, 2));
  EXPECT_EQ(members_.ActorsAt(3), std::make_pair(0, 2));
  proto::MemberStatus status;
  status.set_last_error("scorer gone");
  members_.Heartbeat(a, status, false);
  members_.Heartbeat(a, {}, false);
  EXPECT_EQ(members_.Snapshot()[0].status.last_error(), "scorer gone");
  EXPECT_FALSE(members_.Acknowledge("nobody", 1, ""));
}

}  // namespace
}  // namespace wideberth::learner
