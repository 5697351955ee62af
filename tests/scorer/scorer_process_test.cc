// SPDX-License-Identifier: Apache-2.0
// The real wideberth-scorer against a learner and clients in this process, over loopback: serving,
// ending, dying.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <future>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/mutex.h"
#include "tests/scorer/fake_scoring_model.h"
#include "tests/scorer/parrot_model.h"
#include "tests/testing/fake_wire.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"
#include "tests/transport/chat_server.h"
#include "transport/learner_service.h"
#include "transport/scorer_client.h"

extern char** environ;

namespace wideberth::scorer {
namespace {

using ::testing::HasSubstr;

class ScorerProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::getenv("WIDEBERTH_BIN"))
      GTEST_SKIP() << "WIDEBERTH_BIN does not say where wideberth-scorer is";
    ASSERT_TRUE(testing::WriteTinyModel("llama", folder_.Join("model")).ok());
    config_.set_name("safety");
    config_.mutable_model()->set_path(folder_.Join("model"));
    config_.set_template_("Q: {prompt} A: {completion}");
    config_.add_positive("Y");
    config_.add_negative("N");
    learner_.on_register =
        [this](const proto::RegisterRequest& request) -> absl::StatusOr<proto::RegisterResponse> {
      MutexLock lock(mutex_);
      proto::RegisterResponse response;
      response.set_member_id(request.name());
      response.mutable_config()->mutable_learner()->set_member_timeout(member_timeout_);
      *response.mutable_config()->add_scorer() = config_;
      addresses_[request.name()] = request.address();
      health_address_ = request.health_address();
      changed_.SignalAll();
      return response;
    };
    learner_.on_heartbeat =
        [this](const proto::HeartbeatRequest& request) -> absl::StatusOr<proto::HeartbeatResponse> {
      MutexLock lock(mutex_);
      states_[request.member_id()] = request.status().state();
      changed_.SignalAll();
      proto::HeartbeatResponse response;
      response.set_known(true);
      response.set_drain(drain_);
      return response;
    };
    auto server = transport::LearnerServer::Start("127.0.0.1:0", &learner_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void TearDown() override {
    for (const pid_t pid : running_) ::kill(pid, SIGKILL);
    for (const pid_t pid : running_) ::waitpid(pid, nullptr, 0);
  }

  void MakeGenerative() {
    config_.Clear();
    config_.set_name("safety");
    config_.set_kind(proto::ScorerConfig::GENERATIVE);
    config_.mutable_model()->set_path(folder_.Join("model"));
    config_.mutable_generative()->set_instruction("Judge.\n");
    config_.mutable_generative()->set_max_new_tokens(24);
  }
  pid_t Start(int index, const std::string& scorer = "safety",
              const std::string& connect_timeout = "20s") {
    std::vector<std::string> arguments = {testing::BinaryPath("wideberth-scorer"),
                                          absl::StrCat("--learner=", server_->address()),
                                          absl::StrCat("--scorer=", scorer),
                                          absl::StrCat("--index=", index),
                                          absl::StrCat("--connect_timeout=", connect_timeout),
                                          absl::StrCat("--log_file=", folder_.Join("log"))};
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_t pid = 0;
    EXPECT_EQ(::posix_spawn(&pid, argv[0], nullptr, nullptr, argv.data(), environ), 0);
    running_.insert(pid);
    return pid;
  }
  // The exit code, or minus the signal; the process is killed if it takes longer than a minute.
  int Wait(pid_t pid) {
    auto ended = std::async(std::launch::async, [pid] {
      int status = 0;
      ::waitpid(pid, &status, 0);
      return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    });
    if (ended.wait_for(std::chrono::minutes(1)) != std::future_status::ready) ::kill(pid, SIGKILL);
    running_.erase(pid);
    return ended.get();
  }
  // Blocks until `wanted` holds, which heartbeats and registrations change; false after a minute.
  bool WaitUntil(const std::function<bool()>& wanted) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const absl::Time deadline = absl::Now() + absl::Minutes(1);
    MutexLock lock(mutex_);
    while (!wanted()) {
      if (absl::Now() > deadline) return false;
      changed_.WaitFor(mutex_, absl::Seconds(1));
    }
    return true;
  }
  std::unique_ptr<transport::ScorerClient> ClientOf(const std::string& member) {
    EXPECT_TRUE(WaitUntil([&] { return addresses_.count(member) > 0; }))
        << member << " never registered";
    auto client = transport::ScorerClient::Create("safety");
    MutexLock lock(mutex_);
    client->SetEndpoints({addresses_[member]});
    return client;
  }
  std::string Log() { return ReadFile(folder_.Join("log")).value_or(""); }
  // A scorer that is told to end in the middle of an item leaves in time, and without a score.
  void ExpectEndsWhileItScores() {
    const pid_t pid = Start(0);
    const auto client = ClientOf("scorer-safety-0");
    auto scores = std::async(std::launch::async,
                             [&] { return client->Score({MakeItem("p", "c")}, absl::Minutes(5)); });
    ASSERT_TRUE(WaitUntil([&] { return states_["scorer-safety-0"] == "scoring"; }));
    ::kill(pid, SIGTERM);
    EXPECT_EQ(Wait(pid), 0) << Log();
    EXPECT_THAT(Log(), ::testing::Not(HasSubstr("left behind")));
    client->Cancel();
    EXPECT_NE(scores.get()[0].status(), proto::SCORED);
  }

