// SPDX-License-Identifier: Apache-2.0
// Faults, injected into runs of real processes on loopback: whatever happens, no group is lost or
// counted twice, nothing unscored is used as a number, every wait ends, everybody leaves, and the
// adapter is that of a run which nobody disturbed, bit for bit (learner.deterministic).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <random>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "tests/faults/cast.h"
#include "tests/learner/test_actor.h"
#include "tests/testing/tiny_model.h"
#include "transport/learner_client.h"

namespace wideberth {
namespace {

using testing::Cast;
using ::testing::ContainsRegex;
using testing::Eventually;
using testing::Execute;
using testing::ExpectNothingLostOrCountedTwice;
using testing::Finished;
using ::testing::HasSubstr;
using ::testing::Matches;
using testing::PrepareForFaults;
using testing::Process;
using testing::TinyRun;

constexpr int kSteps = 30;

// WIDEBERTH_FAULT_SEED gives another sequence of faults; a failure prints the one it had.
uint64_t Seed() {
  uint64_t seed = 20260;
  if (const char* const given = std::getenv("WIDEBERTH_FAULT_SEED"); given != nullptr)
    EXPECT_TRUE(absl::SimpleAtoi(given, &seed)) << "WIDEBERTH_FAULT_SEED is " << given;
  return seed;
}

// A model whose every score is no number.
void WriteNaNModel(const std::string& folder) {
  ASSERT_TRUE(testing::WriteTinyModel("llama", folder).ok());
  std::vector<testing::TinyTensor> tensors = testing::TinyModelTensors("llama");
  for (testing::TinyTensor& tensor : tensors) {
    if (tensor.name == "model.norm.weight")
      std::fill(tensor.data.begin(), tensor.data.end(), std::nanf(""));
  }
  ASSERT_TRUE(testing::WriteSafetensors(tensors, folder + "/model.safetensors").ok());
}

void Prepare(const TinyRun& run) {
  PrepareForFaults(
      run, absl::StrCat("max_steps: ", kSteps, "\n  deterministic: true\n  checkpoint_every: 3"));
}

// The adapter of the run that nobody disturbs.
const std::string& Undisturbed() {
  static const std::string* const adapter = [] {
    const TinyRun run;
    Prepare(run);
    const Finished finished = Execute(run.Command());
    EXPECT_EQ(finished.code, 0) << finished.err;
    return new std::string(run.File("adapter/adapter_model.safetensors"));
  }();
  return *adapter;
}

class FaultsTest : public ::testing::Test {
 protected:
  FaultsTest() : random_(Seed()) {
    Prepare(run_);
    options_.seed = Seed();
  }
  void TearDown() override {
    if (HasFailure() && cast_ != nullptr)
      std::cerr << "WIDEBERTH_FAULT_SEED=" << Seed() << "\n" << cast_->AllLogs();
  }

  void Begin() {
    cast_ = std::make_unique<Cast>(&run_, options_);
    cast_->Start();
  }
  double Between(double least, double most) {
    return std::uniform_real_distribution<double>(least, most)(random_);
  }
  // Looks after the cast for so long; false where the run ended meanwhile.
  bool Pass(double seconds) {
    const absl::Time until = absl::Now() + absl::Seconds(seconds);
    while (absl::Now() < until) {
      cast_->Tend();
      if (!cast_->Running("learner-0") && run_.Metrics().size() >= kSteps) return false;
      ::poll(nullptr, 0, 10);
    }
    return run_.Metrics().size() < kSteps;
  }
  bool PassUntilStep(size_t step) {
    return Eventually([&] {
      cast_->Tend();
      return run_.Metrics().size() >= step;
    });
  }
  void ExpectTheRightEnd() {
    ASSERT_EQ(cast_->WaitForEnd(), 0);
    EXPECT_TRUE(cast_->everybody_left()) << "not everybody left within 15 s";
    ExpectNothingLostOrCountedTwice(run_, kSteps);
    EXPECT_TRUE(run_.File("adapter/adapter_model.safetensors") == Undisturbed())
        << "another adapter than that of the undisturbed run";
  }

