// SPDX-License-Identifier: Apache-2.0
// Who may speak to whom over the real wires: certificates of the run and of strangers, roles, the
// token, and where a server may listen at all.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "proto/wire.grpc.pb.h"
#include "tests/testing/certificates.h"
#include "tests/testing/fake_wire.h"
#include "tests/transport/blobs.h"
#include "tests/transport/expired.h"
#include "transport/learner_client.h"
#include "transport/learner_service.h"
#include "transport/message_limits.h"
#include "transport/rank_client.h"
#include "transport/rank_hub.h"
#include "transport/scorer_client.h"
#include "transport/scorer_service.h"

namespace wideberth::transport {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::wideberth::testing::Certificates;
using ::wideberth::testing::Expired;
using ::wideberth::testing::FakeLearner;
using ::wideberth::testing::MakeBlob;

// Long enough for a handshake on a busy machine; those that must fail are given less.
constexpr absl::Duration kPatience = absl::Seconds(30);
constexpr absl::Duration kImpatience = absl::Milliseconds(700);

class OneScorer final : public ScoreHandler {
 public:
  void Score(proto::ScoreRequest request,
             std::function<void(absl::StatusOr<proto::ScoreResponse>)> done, Gone) override {
    ++num_calls;
    proto::ScoreResponse response;
    for (int i = 0; i < request.item_size(); ++i) {
      proto::Score* const score = response.add_score();
      score->set_status(proto::SCORED);
      score->set_value(0.5);
    }
    done(response);
  }
  std::atomic<int> num_calls = 0;
};

class WireSecurityTest : public ::testing::Test {
 protected:
  // Made once: nothing changes them.
  static void SetUpTestSuite() {
    run_ = new Certificates("--keep_ca");
    others_ = new Certificates;
  }
  static void TearDownTestSuite() {
    delete run_;
    delete others_;
  }
  WireSecurityTest() {
    learner_.on_register = [this](const proto::RegisterRequest& request) {
      ++num_calls_;
      proto::RegisterResponse response;
      response.set_member_id(request.name() + "#1");
      return response;
    };
    learner_.on_heartbeat = [this](const proto::HeartbeatRequest&) {
      ++num_calls_;
      return proto::HeartbeatResponse();
    };
    learner_.on_lease = [this](const proto::LeasePromptsRequest&) {
      ++num_calls_;
      return proto::LeasePromptsResponse();
    };
    learner_.on_submit = [this](const proto::SubmitGroupRequest&) {
      ++num_calls_;
      return proto::SubmitGroupResponse();
    };
    learner_.on_acknowledge = [this](const proto::AcknowledgeAdapterRequest&) {
      ++num_calls_;
      return proto::AcknowledgeAdapterResponse();
    };
    learner_.on_fetch = [this](const proto::FetchAdapterRequest&) {
      ++num_calls_;
      return MakeBlob(3);
    };
    RankHub::Options ranks;
    ranks.world_size = 2;
    ranks.run_id = "run-1";
    hub_ = std::make_unique<RankHub>(std::move(ranks), &Clock::Real());
  }

  static Credentials Of(proto::Role role) { return run_->Of(role); }

  // A learner as `own`; its address.
  std::string Serve(const Credentials& own, const std::string& address = "127.0.0.1:0") {
    auto server = LearnerServer::Start(address, &learner_, hub_.get(), own);
    EXPECT_TRUE(server.ok()) << server.status();
    if (!server.ok()) return "";
    servers_.push_back(*std::move(server));
    return servers_.back()->address();
  }
  static absl::StatusOr<std::unique_ptr<LearnerClient>> Connect(
      const std::string& address, const Credentials& own, absl::Duration patience = kPatience) {
    LearnerClient::Options options;
    options.own = own;
    return LearnerClient::Connect(address, patience, options);
  }
  // Why `own` is not spoken to, before any call is made.
  static std::string WhyNot(const std::string& address, const Credentials& own) {
    const absl::Status status = Connect(address, own, kImpatience).status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    return std::string(status.message());
  }
  static absl::Status Register(LearnerClient& client, proto::Role role) {
    proto::RegisterRequest request;
    request.set_role(role);
    request.set_name("somebody");
    request.set_host("node7");
    return client.Register(request).status();
  }
  // The result of one item at a scorer at `address`.
  static proto::Score ScoreAt(const std::string& address, const Credentials& own) {
    ScorerClient::Options options;
    options.own = own;
    options.first_backoff = options.max_backoff = absl::Milliseconds(20);
    options.unreachable_timeout = kImpatience;
    const auto client = ScorerClient::Create("safety", options);
    client->SetEndpoints({address});
    return client->Score(std::vector<proto::ScoreItem>(1), kPatience)[0];
  }