  testing::TempDir folder_;
  testing::FakeLearner learner_;
  std::unique_ptr<transport::LearnerServer> server_;
  std::set<pid_t> running_;
  Mutex mutex_;
  CondVar changed_;
  proto::ScorerConfig config_;
  double member_timeout_ = 60;
  bool drain_ = false;
  std::map<std::string, std::string> addresses_, states_;
  std::string health_address_;
};

TEST_F(ScorerProcessTest, ServesFromTheFirstCallAndEndsWithTheRun) {
  const pid_t pid = Start(0);
  const auto client = ClientOf("scorer-safety-0");  // The model may still be loading: the client
                                                    // comes back until it is there.
  const auto scores = client->Score({MakeItem("p", "c"), MakeItem("p", "")}, absl::Minutes(1));
  ASSERT_EQ(scores.size(), 2);
  EXPECT_EQ(scores[0].status(), proto::SCORED) << scores[0].message();
  EXPECT_GT(scores[0].value(), 0);
  EXPECT_LT(scores[0].value(), 1);
  EXPECT_EQ(scores[1].status(), proto::REFUSED_INPUT);
  EXPECT_TRUE(client->Score({MakeItem("p", "c")}, absl::Minutes(1))[0].cached());
  EXPECT_THAT(health_address_, HasSubstr("127.0.0.1:"));
  {
    MutexLock lock(mutex_);
    drain_ = true;
  }
  EXPECT_EQ(Wait(pid), 0) << Log();
}

TEST_F(ScorerProcessTest, AGenerativeGuardAnswers) {
  ASSERT_TRUE(WriteParrotModel("ReSpOnsE:HarmFUl", folder_.Join("model")).ok());
  MakeGenerative();
  const pid_t pid = Start(0);
  const auto client = ClientOf("scorer-safety-0");
  const auto scores =
      client->Score({MakeItem("p", "c"), MakeItem("q", ""), MakeItem("q", std::string(600, 'x'))},
                    absl::Minutes(1));
  ASSERT_EQ(scores.size(), 3);
  EXPECT_EQ(scores[0].status(), proto::SCORED) << scores[0].message();
  EXPECT_EQ(scores[0].value(), 1);
  EXPECT_EQ(scores[1].status(), proto::REFUSED_INPUT);
  EXPECT_THAT(scores[2].message(), HasSubstr("tokens and its answer may have 24"));
  ::kill(pid, SIGTERM);
  EXPECT_EQ(Wait(pid), 0) << Log();
}

