// SPDX-License-Identifier: Apache-2.0
#include "launch/local_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/testing/paths.h"

namespace wideberth::launch {
namespace {

using ::testing::HasSubstr;

// Shell scripts stand in for the roles. A member's script finds the learner's address in "$1", as
// `--learner=...` comes last.
class LocalRunTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(MakeDirectories(folder_.Join("logs")).ok()); }

  void Add(const std::string& role, const std::string& name, const std::string& script) {
    PlacedProcess process;
    process.role = role;
    process.name = name;
    process.spec.name = name;
    process.spec.argv = {"/bin/sh", "-c", script, name};
    process.spec.environment = {{"DIR", folder_.path()}};
    process.spec.output_path = LogFile(folder_.path(), name);
    process.spec.restart = role != "learner";
    processes_.push_back(process);
  }

  void Start(bool learner_serves = true) {
    LocalRun::Options options;
    options.learner_serves = learner_serves;
    options.run_dir = folder_.path();
    options.supervisor.set_max_restarts(2);
    options.supervisor.set_restart_backoff(1e-3);
    run_.emplace(options, processes_, clock_);
    ASSERT_TRUE(run_->Start().ok());
  }

  RunResult UntilEnd() {
    for (int i = 0; i < 20000; ++i) {
      if (auto result = run_->Tick()) return *result;
      clock_.Advance(absl::Milliseconds(20));
      ::poll(nullptr, 0, 1);
    }
    return {RunEnd::kKilled, false, "it never ended", ""};
  }
  void UntilServing() {
    for (int i = 0; i < 20000 && run_->learner_address().empty(); ++i) {
      ASSERT_FALSE(run_->Tick());
      ::poll(nullptr, 0, 1);
    }
    ASSERT_FALSE(run_->learner_address().empty());
  }
  void UntilLogged(const std::string& name, const std::string& text) {
    for (int i = 0; i < 20000; ++i) {
      if (ReadFile(LogFile(folder_.path(), name)).value_or("").find(text) != std::string::npos)
        return;
      ASSERT_FALSE(run_->Tick());
      ::poll(nullptr, 0, 1);
    }
    FAIL() << name << " never said " << text;
  }

  const std::string serve_ = "echo 127.0.0.1:4711 > $DIR/learner.address; ";
  testing::TempDir folder_;
  FakeClock clock_;
  std::vector<PlacedProcess> processes_;
  absl::optional<LocalRun> run_;
};

TEST_F(LocalRunTest, EndsWhenTheLearnerEndsAndTellsMembersItsAddress) {
  Add("learner", "learner-0", serve_ + "while [ ! -e $DIR/worked ]; do sleep 0.01; done");
  Add("actor", "actor-0", "echo told $1; touch $DIR/worked");
  Start();
  const RunResult result = UntilEnd();
  EXPECT_EQ(result.end, RunEnd::kDone) << result.sentence;
  EXPECT_EQ(run_->learner_address(), "127.0.0.1:4711");
  EXPECT_EQ(ReadFile(LogFile(folder_.path(), "actor-0")).value_or(""),
            "told --learner=127.0.0.1:4711\n");
}

TEST_F(LocalRunTest, ALearnerOnItsOwnServesNobodyAndMayTakeItsTime) {
  Add("learner", "learner-0", "echo training; while [ ! -e $DIR/done ]; do sleep 0.01; done");
  Start(/*learner_serves=*/false);
  UntilLogged("learner-0", "training");
  clock_.Advance(absl::Hours(5));
  ASSERT_FALSE(run_->Tick());
  ASSERT_TRUE(WriteFileAtomically(folder_.Join("done"), "").ok());
  const RunResult result = UntilEnd();
  EXPECT_EQ(result.end, RunEnd::kDone) << result.sentence;
}

TEST_F(LocalRunTest, AMemberThatStaysIsAskedAndThenKilled) {
  Add("learner", "learner-0", serve_ + "while [ ! -e $DIR/worked ]; do sleep 0.01; done");
  Add("actor", "actor-0",
      "trap 'echo asked' TERM; touch $DIR/worked; while :; do sleep 0.01; done");
  Start();
  const RunResult result = UntilEnd();
  EXPECT_EQ(result.end, RunEnd::kKilled);
  EXPECT_EQ(result.sentence,
            "actor-0 did not end within supervisor.drain_timeout = 45 s and was killed");
  EXPECT_THAT(ReadFile(LogFile(folder_.path(), "actor-0")).value_or(""), HasSubstr("asked"));
}

TEST_F(LocalRunTest, ALearnerThatDiesEndsTheRunWithItsOwnSentence) {
  Add("learner", "learner-0",
      serve_ +
          "while [ ! -e $DIR/worked ]; do sleep 0.01; done; "
          "echo '2026-01-31T12:00:00.123Z E learner-0] the disk is full' >&2; exit 1");
  Add("actor", "actor-0", "touch $DIR/worked; exec sleep 1000");
  Start();
  const RunResult result = UntilEnd();
  EXPECT_EQ(result.end, RunEnd::kLearnerFailed);
  EXPECT_EQ(result.sentence, "learner-0 ended (exit code 1): the disk is full");
}