  static Certificates* run_;
  static Certificates* others_;
  FakeLearner learner_;
  std::atomic<int> num_calls_ = 0;  // That reached the learner.
  std::unique_ptr<RankHub> hub_;
  std::vector<std::unique_ptr<LearnerServer>> servers_;
};
Certificates* WireSecurityTest::run_ = nullptr;
Certificates* WireSecurityTest::others_ = nullptr;

TEST_F(WireSecurityTest, EveryRoleCanMakeItsCallsAlsoBeyondLoopback) {
  const std::string address = Serve(Of(proto::LEARNER), "0.0.0.0:0");
  const auto actor = Connect(address, Of(proto::ACTOR));
  ASSERT_TRUE(actor.ok()) << actor.status();
  EXPECT_TRUE(Register(**actor, proto::ACTOR).ok());
  EXPECT_TRUE((*actor)->Heartbeat({}).ok());
  EXPECT_TRUE((*actor)->LeasePrompts({}).ok());
  EXPECT_TRUE((*actor)->SubmitGroup({}).ok());
  EXPECT_TRUE((*actor)->AcknowledgeAdapter({}).ok());
  const auto blob = (*actor)->FetchAdapter({});
  ASSERT_TRUE(blob.ok()) << blob.status();
  EXPECT_EQ((*blob)->bytes, MakeBlob(3)->bytes);

  const auto scorer = Connect(address, Of(proto::SCORER));
  ASSERT_TRUE(scorer.ok()) << scorer.status();
  EXPECT_TRUE(Register(**scorer, proto::SCORER).ok());
  EXPECT_TRUE((*scorer)->Heartbeat({}).ok());

  RankClient::Options options;
  options.own = Of(proto::LEARNER);
  const auto rank = RankClient::Connect(address, kPatience, options);
  ASSERT_TRUE(rank.ok()) << rank.status();
  const auto joined = (*rank)->Join({});
  EXPECT_TRUE(joined.ok()) << joined.status();

  OneScorer handler;
  const auto server = ScorerServer::Start("0.0.0.0:0", &handler, Of(proto::SCORER));
  ASSERT_TRUE(server.ok()) << server.status();
  const proto::Score score = ScoreAt((*server)->address(), Of(proto::ACTOR));
  EXPECT_EQ(score.status(), proto::SCORED) << score.message();
}

TEST_F(WireSecurityTest, StrangersAreNotLetIn) {
  const std::string address = Serve(Of(proto::LEARNER));
  Credentials nobody = Of(proto::ACTOR);
  nobody.certificate_pem = nobody.key_pem = "";
  Credentials mixed = others_->Of(proto::ACTOR);  // Trusts the learner, who does not trust it.
  mixed.ca_pem = Of(proto::ACTOR).ca_pem;
  EXPECT_THAT(WhyNot(address, nobody), HasSubstr("but TLS fails"));
  EXPECT_THAT(WhyNot(address, mixed), HasSubstr("but TLS fails"));
  EXPECT_THAT(WhyNot(address, others_->Of(proto::ACTOR)), HasSubstr("but TLS fails"));
  EXPECT_THAT(WhyNot(address, Expired(*run_, proto::ACTOR)), HasSubstr("but TLS fails"));
  Credentials plain;
  plain.token = run_->token();
  EXPECT_THAT(WhyNot(address, plain), HasSubstr("but not in plaintext"));
  EXPECT_EQ(num_calls_, 0);
}

TEST_F(WireSecurityTest, NobodyElsePosesAsTheLearner) {
  for (const Credentials& impostor :
       {Of(proto::ACTOR), Of(proto::SCORER), others_->Of(proto::LEARNER),
        Expired(*run_, proto::LEARNER)}) {
    const std::string address = Serve(impostor);
    EXPECT_THAT(WhyNot(address, Of(proto::ACTOR)), HasSubstr("but TLS fails"));
    RankClient::Options options;
    options.own = Of(proto::LEARNER);
    EXPECT_FALSE(RankClient::Connect(address, kImpatience, options).ok());
  }
  EXPECT_THAT(WhyNot(Serve({}), Of(proto::ACTOR)), HasSubstr("but TLS fails"));
  EXPECT_EQ(num_calls_, 0);
  OneScorer handler;
  const auto server = ScorerServer::Start("127.0.0.1:0", &handler, Of(proto::ACTOR));
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ(ScoreAt((*server)->address(), Of(proto::ACTOR)).status(), proto::MODEL_ERROR);
  EXPECT_EQ(handler.num_calls, 0);
}

TEST_F(WireSecurityTest, ARoleMakesItsOwnCallsOnly) {
  const std::string address = Serve(Of(proto::LEARNER));
  const auto refused = [](const absl::Status& status, const std::string& call,
                          const std::string& role) {
    EXPECT_TRUE(absl::IsPermissionDenied(status)) << call << ": " << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(absl::StrCat("call ", call, " refused: ", role, "/")),
                      HasSubstr(absl::StrCat("certificate of role ", role))));
  };
  const auto scorer = Connect(address, Of(proto::SCORER));
  ASSERT_TRUE(scorer.ok()) << scorer.status();
  refused((*scorer)->LeasePrompts({}).status(), "LeasePrompts", "scorer");
  refused((*scorer)->SubmitGroup({}).status(), "SubmitGroup", "scorer");
  refused((*scorer)->AcknowledgeAdapter({}).status(), "AcknowledgeAdapter", "scorer");
  refused((*scorer)->FetchAdapter({}).status(), "FetchAdapter", "scorer");
  const auto rank = Connect(address, Of(proto::LEARNER));
  ASSERT_TRUE(rank.ok()) << rank.status();
  refused((*rank)->SubmitGroup({}).status(), "SubmitGroup", "learner");

  RankClient::Options options;
  options.own = Of(proto::ACTOR);
  const auto posing = RankClient::Connect(address, kPatience, options);
  ASSERT_TRUE(posing.ok()) << posing.status();
  refused((*posing)->Join({}).status(), "JoinRank", "actor");

  const auto actor = Connect(address, Of(proto::ACTOR));
  ASSERT_TRUE(actor.ok()) << actor.status();
  const absl::Status registered = Register(**actor, proto::SCORER);
  EXPECT_TRUE(absl::IsPermissionDenied(registered)) << registered;
  EXPECT_EQ(registered.message(),
            "Register: somebody on node7 registers as scorer, its certificate is of role actor");
  EXPECT_EQ(num_calls_, 0);

  OneScorer handler;
  const auto server = ScorerServer::Start("127.0.0.1:0", &handler, Of(proto::SCORER));
  ASSERT_TRUE(server.ok()) << server.status();
  const proto::Score score = ScoreAt((*server)->address(), Of(proto::SCORER));
  EXPECT_EQ(score.status(), proto::MODEL_ERROR);
  EXPECT_THAT(score.message(), HasSubstr("certificate of role scorer, which may not make it"));
  EXPECT_EQ(handler.num_calls, 0);
}

