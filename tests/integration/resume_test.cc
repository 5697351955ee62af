// SPDX-License-Identifier: Apache-2.0
// A run that is cut off anywhere and goes on is the run that was not cut off: the same adapter, bit
// for bit. Real processes of a tiny model, learner.deterministic.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "tests/integration/tiny_run.h"

namespace wideberth {
namespace {

using nlohmann::json;
using testing::Eventually;
using testing::Execute;
using testing::Finished;
using ::testing::HasSubstr;
using testing::NoProcessLeft;
using testing::Process;
using testing::TinyRun;

constexpr char kAdapter[] = "/adapter/adapter_model.safetensors";

// Deterministic, with a checkpoint every third step and statistics that a resume has to keep.
void MakeDeterministic(const TinyRun& run, int max_steps) {
  run.Replace("max_steps: 3", absl::StrCat("max_steps: ", max_steps,
                                           "\n  deterministic: true\n  checkpoint_every: 3"));
  run.Replace("utility_normalization: GROUP_ZSCORE", "utility_normalization: RUNNING_ZSCORE");
}

std::string AdapterOf(const std::string& run_dir) {
  return ReadFile(run_dir + kAdapter).value_or("");
}

// The run that nobody disturbs, in a folder of its own.
std::string Uninterrupted(const TinyRun& run) {
  const std::string folder = run.Join("undisturbed");
  const Finished finished =
      Execute({"wideberth", "run", "--config=" + run.config(), "--run_dir=" + folder});
  EXPECT_EQ(finished.code, 0) << finished.err;
  const std::string adapter = AdapterOf(folder);
  EXPECT_FALSE(adapter.empty());
  return adapter;
}

std::vector<std::string> Resume(const TinyRun& run, const std::vector<std::string>& more = {}) {
  std::vector<std::string> command = {"wideberth", "run", "--resume=" + run.run_dir()};
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

// Every step once, in order, however often the learner died.
void ExpectWholeMetrics(const TinyRun& run, size_t steps) {
  const std::vector<json> metrics = run.Metrics();
  ASSERT_EQ(metrics.size(), steps);
  for (size_t i = 0; i < steps; ++i) EXPECT_EQ(metrics[i]["step"].get<size_t>(), i + 1);
}

TEST(ResumeTest, ASupervisedLearnerThatIsKilledGoesOnInTheSameRun) {
  const TinyRun run;
  MakeDeterministic(run, 10);
  const std::string expected = Uninterrupted(run);
  Process process(run.Command(), run.Join(""));
  for (const size_t steps : {2, 5, 7}) {
    ASSERT_TRUE(Eventually([&] { return run.Metrics().size() >= steps; })) << process.err();
    ::kill(run.PidOf("learner-0"), SIGKILL);
  }
  EXPECT_EQ(process.Wait(), 0) << process.err() << run.File("logs/learner-0.log");
  EXPECT_GE(run.TimesStarted("learner-0"), 2);
  EXPECT_EQ(run.TimesStarted("actor-0"), 1) << "actors outlive the learner";
  EXPECT_TRUE(NoProcessLeft());
  ExpectWholeMetrics(run, 10);
  EXPECT_EQ(AdapterOf(run.run_dir()), expected);
}

TEST(ResumeTest, ARunThatWasKilledAsAWholeGoesOnWithAnotherNumberOfActors) {
  const TinyRun run;
  MakeDeterministic(run, 8);
  const std::string expected = Uninterrupted(run);
  {
    Process process(run.Command(), run.Join(""));
    ASSERT_TRUE(Eventually([&] { return run.Metrics().size() >= 4; })) << process.err();
    process.Signal(SIGKILL);
    EXPECT_EQ(process.Wait(), 128 + SIGKILL);
  }
  EXPECT_TRUE(NoProcessLeft());
  const Finished finished = Execute(Resume(run, {"--override=actor { replicas: 2 }"}));
  ASSERT_EQ(finished.code, 0) << finished.err << run.File("logs/learner-0.log");
  ExpectWholeMetrics(run, 8);
  EXPECT_EQ(AdapterOf(run.run_dir()), expected);
  EXPECT_THAT(run.File("config.txtpb"), HasSubstr("replicas: 2"));
  EXPECT_THAT(run.File("summary.json"), HasSubstr("completed"));
}

TEST(ResumeTest, ARunThatWasStoppedGoesOnAndSoDoesOneThatIsGivenMoreSteps) {
  const TinyRun run;
  MakeDeterministic(run, 9);
  const std::string expected = Uninterrupted(run);
  {
    Process process(run.Command({"--override=learner { max_steps: 100000 }"}), run.Join(""));
    ASSERT_TRUE(Eventually([&] { return run.Metrics().size() >= 2; })) << process.err();
    process.Signal(SIGINT);
    EXPECT_EQ(process.Wait(), 0) << process.err();
  }
  const size_t done = run.Metrics().size();
  ASSERT_TRUE(run.Exists(absl::StrCat("checkpoints/step-", done, "/optimizer.safetensors")))
      << "a signal leaves a checkpoint";
  if (done > 6) GTEST_SKIP() << "the machine was too slow to stop it before step 7";
  const std::string six = "--override=learner { max_steps: 7 }";
  ASSERT_EQ(Execute(Resume(run, {six})).code, 0) << run.File("logs/learner-0.log");
  ExpectWholeMetrics(run, 7);
  const Finished finished = Execute(Resume(run, {"--override=learner { max_steps: 9 }"}));
  ASSERT_EQ(finished.code, 0) << finished.err;
  ExpectWholeMetrics(run, 9);
  EXPECT_EQ(AdapterOf(run.run_dir()), expected);
}

TEST(ResumeTest, ADamagedCheckpointIsPassedOverAndNothingIsLost) {
  const TinyRun run;
  MakeDeterministic(run, 8);
  const std::string expected = Uninterrupted(run);
  ASSERT_EQ(Execute(run.Command({"--override=learner { max_steps: 6 }"})).code, 0);
  ASSERT_TRUE(run.Exists("checkpoints/step-6/MANIFEST.txtpb"));
  ASSERT_TRUE(run.Exists("checkpoints/step-3/MANIFEST.txtpb"));
  const std::string damaged = run.run_dir() + "/checkpoints/step-6/optimizer.safetensors";
  std::filesystem::resize_file(damaged, std::filesystem::file_size(damaged) / 2);
  const Finished finished = Execute(Resume(run, {"--override=learner { max_steps: 8 }"}));
  ASSERT_EQ(finished.code, 0) << finished.err;
  EXPECT_THAT(run.File("logs/learner-0.log"), HasSubstr("step-6 is damaged and passed over"));
  EXPECT_THAT(run.File("logs/learner-0.log"), HasSubstr("trains steps 4 to 6 again"));
  EXPECT_EQ(AdapterOf(run.run_dir()), expected);
}

TEST(ResumeTest, AForeignBaseRankOrTargetSetIsOneSentenceAndChangesNothing) {
  const TinyRun run;
  MakeDeterministic(run, 3);
  ASSERT_EQ(Execute(run.Command()).code, 0);
  const std::string before = AdapterOf(run.run_dir());
  const auto refused = [&](const std::string& what, const std::string& sentence) {
    const Finished finished = Execute(Resume(run, {"--override=learner { max_steps: 4 } " + what}));
    EXPECT_EQ(finished.code, 2) << what << finished.err;
    EXPECT_THAT(finished.err, HasSubstr(sentence)) << what;
    EXPECT_EQ(AdapterOf(run.run_dir()), before);
    EXPECT_TRUE(run.Exists("run.db"));
  };
  refused("policy { lora { rank: 2 } }", "is of LoRA rank 4, policy.lora.rank is 2");
  refused("policy { lora { target: \"q_proj\" } }", "is of another set of targets");
  refused("seed: 99", "belongs to a run with seed 5, the configuration says 99");
  const Finished none = Execute({"wideberth", "run", "--resume=" + run.Join("nowhere")});
  EXPECT_EQ(none.code, 2);
  EXPECT_THAT(none.err, HasSubstr("holds no run that could be resumed"));
}

TEST(ReplayTest, TheJournalAloneGivesTheSameLossesAndTheSameAdapter) {
  const TinyRun run;
  MakeDeterministic(run, 5);
  ASSERT_EQ(Execute(run.Command()).code, 0);
  const Finished replayed = Execute(
      {"wideberth", "replay", "--run=" + run.run_dir(), "--adapter=" + run.Join("replayed")});
  ASSERT_EQ(replayed.code, 0) << replayed.err;
  EXPECT_THAT(replayed.err, HasSubstr("5 steps replayed; losses differ by at most 0;"));
  EXPECT_EQ(ReadFile(run.Join("replayed/adapter_model.safetensors")).value_or("none"),
            AdapterOf(run.run_dir()));
  const std::vector<json> metrics = run.Metrics();
  size_t i = 0;
  for (const absl::string_view line : absl::StrSplit(replayed.out, '\n', absl::SkipEmpty())) {
    const json step = json::parse(line.begin(), line.end());
    EXPECT_EQ(step["loss"], metrics[i++]["loss"]);
    EXPECT_EQ(step["same_adapter"], true);
  }
  EXPECT_EQ(i, 5u);
  // Other settings learn something else from the same data, and say so without failing.
  const Finished other = Execute({"wideberth", "replay", "--run=" + run.run_dir(), "--steps=2",
                                  "--override=learner { loss_type: GRPO beta: 0.5 }"});
  EXPECT_EQ(other.code, 0) << other.err;
  EXPECT_THAT(other.err, HasSubstr("2 steps replayed"));
  EXPECT_THAT(other.out, HasSubstr("\"same_adapter\":false"));
}

int FreePort() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  EXPECT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  ::close(fd);
  return ntohs(address.sin_port);
}

// A learner that dies at 30 random points, with an actor and two scorers that live on.
TEST(ResumeTest, KilledAtThirtyRandomPointsTheAdapterIsTheSameBitForBit) {
  const TinyRun run;
  MakeDeterministic(run, 120);
  run.Replace("member_timeout: 20", "member_timeout: 120");
  const std::string expected = Uninterrupted(run);
  const std::string address = absl::StrCat("127.0.0.1:", FreePort());
  const std::string learner_flag = "--learner=" + address;
  std::vector<std::unique_ptr<Process>> members;
  members.push_back(std::make_unique<Process>(
      std::vector<std::string>{"wideberth-actor", learner_flag, "--name=actor-0"}, run.Join("")));
  for (const char* scorer : {"safety", "helpfulness"}) {
    members.push_back(
        std::make_unique<Process>(std::vector<std::string>{"wideberth-scorer", learner_flag,
                                                           absl::StrCat("--scorer=", scorer)},
                                  run.Join("")));
  }
  const char* const points[] = {"checkpoint.begin",    "checkpoint.adapter", "checkpoint.optimizer",
                                "checkpoint.manifest", "checkpoint.renamed", "checkpoint.end",
                                "journal.group",       "journal.step",       "step.trained",
                                "publish.journaled",   "publish.done"};
  std::mt19937 random(7);
  int kills = 0, code = -1;
  std::string last;
  for (int start = 0; start < 60; ++start) {
    std::vector<std::string> argv = {"wideberth-learner", "--config=" + run.config(),
                                     "--run_dir=" + run.run_dir(), "--address=" + address,
                                     "--restarted"};
    const std::string point =
        absl::StrCat(points[random() % std::size(points)], ":", 1 + static_cast<int>(random() % 3));
    if (kills < 30) {
      ::setenv("WIDEBERTH_CRASH_AT", point.c_str(), 1);
    } else {
      ::unsetenv("WIDEBERTH_CRASH_AT");
    }
    Process learner(argv, run.Join(""));
    ::unsetenv("WIDEBERTH_CRASH_AT");
    code = learner.Wait();
    last = learner.err();
    if (code == 0) break;
    ASSERT_EQ(code, 128 + SIGKILL) << point << ": " << last;
    ++kills;
  }
  EXPECT_EQ(code, 0) << last;
  EXPECT_EQ(kills, 30) << "the run was over before it had been killed often enough";
  for (const auto& member : members) EXPECT_EQ(member->Wait(), 0) << member->err();
  ExpectWholeMetrics(run, 120);
  EXPECT_TRUE(AdapterOf(run.run_dir()) == expected) << "another adapter than undisturbed";
}

}  // namespace
}  // namespace wideberth
