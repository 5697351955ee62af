// SPDX-License-Identifier: Apache-2.0
#include "launch/supervisor.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "tests/testing/paths.h"

namespace wideberth::launch {
namespace {

class SupervisorTest : public ::testing::Test {
 protected:
  ProcessSpec Shell(const std::string& name, const std::string& script) {
    ProcessSpec spec;
    spec.name = name;
    spec.argv = {"/bin/sh", "-c", script};
    spec.output_path = folder_.Join(name + ".log");
    return spec;
  }

  // Polls until `done`; poll(2) without descriptors only yields the core, what is waited for is the
  // child's own doing.
  absl::Status PollUntil(Supervisor& supervisor, const std::function<bool()>& done) {
    for (int i = 0; i < 20000; ++i) {
      if (absl::Status status = supervisor.Poll(); !status.ok()) return status;
      if (done()) return absl::OkStatus();
      ::poll(nullptr, 0, 1);
    }
    return absl::DeadlineExceededError("the children never got there");
  }

  // Gone, or a zombie that its new parent has yet to reap.
  static bool GoesAway(pid_t pid) {
    for (int i = 0; i < 20000; ++i) {
      if (ReadFile(absl::StrCat("/proc/", pid, "/stat")).value_or("gone) Z").find(") Z") !=
          std::string::npos)
        return true;
      ::poll(nullptr, 0, 1);
    }
    return false;
  }

  std::string Log(const std::string& name) {
    return ReadFile(folder_.Join(name + ".log")).value_or("");
  }