TEST_F(WireSecurityTest, WithoutTheTokenNoCallIsTakenWithOrWithoutTls) {
  Credentials plain;
  plain.token = run_->token();
  for (const Credentials& server : {plain, Of(proto::LEARNER)}) {
    const std::string address = Serve(server);
    Credentials own = server.tls() ? Of(proto::ACTOR) : plain;
    own.role = proto::ACTOR;
    const auto right = Connect(address, own);
    ASSERT_TRUE(right.ok()) << right.status();
    EXPECT_TRUE((*right)->Heartbeat({}).ok());
    EXPECT_TRUE((*right)->FetchAdapter({}).ok());
    num_calls_ = 0;
    for (const std::string& token : {std::string(), others_->token(), run_->token() + "0"}) {
      own.token = token;
      const auto client = Connect(address, own);
      ASSERT_TRUE(client.ok()) << client.status();
      for (const absl::Status& status :
           {(*client)->Heartbeat({}).status(), (*client)->FetchAdapter({}).status()}) {
        EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
        EXPECT_THAT(
            std::string(status.message()),
            AllOf(HasSubstr(" refused: actor/"),
                  HasSubstr(token.empty() ? "without the run token" : "with a wrong run token"),
                  Not(HasSubstr(run_->token())), Not(HasSubstr(others_->token()))));
      }
      RankClient::Options options;
      options.own = server.tls() ? Of(proto::LEARNER) : own;
      options.own.token = token;
      const auto rank = RankClient::Connect(address, kPatience, options);
      ASSERT_TRUE(rank.ok()) << rank.status();
      EXPECT_TRUE(absl::IsUnauthenticated((*rank)->Join({}).status()));
    }
    EXPECT_EQ(num_calls_, 0);
  }
}

TEST_F(WireSecurityTest, AServerWithoutATokenTakesCallersThatHaveOne) {
  Credentials own;
  own.token = run_->token();
  const auto client = Connect(Serve({}), own);
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_TRUE((*client)->Heartbeat({}).ok());
}

