// SPDX-License-Identifier: Apache-2.0
// Learner server and client over loopback: retries, deadlines and refusals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "absl/synchronization/notification.h"
#include "tests/testing/certificates.h"
#include "tests/testing/fake_wire.h"
#include "transport/learner_client.h"
#include "transport/learner_service.h"

namespace wideberth::transport {
namespace {

using ::testing::HasSubstr;
using ::wideberth::testing::FakeLearner;

LearnerClient::Options Quick(absl::Duration timeout = absl::Seconds(30)) {
  LearnerClient::Options options;
  options.call_timeout = timeout;
  options.fetch_timeout = timeout;
  options.first_backoff = absl::Milliseconds(1);
  options.max_backoff = absl::Milliseconds(20);
  return options;
}

class LearnerWireTest : public ::testing::Test {
 protected:
  void Serve(const std::string& address = "127.0.0.1:0") {
    auto server = LearnerServer::Start(address, &learner_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::unique_ptr<LearnerClient> Client(const LearnerClient::Options& options = Quick()) {
    auto client = LearnerClient::Connect(server_->address(), absl::Seconds(30), options);
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *std::move(client) : nullptr;
  }

  FakeLearner learner_;
  std::unique_ptr<LearnerServer> server_;
};

TEST_F(LearnerWireTest, EveryCallReachesItsHandlerAndBringsItsAnswerBack) {
  learner_.on_register =
      [](const proto::RegisterRequest& request) -> absl::StatusOr<proto::RegisterResponse> {
    proto::RegisterResponse response;
    response.set_member_id(request.name() + "#1");
    response.mutable_config()->mutable_learner()->set_group_size(5);
    return response;
  };
  learner_.on_heartbeat =
      [](const proto::HeartbeatRequest& request) -> absl::StatusOr<proto::HeartbeatResponse> {
    proto::HeartbeatResponse response;
    response.set_known(request.member_id() == "actor-0#1");
    return response;
  };
  learner_.on_lease =
      [](const proto::LeasePromptsRequest& request) -> absl::StatusOr<proto::LeasePromptsResponse> {
    proto::LeasePromptsResponse response;
    for (int i = 0; i < request.max_groups(); ++i) response.add_lease()->set_num_completions(2);
    return response;
  };
  learner_.on_submit =
      [](const proto::SubmitGroupRequest& request) -> absl::StatusOr<proto::SubmitGroupResponse> {
    proto::SubmitGroupResponse response;
    response.set_outcome(request.completion(0).token_id(1) == 7
                             ? proto::SubmitGroupResponse::ACCEPTED
                             : proto::SubmitGroupResponse::REFUSED);
    return response;
  };
  uint64_t acknowledged = 0;
  learner_.on_acknowledge = [&](const proto::AcknowledgeAdapterRequest& request)
      -> absl::StatusOr<proto::AcknowledgeAdapterResponse> {
    acknowledged = request.version();
    return proto::AcknowledgeAdapterResponse();
  };
  Serve();
  const auto client = Client();
  proto::RegisterRequest hello;
  hello.set_role(proto::ACTOR);
  hello.set_name("actor-0");
  const auto registered = client->Register(hello);
  ASSERT_TRUE(registered.ok()) << registered.status();
  EXPECT_EQ(registered->member_id(), "actor-0#1");
  EXPECT_EQ(registered->config().learner().group_size(), 5);
  proto::HeartbeatRequest beat;
  beat.set_member_id("actor-0#1");
  EXPECT_TRUE(client->Heartbeat(beat)->known());
  proto::LeasePromptsRequest ask;
  ask.set_max_groups(3);
  EXPECT_EQ(client->LeasePrompts(ask)->lease_size(), 3);
  proto::SubmitGroupRequest group;
  group.add_completion()->add_token_id(6);
  group.mutable_completion(0)->add_token_id(7);
  EXPECT_EQ(client->SubmitGroup(group)->outcome(), proto::SubmitGroupResponse::ACCEPTED);
  proto::AcknowledgeAdapterRequest swap;
  swap.set_version(9);
  EXPECT_TRUE(client->AcknowledgeAdapter(swap).ok());
  EXPECT_EQ(acknowledged, 9u);
}

TEST_F(LearnerWireTest, AHandlersErrorKeepsItsCodeAndSentenceAndIsNotRetried) {
  std::atomic<int> calls = 0;
  learner_.on_register =
      [&](const proto::RegisterRequest&) -> absl::StatusOr<proto::RegisterResponse> {
    ++calls;
    return absl::FailedPreconditionError("actor-0: base fingerprint is aa, the run's is bb");
  };
  Serve();
  proto::RegisterRequest hello;
  hello.set_role(proto::ACTOR);
  const absl::Status status = Client()->Register(hello).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(status.message(), "actor-0: base fingerprint is aa, the run's is bb");
  EXPECT_EQ(calls, 1);
}

TEST_F(LearnerWireTest, AHandlersExceptionIsAnErrorOfTheCallAndTheServerLives) {
  std::atomic<int> calls = 0;
  learner_.on_heartbeat =
      [&](const proto::HeartbeatRequest&) -> absl::StatusOr<proto::HeartbeatResponse> {
    if (++calls == 1) throw std::runtime_error("disk on fire");
    return proto::HeartbeatResponse();
  };
  Serve();
  const auto client = Client();
  const absl::Status status = client->Heartbeat({}).status();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("disk on fire"));
  EXPECT_TRUE(client->Heartbeat({}).ok());
}

TEST_F(LearnerWireTest, UnavailableIsTriedAgainUntilItIsAnswered) {
  std::atomic<int> calls = 0;
  learner_.on_lease =
      [&](const proto::LeasePromptsRequest&) -> absl::StatusOr<proto::LeasePromptsResponse> {
    if (++calls < 4) return absl::UnavailableError("not yet");
    return proto::LeasePromptsResponse();
  };
  Serve();
  EXPECT_TRUE(Client()->LeasePrompts({}).ok());
  EXPECT_EQ(calls, 4);
}

TEST_F(LearnerWireTest, ACallSurvivesARestartOfTheLearner) {
  learner_.on_heartbeat = [](const proto::HeartbeatRequest&) { return proto::HeartbeatResponse(); };
  Serve();
  const std::string address = server_->address();
  const auto client = Client();
  ASSERT_TRUE(client->Heartbeat({}).ok());
  server_.reset();
  absl::Status status = absl::UnknownError("no answer yet");
  std::thread caller([&] { status = client->Heartbeat({}).status(); });
  Serve(address);
  caller.join();
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(LearnerWireTest, ConnectWaitsForALearnerThatStartsLate) {
  Serve();
  const std::string address = server_->address();
  server_.reset();
  absl::Status status = absl::UnknownError("no answer yet");
  std::thread caller([&] { status = LearnerClient::Connect(address, absl::Seconds(30)).status(); });
  Serve(address);
  caller.join();
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(LearnerWireTest, AnUnreachableLearnerIsOneSentence) {
  Serve();
  const std::string address = server_->address();
  server_.reset();
  const absl::Status status = LearnerClient::Connect(address, absl::Milliseconds(300)).status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(status.message(),
            absl::StrCat("learner rank 0 at ", address,
                         " could not be reached within 300ms: nothing accepts connections there"));
  EXPECT_THAT(std::string(LearnerClient::Connect("no-such-host.invalid:1", absl::Milliseconds(300))
                              .status()
                              .message()),
              HasSubstr("host name no-such-host.invalid is not known"));
  EXPECT_THAT(std::string(LearnerClient::Connect("127.0.0.1", absl::Seconds(1)).status().message()),
              HasSubstr("must be host:port"));
}

TEST_F(LearnerWireTest, ALearnerThatGoesAwayForGoodEndsTheCallWithASentence) {
  Serve();
  const std::string address = server_->address();
  const auto client = Client(Quick(absl::Milliseconds(300)));
  server_.reset();
  const absl::Status status = client->SubmitGroup({}).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(absl::StrCat("learner rank 0 at ", address,
                                     " could not be reached for SubmitGroup")));
}

TEST_F(LearnerWireTest, ASilentLearnerEndsTheCallAtItsDeadlineWithASentence) {
  absl::Notification release;
  learner_.on_lease = [&](const proto::LeasePromptsRequest&) {
    release.WaitForNotification();
    return proto::LeasePromptsResponse();
  };
  Serve();
  const absl::Status status = Client(Quick(absl::Milliseconds(200)))->LeasePrompts({}).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status));
  EXPECT_EQ(status.message(), absl::StrCat("learner rank 0 at ", server_->address(),
                                           " did not answer LeasePrompts within 200ms"));
  release.Notify();
  server_.reset();  // Before the notification its handler still looks at.
}

TEST_F(LearnerWireTest, CancelEndsARunningCallAndAllLaterOnes) {
  absl::Notification entered, release;
  learner_.on_lease = [&](const proto::LeasePromptsRequest&) {
    entered.Notify();
    release.WaitForNotification();
    return proto::LeasePromptsResponse();
  };
  Serve();
  const auto client = Client(Quick(absl::Hours(1)));
  absl::Status status;
  std::thread caller([&] { status = client->LeasePrompts({}).status(); });
  entered.WaitForNotification();
  client->Cancel();
  caller.join();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_TRUE(absl::IsCancelled(client->Heartbeat({}).status()));
  release.Notify();
  server_.reset();
}

TEST_F(LearnerWireTest, ASecondServerOnThePortIsRefusedWithTheReason) {
  Serve();
  const auto second = LearnerServer::Start(server_->address(), &learner_);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().message(),
            absl::StrCat("cannot listen on ", server_->address(), ": address already in use"));
}

TEST_F(LearnerWireTest, TheAnyAddressIsToldAsThisMachinesName) {
  const wideberth::testing::Certificates certificates;
  const auto server =
      LearnerServer::Start("0.0.0.0:0", &learner_, nullptr, certificates.Of(proto::LEARNER));
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ((*server)->address().find("0.0.0.0"), std::string::npos);
  EXPECT_THAT((*server)->address(), ::testing::Not(::testing::EndsWith(":0")));
}

}  // namespace
}  // namespace wideberth::transport