TEST_F(LocalRunTest, ALearnerThatNeverServesEndsTheRun) {
  Add("learner", "learner-0", "echo '2026-01-31T12:00:00.123Z E learner-0] no such model'; exit 2");
  Add("actor", "actor-0", "touch $DIR/started");
  Start();
  const RunResult result = UntilEnd();
  EXPECT_EQ(result.end, RunEnd::kBadInput);
  EXPECT_EQ(result.sentence, "learner-0 ended (exit code 2): no such model");
  EXPECT_FALSE(ReadFile(folder_.Join("started")).ok());
}

TEST_F(LocalRunTest, AScorerThatDiesTooOftenEndsTheRunAndTheLearnerMaySave) {
  Add("learner", "learner-0",
      "trap 'echo saved; exit 0' TERM; " + serve_ + "while :; do sleep 0.01; done");
  Add("scorer", "scorer-safety-0", "kill -9 $$");
  Start();
  const RunResult result = UntilEnd();
  EXPECT_EQ(result.end, RunEnd::kScorerFailed);
  EXPECT_THAT(
      result.sentence,
      HasSubstr(
          "scorer-safety-0 ended (killed by signal 9 (Killed)) and was started 3 times already"));
  EXPECT_THAT(ReadFile(LogFile(folder_.path(), "learner-0")).value_or(""), HasSubstr("saved\n"));
}

TEST_F(LocalRunTest, ARankThatDiesEndsTheRunWithWhatRankZeroSaysOfIt) {
  Add("learner", "learner-0",
      serve_ +
          "while [ ! -e $DIR/died ]; do sleep 0.01; done; "
          "echo '2026-01-31T12:00:00.123Z E learner-0] learner rank 1 is gone' >&2; exit 1");
  Add("learner", "learner-1", "touch $DIR/died; kill -9 $$");
  Start();
  const RunResult result = UntilEnd();
  EXPECT_EQ(result.end, RunEnd::kLearnerFailed);
  EXPECT_EQ(result.sentence, "learner-0 ended (exit code 1): learner rank 1 is gone");
}

TEST_F(LocalRunTest, ARankThatDiesUnnoticedEndsTheRunWithItsOwnSentence) {
  Add("learner", "learner-0",
      "trap 'echo saved; exit 0' TERM; " + serve_ + "while :; do sleep 0.01; done");
  Add("learner", "learner-1",
      "echo '2026-01-31T12:00:00.123Z E learner-1] no such model' >&2; exit 2");
  Start();
  const RunResult result = UntilEnd();
  EXPECT_EQ(result.end, RunEnd::kLearnerFailed);
  EXPECT_EQ(result.failed, "learner-1");
  EXPECT_EQ(result.sentence, "learner-1 ended (exit code 2): no such model");
  EXPECT_THAT(ReadFile(LogFile(folder_.path(), "learner-0")).value_or(""), HasSubstr("saved\n"));
}

TEST_F(LocalRunTest, OneSignalDrainsThroughTheLearner) {
  Add("learner", "learner-0",
      "trap 'touch $DIR/over; exit 0' TERM; " + serve_ + "while :; do sleep 0.01; done");
  Add("actor", "actor-0", "echo ready; while [ ! -e $DIR/over ]; do sleep 0.01; done");
  Start();
  UntilServing();
  UntilLogged("actor-0", "ready");
  run_->NoteSignal();
  EXPECT_TRUE(run_->draining());
  const RunResult result = UntilEnd();
  EXPECT_EQ(result.end, RunEnd::kDone) << result.sentence;
  EXPECT_TRUE(result.interrupted);
}

TEST_F(LocalRunTest, ASecondSignalKills) {
  Add("learner", "learner-0",
      "trap '' TERM; echo ready; " + serve_ + "while :; do sleep 0.01; done");
  Start();
  UntilServing();
  run_->NoteSignal();
  for (int i = 0; i < 20; ++i) ASSERT_FALSE(run_->Tick());
  run_->NoteSignal();
  const RunResult result = UntilEnd();
  EXPECT_EQ(result.end, RunEnd::kKilled);
  EXPECT_THAT(result.sentence, HasSubstr("second signal"));
}

TEST(LastErrorTest, IsTheTextOfTheNewestErrorLine) {
  testing::TempDir folder;
  ASSERT_TRUE(WriteFileAtomically(folder.Join("log"),
                                  "2026-01-31T12:00:00.123Z E learner-0] first: [a] b\n"
                                  "2026-01-31T12:00:00.123Z I learner-0] later\n")
                  .ok());
  EXPECT_EQ(LastErrorOf(folder.Join("log")), "first: [a] b");
}

}  // namespace
}  // namespace wideberth::launch