  TinyRun run_;
  Cast::Options options_;
  std::mt19937_64 random_;
  std::unique_ptr<Cast> cast_;
};

// ---- processes that die or stand still ----

class KilledTest : public FaultsTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(KilledTest, AtRandomPointsTheRunGoesOnAndEveryoneIsBackWithinTenSeconds) {
  const std::string name = GetParam();
  Begin();
  int kills = 0;
  while (kills < 4 && Pass(Between(0.1, 0.8))) {
    cast_->Signal(name, SIGKILL);
    ++kills;
    const int starts = cast_->num_starts(name);
    const absl::Time killed = absl::Now();
    const size_t logged = cast_->Log(name).size();
    const char* const back = name == "learner-0" ? " serves at " : "";
    ASSERT_TRUE(Eventually([&] {
      cast_->Tend();
      return cast_->num_starts(name) > starts &&
             cast_->Log(name).find(back, logged) != std::string::npos;
    }));
    EXPECT_LT(absl::Now() - killed, absl::Seconds(10));
  }
  EXPECT_GE(kills, 1);
  ExpectTheRightEnd();
}

TEST_P(KilledTest, StoppedForAWhileItIsNotWaitedForForEver) {
  const std::string name = GetParam();
  options_.num_actors = 2;
  Begin();
  for (int i = 0; i < 2 && Pass(Between(0.2, 0.8)); ++i) {
    cast_->Signal(name, SIGSTOP);
    Pass(Between(1, 6));
    cast_->Signal(name, SIGCONT);
  }
  ExpectTheRightEnd();
}

INSTANTIATE_TEST_SUITE_P(EveryRole, KilledTest,
                         ::testing::Values("actor-0", "scorer-safety-0", "learner-0"));

TEST_F(FaultsTest, ALearnerIsKilledWhileThreeActorsGenerate) {
  options_.num_actors = 3;
  Begin();
  for (const size_t step : {5, 10, 20}) {
    ASSERT_TRUE(PassUntilStep(step));
    cast_->Signal("learner-0", SIGKILL);
  }
  ExpectTheRightEnd();
  EXPECT_EQ(cast_->num_starts("learner-0"), 4);
  EXPECT_EQ(cast_->num_starts("actor-0"), 1) << "actors wait for the learner, they do not end";
}

// ---- the network ----

TEST_F(FaultsTest, DelayAndLossOnEveryLinkCostTimeOnly) {
  options_.num_actors = 2;
  Begin();
  for (const std::string& name : cast_->names()) {
    if (name == "learner-0") continue;
    cast_->proxy(name).SetDelay(absl::Milliseconds(5));
    cast_->proxy(name).SetLoss(0.02);
  }
  ExpectTheRightEnd();
}

TEST_F(FaultsTest, AHalfOpenConnectionCostsTheLeasesOfOneActorForTheirTime) {
  options_.num_actors = 2;
  Begin();
  ASSERT_TRUE(PassUntilStep(3));
  constexpr char kLost[] = "actor-0 on [^ ]+ has not been heard of for 4 s and counts as lost";
  cast_->proxy("actor-0").Freeze(true);
  // The other one would be done before anybody misses the first.
  cast_->Signal("actor-1", SIGSTOP);
  ASSERT_TRUE(Eventually([&] { return Matches(ContainsRegex(kLost))(cast_->Log("learner-0")); }));
  cast_->Signal("actor-1", SIGCONT);
  ASSERT_TRUE(PassUntilStep(12)) << "the other actor has its groups";
  cast_->proxy("actor-0").Freeze(false);
  ExpectTheRightEnd();
  EXPECT_THAT(cast_->Log("learner-0"), ContainsRegex(kLost));
}

TEST_F(FaultsTest, ConnectionsThatBreakAtAnyByteAreMadeAgain) {
  Begin();
  // Every version is some 20 kB: most breaks are in the middle of its stream.
  for (int i = 0; i < 12 && Pass(Between(0.05, 0.3)); ++i)
    cast_->proxy("actor-0").CutAfter(static_cast<int64_t>(Between(0, 30000)));
  ExpectTheRightEnd();
  EXPECT_GE(cast_->proxy("actor-0").num_cuts(), 1);
  EXPECT_EQ(cast_->num_starts("actor-0"), 1);
}

// ---- what is wrong with one of them ----

// What an actor needs for a clock that is off; a sanitizer wants to be loaded first otherwise.
std::vector<std::string> Skewed(absl::Duration by) {
  return {absl::StrCat("WIDEBERTH_SKEW_SECONDS=", absl::ToInt64Seconds(by)),
          "ASAN_OPTIONS=verify_asan_link_order=0",
          absl::StrCat("LD_PRELOAD=", testing::BinaryPath("libskewed_clock.so"))};
}
std::string Date(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT", time, absl::UTCTimeZone());
}

TEST_F(FaultsTest, AnActorWhoseClockIsTwoDaysAheadWorksAsAnyOther) {
  options_.environment["actor-0"] = Skewed(absl::Hours(48));
  const absl::Time began = absl::Now();
  Begin();
  ExpectTheRightEnd();
  EXPECT_THAT(cast_->Log("actor-0"), HasSubstr(Date(began + absl::Hours(48))));
}

TEST_F(FaultsTest, AnActorWhoseClockIsTwoDaysBehindWorksAsAnyOther) {
  options_.environment["actor-0"] = Skewed(-absl::Hours(48));
  const absl::Time began = absl::Now();
  Begin();
  ExpectTheRightEnd();
  EXPECT_THAT(cast_->Log("actor-0"), HasSubstr(Date(began - absl::Hours(48))));
}

TEST_F(FaultsTest, AScorerThatHasFitsOfSlownessCostsNoScore) {
  Begin();
  while (Pass(Between(0.05, 0.2)) && run_.Metrics().size() < kSteps - 2) {
    cast_->Signal("scorer-safety-0", SIGSTOP);
    Pass(Between(0.1, 0.5));
    cast_->Signal("scorer-safety-0", SIGCONT);
  }
  ExpectTheRightEnd();
}

TEST_F(FaultsTest, AScorerOfNaNsGivesNoNumberAndTheRunSaysWhy) {
  WriteNaNModel(run_.Join("nan"));
  run_.Replace(absl::StrCat("name: \"safety\"\n  model { path: \"", run_.Join("model"), "\" }"),
               absl::StrCat("name: \"safety\"\n  model { path: \"", run_.Join("nan"), "\" }"));
  run_.Replace("learner {", "learner {\n  step_timeout: 3");
  cast_ = std::make_unique<Cast>(&run_, options_);
  cast_->Start();
  ASSERT_TRUE(Eventually([&] { return !cast_->Running("learner-0"); }));
  EXPECT_THAT(cast_->Log("learner-0"), HasSubstr("MALFORMED_OUTPUT"));
  EXPECT_TRUE(run_.Metrics().empty()) << "nothing was trained on";
  EXPECT_THAT(run_.File("summary.json"), HasSubstr("\"failed\""));
}

TEST_F(FaultsTest, AFullDiskEndsTheLearnerWithItsSentenceAndNothingAcknowledgedIsLost) {
  // No file may grow past 96 kB, as a disk that is full there.
  options_.learner_prefix = "ulimit -f 96;";
  Begin();
  ASSERT_TRUE(Eventually([&] { return !cast_->Running("learner-0"); }));
  const size_t steps = run_.Metrics().size();
  EXPECT_LT(steps, static_cast<size_t>(kSteps));
  EXPECT_THAT(cast_->Log("learner-0"), HasSubstr("run.db"));
  EXPECT_EQ(cast_->WaitForEnd(), 1) << "a run that cannot write ends, and tells everybody";
  EXPECT_TRUE(cast_->everybody_left());
  // Where there is room again it goes on.
  options_.learner_prefix.clear();
  options_.resume = true;
  Begin();
  ExpectTheRightEnd();
}

TEST_F(FaultsTest, ASecondLearnerOnTheSameFolderIsRefusedAndChangesNothing) {
  Begin();
  ASSERT_TRUE(PassUntilStep(2));
  for (const char* how : {"--restarted", "--resume"}) {
    const Finished second = Execute({"wideberth-learner", "--config=" + run_.config(),
                                     "--run_dir=" + run_.run_dir(), how, "--address=127.0.0.1:0"});
    EXPECT_EQ(second.code, 2) << how << second.err;
    EXPECT_THAT(second.err, HasSubstr(run_.run_dir())) << how;
  }
  ExpectTheRightEnd();
}

// ---- submissions ----

// A learner that is another process, as a handler.
class RemoteLearner final : public transport::LearnerHandler {
 public:
  explicit RemoteLearner(transport::LearnerClient* client) : client_(*client) {}
  absl::StatusOr<proto::RegisterResponse> Register(const proto::RegisterRequest& r) override {
    return client_.Register(r);
  }
  absl::StatusOr<proto::HeartbeatResponse> Heartbeat(const proto::HeartbeatRequest& r) override {
    return client_.Heartbeat(r);
  }
  absl::StatusOr<proto::LeasePromptsResponse> LeasePrompts(
      const proto::LeasePromptsRequest& r) override {
    return client_.LeasePrompts(r);
  }
  absl::StatusOr<proto::SubmitGroupResponse> SubmitGroup(
      const proto::SubmitGroupRequest& r) override {
    return client_.SubmitGroup(r);
  }
  absl::StatusOr<proto::AcknowledgeAdapterResponse> AcknowledgeAdapter(
      const proto::AcknowledgeAdapterRequest& r) override {
    return client_.AcknowledgeAdapter(r);
  }
  absl::StatusOr<std::shared_ptr<const transport::AdapterBlob>> NewestAdapter(
      const proto::FetchAdapterRequest& r) override {
    return client_.FetchAdapter(r);
  }

