// SPDX-License-Identifier: Apache-2.0
#include "actor/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "absl/strings/str_cat.h"
#include "tests/testing/fake_wire.h"

namespace wideberth::actor {
namespace {

using ::testing::HasSubstr;

class MembershipTest : public ::testing::Test {
 protected:
  MembershipTest() : client_(&learner_) {
    learner_.on_register =
        [this](const proto::RegisterRequest& request) -> absl::StatusOr<proto::RegisterResponse> {
      registered_ = request;
      proto::RegisterResponse response;
      response.set_member_id(absl::StrCat(request.name(), "#", ++num_registrations_));
      return response;
    };
    learner_.on_heartbeat =
        [this](const proto::HeartbeatRequest& request) -> absl::StatusOr<proto::HeartbeatResponse> {
      heartbeat_ = request;
      return answer_;
    };
    proto::RegisterRequest request;
    request.set_name("actor-0");
    request.set_base_fingerprint("abc");
    Membership::Callbacks callbacks;
    callbacks.status = [] {
      proto::MemberStatus status;
      status.set_state("idle");
      return status;
    };
    callbacks.scorers = [this](const proto::HeartbeatResponse& response) {
      num_scorers_ = response.scorer_size();
    };
    callbacks.ended = [this](const absl::Status& why) {
      ++num_ends_;
      why_ = why;
    };
    membership_.emplace(&client_, request, absl::Seconds(60), callbacks, clock_);
    answer_.set_known(true);
  }

  testing::FakeLearner learner_;
  testing::InMemoryLearnerClient client_;
  FakeClock clock_;
  proto::RegisterRequest registered_;
  proto::HeartbeatRequest heartbeat_;
  proto::HeartbeatResponse answer_;
  int num_registrations_ = 0, num_scorers_ = -1, num_ends_ = 0;
  absl::Status why_;
  std::optional<Membership> membership_;
};

TEST_F(MembershipTest, BeatsTellTheStateAndBringTheScorers) {
  ASSERT_TRUE(membership_->Register().ok());
  EXPECT_EQ(registered_.base_fingerprint(), "abc");
  answer_.add_scorer()->set_scorer_name("safety");
  EXPECT_TRUE(membership_->Beat());
  EXPECT_EQ(heartbeat_.member_id(), "actor-0#1");
  EXPECT_EQ(heartbeat_.status().state(), "idle");
  EXPECT_EQ(num_scorers_, 1);
}

TEST_F(MembershipTest, RegistersAgainWhenTheLearnerNoLongerKnowsIt) {
  ASSERT_TRUE(membership_->Register().ok());
  answer_.set_known(false);
  EXPECT_TRUE(membership_->Beat());
  EXPECT_EQ(membership_->member_id(), "actor-0#2");
  EXPECT_EQ(num_ends_, 0);
}

TEST_F(MembershipTest, EndsOnceWhenTheRunDrains) {
  ASSERT_TRUE(membership_->Register().ok());
  answer_.set_drain(true);
  EXPECT_FALSE(membership_->Beat());
  EXPECT_FALSE(membership_->Beat());
  membership_->NoteDrain();
  EXPECT_EQ(num_ends_, 1);
  EXPECT_TRUE(why_.ok());
}

TEST_F(MembershipTest, ALearnerThatIsAwayIsWaitedForAndThenCountsAsGone) {
  ASSERT_TRUE(membership_->Register().ok());
  client_.Fail(absl::UnavailableError("learner rank 0 at x did not answer"));
  clock_.Advance(absl::Seconds(59));
  EXPECT_TRUE(membership_->Beat());
  client_.Fail(absl::OkStatus());
  EXPECT_TRUE(membership_->Beat());
  client_.Fail(absl::UnavailableError("learner rank 0 at x did not answer"));
  clock_.Advance(absl::Seconds(59));
  EXPECT_TRUE(membership_->Beat());
  clock_.Advance(absl::Seconds(1));
  EXPECT_FALSE(membership_->Beat());
  EXPECT_EQ(num_ends_, 1);
  EXPECT_THAT(std::string(why_.message()),
              HasSubstr("the learner has not answered for 1m: learner rank 0 at x did not answer"));
}

TEST_F(MembershipTest, ACallerThatIsRefusedDoesNotWait) {
  for (const absl::Status& refusal :
       {absl::UnauthenticatedError("without the run token"), absl::PermissionDeniedError("no")}) {
    client_.Fail(refusal);
    EXPECT_FALSE(membership_->Beat());
  }
  EXPECT_EQ(num_ends_, 1);
  EXPECT_EQ(why_.message(), "without the run token");
}

TEST_F(MembershipTest, ARefusalIsTheLearnersSentence) {
  learner_.on_register =
      [](const proto::RegisterRequest&) -> absl::StatusOr<proto::RegisterResponse> {
    return absl::FailedPreconditionError("other weights");
  };
  EXPECT_EQ(membership_->Register().status().message(), "other weights");
  answer_.set_known(false);
  EXPECT_FALSE(membership_->Beat());
  EXPECT_EQ(why_.message(), "other weights");
}

TEST_F(MembershipTest, TheThreadStopsAtTheEnd) {
  ASSERT_TRUE(membership_->Register().ok());
  answer_.set_drain(true);
  membership_->Start(absl::Hours(1));
  membership_->Stop();
  EXPECT_LE(num_ends_, 1);
}

}  // namespace
}  // namespace wideberth::actor