  testing::TempDir folder_;
  FakeClock clock_;
};

TEST_F(SupervisorTest, WritesOutputToTheLogAndPassesTheEnvironment) {
  Supervisor supervisor({}, clock_);
  ProcessSpec spec = Shell("child", "echo out $COLOUR; echo err >&2");
  spec.environment = {{"COLOUR", "teal"}};
  ASSERT_TRUE(supervisor.Start(spec).ok());
  ASSERT_TRUE(PollUntil(supervisor, [&] { return !supervisor.Running("child"); }).ok());
  EXPECT_EQ(Log("child"), "out teal\nerr\n");
  ASSERT_TRUE(supervisor.last_exit("child"));
  EXPECT_TRUE(supervisor.last_exit("child")->ok());
  EXPECT_EQ(supervisor.num_restarts("child"), 0);
}

TEST_F(SupervisorTest, StartsAgainAfterDeathButNotBeforeTheBackOffHasPassed) {
  Supervisor supervisor({.max_restarts = 3, .first_backoff = absl::Seconds(10)}, clock_);
  ASSERT_TRUE(supervisor.Start(Shell("child", "echo life; kill -9 $$")).ok());
  ASSERT_TRUE(PollUntil(supervisor, [&] { return !supervisor.pid("child"); }).ok());
  EXPECT_EQ(supervisor.last_exit("child")->signal, SIGKILL);
  clock_.Advance(absl::Milliseconds(9999));
  ASSERT_TRUE(supervisor.Poll().ok());
  EXPECT_FALSE(supervisor.pid("child"));
  EXPECT_TRUE(supervisor.Running("child"));
  clock_.Advance(absl::Milliseconds(1));
  ASSERT_TRUE(supervisor.Poll().ok());
  EXPECT_TRUE(supervisor.pid("child"));
  EXPECT_EQ(supervisor.num_restarts("child"), 1);
  // The second death waits twice as long.
  ASSERT_TRUE(PollUntil(supervisor, [&] { return !supervisor.pid("child"); }).ok());
  clock_.Advance(absl::Milliseconds(19999));
  ASSERT_TRUE(supervisor.Poll().ok());
  EXPECT_FALSE(supervisor.pid("child"));
  clock_.Advance(absl::Milliseconds(1));
  ASSERT_TRUE(supervisor.Poll().ok());
  EXPECT_TRUE(supervisor.pid("child"));
}

TEST_F(SupervisorTest, GivesUpOnAProcessThatDiesTooOften) {
  Supervisor supervisor({.max_restarts = 2, .first_backoff = absl::ZeroDuration()}, clock_);
  ASSERT_TRUE(supervisor.Start(Shell("actor-0", "exit 3")).ok());
  const absl::Status status = PollUntil(supervisor, [&] { return false; });
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
  EXPECT_EQ(status.message(),
            "actor-0 ended (exit code 3) and was started 3 times already, which is all that "
            "supervisor.max_restarts = 2 allows");
  EXPECT_EQ(supervisor.failed(), "actor-0");
}

TEST_F(SupervisorTest, DoesNotRestartWhatSaysThatItsInputIsBad) {
  Supervisor supervisor({.first_backoff = absl::ZeroDuration()}, clock_);
  ASSERT_TRUE(supervisor.Start(Shell("scorer-0", "exit 2")).ok());
  EXPECT_EQ(PollUntil(supervisor, [&] { return false; }).message(), "scorer-0 ended (exit code 2)");
  EXPECT_EQ(supervisor.failed(), "scorer-0");
  EXPECT_EQ(supervisor.num_restarts("scorer-0"), 0);
}

TEST_F(SupervisorTest, LeavesACleanExitAndAProcessThatIsNotToBeRestartedAlone) {
  Supervisor supervisor({.first_backoff = absl::ZeroDuration()}, clock_);
  ProcessSpec learner = Shell("learner-0", "exit 4");
  learner.restart = false;
  ASSERT_TRUE(supervisor.Start(learner).ok());
  ASSERT_TRUE(supervisor.Start(Shell("actor-0", "exit 0")).ok());
  ASSERT_TRUE(PollUntil(supervisor, [&] { return supervisor.num_alive() == 0; }).ok());
  ASSERT_TRUE(supervisor.Poll().ok());
  EXPECT_FALSE(supervisor.Running("learner-0"));
  EXPECT_FALSE(supervisor.Running("actor-0"));
  EXPECT_EQ(supervisor.last_exit("learner-0")->code, 4);
}

TEST_F(SupervisorTest, KillsWhatIgnoresTermWhenItGoes) {
  pid_t child = -1;
  {
    Supervisor supervisor({}, clock_);
    ASSERT_TRUE(
        supervisor.Start(Shell("stubborn", "trap '' TERM; echo ready; while :; do sleep 1; done"))
            .ok());
    child = *supervisor.pid("stubborn");
    ASSERT_TRUE(PollUntil(supervisor, [&] { return Log("stubborn") == "ready\n"; }).ok());
    supervisor.StopRestarting();
    supervisor.SignalAll(SIGTERM);
    ASSERT_TRUE(supervisor.Poll().ok());
    EXPECT_EQ(supervisor.num_alive(), 1);
  }
  EXPECT_EQ(::kill(child, 0), -1);
}

TEST_F(SupervisorTest, SignalsReachTheChildrenOfAChild) {
  Supervisor supervisor({}, clock_);
  ASSERT_TRUE(supervisor.Start(Shell("parent", "sleep 1000 & echo $!; wait")).ok());
  ASSERT_TRUE(PollUntil(supervisor, [&] { return !Log("parent").empty(); }).ok());
  int grandchild = 0;
  ASSERT_TRUE(absl::SimpleAtoi(Log("parent"), &grandchild));
  supervisor.StopRestarting();
  supervisor.SignalAll(SIGTERM);
  ASSERT_TRUE(PollUntil(supervisor, [&] { return supervisor.num_alive() == 0; }).ok());
  EXPECT_TRUE(GoesAway(grandchild));
}

TEST_F(SupervisorTest, NothingOutlivesASupervisorThatIsKilled) {
  int pipe_fds[2];
  ASSERT_EQ(::pipe(pipe_fds), 0);
  const pid_t supervising = ::fork();
  if (supervising == 0) {
    Supervisor supervisor({}, clock_);
    pid_t child =
        supervisor.Start(Shell("child", "sleep 1000")).ok() ? *supervisor.pid("child") : -1;
    (void)!::write(pipe_fds[1], &child, sizeof(child));
    while (true) ::pause();
  }
  pid_t child = -1;
  ASSERT_EQ(::read(pipe_fds[0], &child, sizeof(child)), static_cast<ssize_t>(sizeof(child)));
  ASSERT_GT(child, 0);
  ::kill(supervising, SIGKILL);
  ::waitpid(supervising, nullptr, 0);
  EXPECT_TRUE(GoesAway(child));
  ::close(pipe_fds[0]);
  ::close(pipe_fds[1]);
}

TEST_F(SupervisorTest, SaysWhichProgramCannotBeStarted) {
  Supervisor supervisor({}, clock_);
  ProcessSpec spec = Shell("actor-0", "");
  spec.argv = {"/nowhere/wideberth-actor"};
  const absl::Status status = supervisor.Start(spec);
  EXPECT_EQ(status.message(),
            "actor-0: cannot start /nowhere/wideberth-actor: No such file or directory");
  EXPECT_EQ(supervisor.num_alive(), 0);
  EXPECT_EQ(supervisor.Start(spec).code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(SupervisorTest, LastLinesAreTheLastOnes) {
  const std::string path = folder_.Join("log");
  ASSERT_TRUE(WriteFileAtomically(path, "one\ntwo\nthree\n\n").ok());
  EXPECT_EQ(LastLines(path, 2), "two\nthree");
  EXPECT_EQ(LastLines(path, 9), "one\ntwo\nthree");
  EXPECT_EQ(LastLines(folder_.Join("absent"), 2), "");
}

}  // namespace
}  // namespace wideberth::launch