 private:
  transport::LearnerClient& client_;
};

TEST_F(FaultsTest, SubmissionsThatComeTwiceAndInAnotherOrderCountOnce) {
  options_.num_actors = 0;
  Begin();
  const auto client = transport::LearnerClient::Connect(cast_->proxy("scorer-safety-0").address(),
                                                        absl::Seconds(10));
  ASSERT_TRUE(client.ok()) << client.status();
  RemoteLearner learner(client->get());
  learner::TestActor actor(&learner, "actor-0", run_.Join("model"));
  actor.utility = "helpfulness";
  actor.twice = true;
  actor.last_first = true;
  ASSERT_TRUE(actor.Run().ok());
  ASSERT_EQ(cast_->WaitForEnd(), 0);
  ExpectNothingLostOrCountedTwice(run_, kSteps);
  int accepted = 0, duplicates = 0;
  for (const proto::SubmitGroupResponse& response : actor.responses) {
    accepted += response.outcome() == proto::SubmitGroupResponse::ACCEPTED;
    duplicates += response.outcome() != proto::SubmitGroupResponse::ACCEPTED;
  }
  EXPECT_EQ(accepted, 2 * kSteps);
  EXPECT_EQ(duplicates, 2 * kSteps);
}

}  // namespace
}  // namespace wideberth