TEST_F(WireSecurityTest, TokensAreNeverLogged) {
  const wideberth::testing::TempDir folder;
  ASSERT_TRUE(OpenLog("learner-0", folder.Join("log")).ok());
  Credentials plain;
  plain.token = run_->token();
  for (const Credentials& server : {plain, Of(proto::LEARNER)}) {
    const std::string address = Serve(server);
    Credentials own = server.tls() ? Of(proto::ACTOR) : plain;
    EXPECT_TRUE((*Connect(address, own))->Heartbeat({}).ok());
    own.token = others_->token();
    EXPECT_FALSE((*Connect(address, own))->Heartbeat({}).ok());
  }
  const std::string log = ReadFile(folder.Join("log")).value_or("");
  ASSERT_TRUE(OpenLog("", "/dev/null").ok());
  EXPECT_THAT(log, AllOf(HasSubstr("call Heartbeat refused"), HasSubstr("with a wrong run token"),
                         Not(HasSubstr(run_->token())), Not(HasSubstr(others_->token()))));
}

TEST_F(WireSecurityTest, BeyondLoopbackNobodyServesOrCallsWithoutCertificates) {
  Credentials plain;
  plain.token = run_->token();
  Credentials without_token = Of(proto::LEARNER);
  without_token.token.clear();
  OneScorer handler;
  for (const Credentials& own : {Credentials(), plain, without_token}) {
    for (const char* address : {"0.0.0.0:0", "[::]:0"}) {
      const absl::Status learner = LearnerServer::Start(address, &learner_, nullptr, own).status();
      EXPECT_TRUE(absl::IsFailedPrecondition(learner)) << learner;
      EXPECT_THAT(std::string(learner.message()), HasSubstr("launch/make_certs.sh DIR"));
      EXPECT_TRUE(absl::IsFailedPrecondition(ScorerServer::Start(address, &handler, own).status()));
    }
  }
  EXPECT_THAT(WhyNot(Serve(Of(proto::LEARNER), "0.0.0.0:0"), plain),
              AnyOf(HasSubstr("it is not this machine"), HasSubstr("but not in plaintext")));
}

TEST_F(WireSecurityTest, WhatIsTooLargeIsRefusedAtBothEnds) {
  const std::string address = Serve({});
  proto::SubmitGroupRequest group;
  group.add_completion()->set_text(std::string(kMaxLearnerCallBytes, 'x'));
  const auto client = Connect(address, {});
  ASSERT_TRUE(client.ok()) << client.status();
  const absl::Status own = (*client)->SubmitGroup(group).status();
  EXPECT_TRUE(absl::IsInvalidArgument(own)) << own;
  EXPECT_THAT(std::string(own.message()), HasSubstr("at most 67108864 are taken"));
  const auto stub =
      proto::Learner::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  proto::SubmitGroupResponse response;
  EXPECT_EQ(stub->SubmitGroup(&context, group, &response).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(num_calls_, 0);
}

TEST_F(WireSecurityTest, MessagesBeyondTheLimitsNeverReachTheHandler) {
  const auto client = Connect(Serve({}), {});
  ASSERT_TRUE(client.ok()) << client.status();
  proto::HeartbeatRequest beat;
  beat.set_member_id(std::string(kMaxIdBytes + 1, 'x'));
  const absl::Status status = (*client)->Heartbeat(beat).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(status.message(), "Heartbeat: member_id has 257 bytes, must have at most 256");
  EXPECT_EQ(num_calls_, 0);
  learner_.on_lease = [](const proto::LeasePromptsRequest&) {
    proto::LeasePromptsResponse response;
    response.add_lease()->set_num_completions(-1);
    return response;
  };
  EXPECT_THAT(std::string((*client)->LeasePrompts({}).status().message()),
              HasSubstr("lease.num_completions is -1"));
  OneScorer handler;
  const auto server = ScorerServer::Start("127.0.0.1:0", &handler);
  ScorerClient::Options options;
  options.max_items_per_call = kMaxScoreItems + 1;
  const auto scorer = ScorerClient::Create("safety", options);
  scorer->SetEndpoints({(*server)->address()});
  const auto scores = scorer->Score(std::vector<proto::ScoreItem>(kMaxScoreItems + 1), kPatience);
  EXPECT_EQ(scores[0].status(), proto::MODEL_ERROR);
  EXPECT_THAT(scores[0].message(), HasSubstr("Score: item has 4097, must have at most 4096"));
  EXPECT_EQ(handler.num_calls, 0);
}

}  // namespace
}  // namespace wideberth::transport