TEST_F(ScorerProcessTest, AGuardThatBabblesIsMalformedOutput) {
  MakeGenerative();
  config_.mutable_generative()->set_temperature(1);
  config_.mutable_generative()->set_num_samples(2);
  Start(0);
  const proto::Score score =
      ClientOf("scorer-safety-0")->Score({MakeItem("p", "c")}, absl::Minutes(1))[0];
  EXPECT_EQ(score.status(), proto::MALFORMED_OUTPUT);
  EXPECT_FALSE(score.has_value());
  EXPECT_THAT(score.message(), HasSubstr("none of 2 answers can be read; the first one: the answer "
                                         "has no line that begins with \"response:\""));
}

TEST_F(ScorerProcessTest, AJudgeBehindHttpGradesAndItsPageSaysWhatItCost) {
  using wideberth::testing::ChatServer;
  ChatServer judge({ChatServer::Says("", 500)},
                   ChatServer::Says(wideberth::testing::Completion("Grade: 3")));
  config_.Clear();
  config_.set_name("safety");
  config_.set_kind(proto::ScorerConfig::HTTP_JUDGE);
  config_.mutable_judge()->set_rubric("{prompt} {completion} Grade:");
  config_.mutable_http()->set_base_url(judge.url());
  config_.mutable_http()->set_model("judge-1");
  config_.mutable_http()->set_key_env("WIDEBERTH_TEST_KEY");
  config_.mutable_http()->set_dollars_per_million_prompt_tokens(1500);
  ::setenv("WIDEBERTH_TEST_KEY", "sk-secret", 1);
  const pid_t pid = Start(0);
  const auto client = ClientOf("scorer-safety-0");
  const proto::Score score = client->Score({MakeItem("p", "c")}, absl::Minutes(1))[0];
  ASSERT_EQ(score.status(), proto::SCORED) << score.message();
  EXPECT_EQ(score.value(), 3);
  EXPECT_EQ(judge.requests().at(1).get_header_value("Authorization"), "Bearer sk-secret");
  httplib::Client page("http://" + health_address_);
  const auto status = page.Get("/status.json");
  ASSERT_TRUE(status);
  std::map<std::string, std::string> facts;
  const auto json = nlohmann::json::parse(status->body);
  for (const auto& fact : json["facts"])
    facts[fact[0].get<std::string>()] = fact[1].get<std::string>();
  EXPECT_EQ(facts["requests"], "2 (1 of them again)");
  EXPECT_EQ(facts["tokens of questions"], "1000");
  EXPECT_EQ(facts["cost"], "$1.5000");
  ::kill(pid, SIGTERM);
  EXPECT_EQ(Wait(pid), 0) << Log();
  EXPECT_THAT(Log(), ::testing::Not(HasSubstr("sk-secret")));
}

TEST_F(ScorerProcessTest, ASignalEndsIt) {
  const pid_t pid = Start(0);
  const auto client = ClientOf("scorer-safety-0");
  EXPECT_EQ(client->Score({MakeItem("p", "c")}, absl::Minutes(1))[0].status(), proto::SCORED);
  ::kill(pid, SIGTERM);
  EXPECT_EQ(Wait(pid), 0) << Log();
}

TEST_F(ScorerProcessTest, BeforeItEndsItSaysSo) {
  const pid_t pid = Start(0);
  const auto client = ClientOf("scorer-safety-0");
  EXPECT_EQ(client->Score({MakeItem("p", "c")}, absl::Minutes(1))[0].status(), proto::SCORED);
  ::kill(pid, SIGTERM);
  EXPECT_TRUE(WaitUntil([&] { return states_["scorer-safety-0"] == "draining"; }));
  EXPECT_EQ(Wait(pid), 0) << Log();
}

