// SPDX-License-Identifier: Apache-2.0
// What surrounds the queue in a scorer process: Score calls, figures for heartbeats and monitors,
// membership and the bounded end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/bounded_queue.h"
#include "base/clock.h"
#include "scorer/drain.h"
#include "scorer/membership.h"
#include "scorer/score_endpoint.h"
#include "tests/scorer/fake_scoring_model.h"
#include "tests/testing/fake_wire.h"

namespace wideberth::scorer {
namespace {

using ::testing::_;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;
using Response = absl::StatusOr<proto::ScoreResponse>;

class ScorerServerTest : public ::testing::Test {
 protected:
  std::shared_ptr<std::optional<Response>> Score(const std::vector<proto::ScoreItem>& items) {
    proto::ScoreRequest request;
    for (const proto::ScoreItem& item : items) *request.add_item() = item;
    auto answer = std::make_shared<std::optional<Response>>();
    endpoint_.Score(
        request, [answer](Response response) { *answer = std::move(response); }, nullptr);
    return answer;
  }

  FakeClock clock_;
  FakeScoringModel model_;
  transport::Metrics metrics_;
  ScoreEndpoint endpoint_{"safety", &metrics_, &clock_};
  Batcher batcher_{{}, &model_, &clock_};
};

TEST_F(ScorerServerTest, WhileTheModelLoadsItemsAreOverloadedSoThatClientsComeBack) {
  const auto answer = Score({MakeItem("p", "a"), MakeItem("p", "b")});
  ASSERT_TRUE(answer->has_value() && (*answer)->ok());
  ASSERT_EQ((**answer)->score_size(), 2);
  EXPECT_EQ((**answer)->score(1).status(), proto::OVERLOADED);
  EXPECT_FALSE((**answer)->score(1).has_value());
  EXPECT_EQ((**answer)->score(1).scorer_name(), "safety");
  EXPECT_EQ(endpoint_.Status().state(), "loading");
}

TEST_F(ScorerServerTest, ACallIsAnsweredItemByItem) {
  endpoint_.Open(&batcher_);
  EXPECT_EQ(endpoint_.Status().state(), "idle");
  const auto answer = Score({MakeItem("p", "abc"), MakeItem("p", "")});
  EXPECT_FALSE(answer->has_value());
  EXPECT_EQ(endpoint_.Status().state(), "scoring");
  clock_.Advance(absl::Seconds(1));
  batcher_.RunOnce(absl::ZeroDuration());
  ASSERT_TRUE(answer->has_value() && (*answer)->ok());
  EXPECT_EQ((**answer)->score(0).value(), 3);
  EXPECT_EQ((**answer)->score(1).status(), proto::REFUSED_INPUT);
}

TEST_F(ScorerServerTest, FiguresReachHeartbeatPageAndMetrics) {
  endpoint_.Open(&batcher_);
  endpoint_.Tick();
  Score({MakeItem("p", "abcd"), MakeItem("p", "abcd"), MakeItem("p", "!")});
  clock_.Advance(absl::Seconds(1));
  batcher_.RunOnce(absl::ZeroDuration());
  Score({MakeItem("p", "abcd")});
  endpoint_.Tick();
  const proto::MemberStatus status = endpoint_.Status();
  EXPECT_EQ(status.num_items(), 4);
  EXPECT_EQ(status.num_tokens(), 5);
  EXPECT_EQ(status.tokens_per_second(), 5);
  EXPECT_EQ(status.last_error(), "told to fail");
  const transport::RoleStatus page = endpoint_.Page();
  EXPECT_THAT(page.facts, Contains(Pair("SCORED", "3")));
  EXPECT_THAT(page.facts, Contains(Pair("cache hits", "1")));
  EXPECT_THAT(page.facts, Contains(Pair("items a batch", "2.0 (newest 2)")));
  const std::string text = metrics_.Text();
  EXPECT_THAT(text, HasSubstr("wideberth_scorer_items_total{status=\"SCORED\"} 3"));
  EXPECT_THAT(text, HasSubstr("wideberth_scorer_items_total{status=\"MODEL_ERROR\"} 1"));
  EXPECT_THAT(text, HasSubstr("wideberth_scorer_merged_items_total 1"));
  EXPECT_THAT(text, HasSubstr("wideberth_scorer_tokens_total 5"));
  endpoint_.Tick();
  EXPECT_THAT(metrics_.Text(), HasSubstr("wideberth_scorer_tokens_total 5")) << "counted once";
}

TEST_F(ScorerServerTest, WhatAGuardWroteReachesPageAndMetrics) {
  endpoint_.Open(&batcher_);
  endpoint_.Tick();
  EXPECT_THAT(endpoint_.Page().facts, Not(Contains(Pair("answers written", _))));
  for (const int64_t answers : {2, 4}) {
    model_.generated = {answers, answers / 2, 10 * answers};
    Score({MakeItem("p", absl::StrCat("abc", answers))});
    clock_.Advance(absl::Seconds(1));
    batcher_.RunOnce(absl::ZeroDuration());
    endpoint_.Tick();
  }
  EXPECT_EQ(endpoint_.Status().num_tokens(), 2 * 4 + 40) << "questions and answers";
  const transport::RoleStatus page = endpoint_.Page();
  EXPECT_THAT(page.facts, Contains(Pair("answers written", "4")));
  EXPECT_THAT(page.facts, Contains(Pair("answers without a verdict", "2")));
  EXPECT_THAT(page.facts, Contains(Pair("tokens an answer", "10.0")));
  const std::string text = metrics_.Text();
  EXPECT_THAT(text, HasSubstr("wideberth_scorer_generated_answers_total 4"));
  EXPECT_THAT(text, HasSubstr("wideberth_scorer_unreadable_answers_total 2"));
  EXPECT_THAT(text, HasSubstr("wideberth_scorer_generated_tokens_total 40"));
}

TEST_F(ScorerServerTest, TheRateForgetsWhatIsLongAgo) {
  endpoint_.Open(&batcher_);
  endpoint_.Tick();
  Score({MakeItem("p", "abcd")});
  clock_.Advance(absl::Seconds(1));
  batcher_.RunOnce(absl::ZeroDuration());
  for (int i = 0; i < 25; ++i) {
    endpoint_.Tick();
    clock_.Advance(absl::Seconds(1));
  }
  EXPECT_EQ(endpoint_.Status().tokens_per_second(), 0);
}

TEST_F(ScorerServerTest, DeadlinesAreKeptByTheTick) {
  endpoint_.Open(&batcher_);
  const auto answer = Score({MakeItem("p", "a")});
  clock_.Advance(absl::Seconds(120));
  endpoint_.Tick();
  ASSERT_TRUE(answer->has_value());
  EXPECT_EQ((**answer)->score(0).status(), proto::TIMED_OUT);
}

TEST_F(ScorerServerTest, TheEndScoresWhatIsQueuedAndKeepsItsFirstCause) {
  Drain drain(&endpoint_, absl::Seconds(15), &clock_);
  EXPECT_FALSE(Drain(&endpoint_, absl::Seconds(15), &clock_).Begin(absl::OkStatus(), "test"))
      << "nothing was accepted yet";
  drain.Open(&batcher_);
  const auto answer = Score({MakeItem("p", "a")});
  EXPECT_TRUE(drain.InTime());
  EXPECT_TRUE(drain.Begin(absl::UnavailableError("learner gone"), "test"));
  EXPECT_TRUE(drain.Begin(absl::OkStatus(), "test"));
  EXPECT_EQ(drain.why().message(), "learner gone");
  EXPECT_EQ(endpoint_.Status().state(), "draining");
  batcher_.Run();
  ASSERT_TRUE(answer->has_value());
  EXPECT_EQ((**answer)->score(0).status(), proto::SCORED);
}

TEST_F(ScorerServerTest, TheEndDoesNotWaitForTheDeviceForEver) {
  Drain drain(&endpoint_, absl::Seconds(15), &clock_);
  drain.Open(&batcher_);
  const auto answer = Score({MakeItem("p", "a")});
  drain.Begin(absl::OkStatus(), "test");
  clock_.Advance(absl::Seconds(14));
  EXPECT_TRUE(drain.InTime());
  EXPECT_FALSE(answer->has_value());
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(drain.InTime());
  ASSERT_TRUE(answer->has_value());
  EXPECT_EQ((**answer)->score(0).status(), proto::OVERLOADED);
  EXPECT_TRUE(model_.interrupted);
  clock_.Advance(absl::Seconds(15));
  EXPECT_FALSE(drain.InTime());
}

TEST_F(ScorerServerTest, WithANoticeItemsAreStillAcceptedUntilClientsHaveHeard) {
  Drain drain(&endpoint_, absl::Seconds(15), &clock_);
  int num_announced = 0;
  drain.Open(&batcher_, [&] {
    ++num_announced;
    EXPECT_EQ(batcher_.Stats().num_waiting, 0);
  });
  EXPECT_TRUE(drain.Begin(absl::OkStatus(), "test", absl::Seconds(2)));
  EXPECT_EQ(num_announced, 1);
  EXPECT_EQ(endpoint_.Status().state(), "draining");
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(drain.InTime());
  const auto accepted = Score({MakeItem("p", "a")});
  EXPECT_FALSE(accepted->has_value());
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(drain.InTime());
  const auto refused = Score({MakeItem("p", "b")});
  ASSERT_TRUE(refused->has_value());
  EXPECT_EQ((**refused)->score(0).status(), proto::OVERLOADED);
  batcher_.Run();
  ASSERT_TRUE(accepted->has_value());
  EXPECT_EQ((**accepted)->score(0).status(), proto::SCORED);
}

TEST_F(ScorerServerTest, TheEndOfTheRunCutsTheNoticeShort) {
  Drain drain(&endpoint_, absl::Seconds(15), &clock_);
  drain.Open(&batcher_);
  EXPECT_TRUE(drain.Begin(absl::OkStatus(), "a signal", absl::Seconds(2)));
  EXPECT_TRUE(drain.Begin(absl::OkStatus(), "the learner says so"));
  batcher_.Run();
}

TEST(ExitCodeTest, BadInputIsToldFromWhatMayPass) {
  EXPECT_EQ(ExitCode(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCode(absl::UnavailableError("no learner")), 1);
  EXPECT_EQ(ExitCode(absl::ResourceExhaustedError("no memory")), 1);
  EXPECT_EQ(ExitCode(absl::InvalidArgumentError("bad field")), 2);
  EXPECT_EQ(ExitCode(absl::NotFoundError("no file")), 2);
}

class MembershipTest : public ::testing::Test {
 protected:
  MembershipTest() {
    learner_.on_register =
        [this](const proto::RegisterRequest& request) -> absl::StatusOr<proto::RegisterResponse> {
      registrations_.push_back(request);
      if (!refusal_.ok()) return refusal_;
      proto::RegisterResponse response;
      response.set_member_id(std::to_string(registrations_.size()));
      response.mutable_config()->set_name("a run");
      response.mutable_config()->mutable_learner()->set_member_timeout(60);
      return response;
    };
    learner_.on_heartbeat =
        [this](const proto::HeartbeatRequest& request) -> absl::StatusOr<proto::HeartbeatResponse> {
      last_heartbeat_ = request;
      return answer_;
    };
    answer_.set_known(true);
    registration_.set_name("scorer-safety-0");
  }
  Membership Make() {
    return Membership(
        &client_, registration_,
        [] {
          proto::MemberStatus status;
          status.set_state("idle");
          return status;
        },
        &clock_);
  }

  FakeClock clock_;
  testing::FakeLearner learner_;
  testing::InMemoryLearnerClient client_{&learner_};
  proto::RegisterRequest registration_;
  std::vector<proto::RegisterRequest> registrations_;
  absl::Status refusal_;
  proto::HeartbeatRequest last_heartbeat_;
  proto::HeartbeatResponse answer_;
};

TEST_F(MembershipTest, JoinsAndSaysHowItIs) {
  Membership membership = Make();
  const auto config = membership.Join();
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->name(), "a run");
  ASSERT_TRUE(membership.Beat().ok());
  EXPECT_EQ(last_heartbeat_.member_id(), "1");
  EXPECT_EQ(last_heartbeat_.status().state(), "idle");
}

TEST_F(MembershipTest, ALearnerThatForgotUsIsToldAgain) {
  Membership membership = Make();
  ASSERT_TRUE(membership.Join().ok());
  answer_.set_known(false);
  EXPECT_EQ(*membership.Beat(), Membership::Standing::kMember);
  EXPECT_EQ(registrations_.size(), 2);
  answer_.set_known(true);
  ASSERT_TRUE(membership.Beat().ok());
  EXPECT_EQ(last_heartbeat_.member_id(), "2");
}

TEST_F(MembershipTest, TheLearnersWordEndsIt) {
  Membership membership = Make();
  ASSERT_TRUE(membership.Join().ok());
  answer_.set_drain(true);
  EXPECT_EQ(*membership.Beat(), Membership::Standing::kDrained);
  EXPECT_TRUE(membership.Run(absl::Hours(1)).ok());
}

TEST_F(MembershipTest, ASilentLearnerIsGivenTwiceTheMemberTimeout) {
  Membership membership = Make();
  ASSERT_TRUE(membership.Join().ok());
  client_.Fail(absl::UnavailableError("connection refused"));
  clock_.Advance(absl::Seconds(119));
  EXPECT_TRUE(membership.Beat().ok());
  client_.Fail(absl::OkStatus());
  EXPECT_TRUE(membership.Beat().ok()) << "an answer starts the time anew";
  client_.Fail(absl::UnavailableError("connection refused"));
  clock_.Advance(absl::Seconds(119));
  EXPECT_TRUE(membership.Beat().ok());
  clock_.Advance(absl::Seconds(1));
  const absl::Status lost = membership.Run(absl::Hours(1));
  EXPECT_EQ(lost.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(lost.message(),
            "scorer-safety-0 has had no answer from the learner for 2m: connection refused");
}

TEST_F(MembershipTest, ARefusedRegistrationIsAnErrorAtOnce) {
  Membership membership = Make();
  ASSERT_TRUE(membership.Join().ok());
  answer_.set_known(false);
  refusal_ = absl::InvalidArgumentError("no scorer of that name");
  EXPECT_EQ(membership.Beat().status().message(), "no scorer of that name");
}

TEST_F(MembershipTest, AChangeIsToldAtOnce) {
  Membership membership = Make();
  ASSERT_TRUE(membership.Join().ok());
  BoundedQueue<int> beats(8);
  auto answering = learner_.on_heartbeat;
  int num_beats = 0;
  learner_.on_heartbeat = [&](const proto::HeartbeatRequest& request) {
    if (++num_beats == 1) membership.BeatSoon();  // While the beat is under way.
    int beat = num_beats;
    EXPECT_TRUE(beats.TryPush(beat).ok());
    return answering(request);
  };
  std::thread beating([&] { EXPECT_TRUE(membership.Run(absl::Hours(1)).ok()); });
  EXPECT_EQ(beats.Pop(absl::Minutes(1)), 1);
  EXPECT_EQ(beats.Pop(absl::Minutes(1)), 2);
  membership.BeatSoon();
  EXPECT_EQ(beats.Pop(absl::Minutes(1)), 3);
  membership.Stop();
  beating.join();
}

TEST_F(MembershipTest, StopEndsTheRun) {
  Membership membership = Make();
  ASSERT_TRUE(membership.Join().ok());
  std::thread beating([&] { EXPECT_TRUE(membership.Run(absl::Hours(1)).ok()); });
  membership.Stop();
  beating.join();
}

}  // namespace
}  // namespace wideberth::scorer