// Its answer takes many times as long as the end may.
TEST_F(ScorerProcessTest, AGenerationUnderWayDoesNotHoldUpTheEnd) {
  MakeGenerative();
  config_.mutable_generative()->set_max_new_tokens(150);
  config_.mutable_generative()->set_temperature(1);
  config_.mutable_generative()->set_num_samples(5000);
  ExpectEndsWhileItScores();
}

// Nor does a judge's server that wants to be left alone for an hour.
TEST_F(ScorerProcessTest, AJudgesBackOffDoesNotHoldUpTheEnd) {
  using wideberth::testing::ChatServer;
  ChatServer judge(ChatServer::RetryAfter("3600"));
  config_.Clear();
  config_.set_name("safety");
  config_.set_kind(proto::ScorerConfig::HTTP_JUDGE);
  config_.set_timeout(36000);
  config_.mutable_judge()->set_rubric("{prompt} {completion} Grade:");
  config_.mutable_http()->set_base_url(judge.url());
  config_.mutable_http()->set_model("judge-1");
  ExpectEndsWhileItScores();
}

TEST_F(ScorerProcessTest, ItemsOfAScorerKilledMidBatchAreScoredByAnother) {
  config_.set_max_batch_wait_ms(1000 * 1000);  // The first never gets to it.
  const pid_t first = Start(0);
  const auto client = ClientOf("scorer-safety-0");
  auto scores = std::async(std::launch::async,
                           [&] { return client->Score({MakeItem("p", "c")}, absl::Minutes(1)); });
  ASSERT_TRUE(WaitUntil([&] { return states_["scorer-safety-0"] == "scoring"; }));
  {
    MutexLock lock(mutex_);
    config_.set_max_batch_wait_ms(0);
  }
  Start(1);
  ASSERT_TRUE(WaitUntil([&] { return addresses_.count("scorer-safety-1") > 0; }));
  {
    MutexLock lock(mutex_);
    client->SetEndpoints({addresses_["scorer-safety-1"]});
  }
  ::kill(first, SIGKILL);
  EXPECT_EQ(Wait(first), -SIGKILL);
  const auto answer = scores.get();
  EXPECT_EQ(answer[0].status(), proto::SCORED) << answer[0].message();
}

TEST_F(ScorerProcessTest, ALearnerThatIsGoneEndsItWithASentence) {
  member_timeout_ = 0.5;
  const pid_t pid = Start(0);
  const auto client = ClientOf("scorer-safety-0");
  EXPECT_EQ(client->Score({MakeItem("p", "c")}, absl::Minutes(1))[0].status(), proto::SCORED);
  server_->Shutdown(absl::ZeroDuration());
  EXPECT_EQ(Wait(pid), 1);
  EXPECT_THAT(Log(), HasSubstr("scorer-safety-0 has had no answer from the learner for "));
}

TEST_F(ScorerProcessTest, ALearnerThatIsNotThereIsNamed) {
  server_->Shutdown(absl::ZeroDuration());
  EXPECT_EQ(Wait(Start(0, "safety", "1s")), 1);
  EXPECT_THAT(Log(), HasSubstr(server_->address()));
}

TEST_F(ScorerProcessTest, AModelThatCannotBeLoadedIsNamed) {
  config_.mutable_model()->set_path(folder_.Join("absent"));
  EXPECT_EQ(Wait(Start(0)), 2) << "no use in starting it again";
  EXPECT_THAT(Log(), HasSubstr("scorer \"safety\": "));
  EXPECT_THAT(Log(), HasSubstr(folder_.Join("absent")));
}

TEST_F(ScorerProcessTest, AnUnknownScorerIsNamedWithThoseThatExist) {
  EXPECT_EQ(Wait(Start(0, "saftey")), 2);
  EXPECT_THAT(Log(), HasSubstr("the run has no scorer named \"saftey\", it has: safety"));
}

}  // namespace
}  // namespace wideberth::scorer
