// SPDX-License-Identifier: Apache-2.0
// Runs whose learner is several processes: they train like one, and end with a sentence, or go on,
// when one of them is killed or stopped in the middle of a step.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/integration/tiny_run.h"

namespace wideberth {
namespace {

using ::testing::AllOf;
using testing::Eventually;
using testing::Execute;
using testing::Finished;
using ::testing::HasSubstr;
using testing::NoProcessLeft;
using ::testing::Not;
using testing::Process;
using testing::TinyRun;

std::vector<std::string> Ranks(const TinyRun& run, int world_size, int max_steps,
                               const std::string& more = "") {
  return run.Command({absl::StrCat("--override=learner { world_size: ", world_size,
                                   " max_steps: ", max_steps, " rank_timeout: 4 }"),
                      "--override=supervisor { drain_timeout: 6 }",
                      absl::StrCat("--override=", more)});
}

TEST(RanksTest, TwoRanksTrainLikeOne) {
  const TinyRun one, two;
  const std::string float64 =
      "policy { model { dtype: FLOAT64 } } evaluation { num_prompts: 0 } "
      "learner { deterministic: true }";
  ASSERT_EQ(Execute(Ranks(one, 1, 4, float64)).code, 0);
  const Finished finished = Execute(Ranks(two, 2, 4, float64));
  ASSERT_EQ(finished.code, 0) << finished.err << two.File("logs/learner-1.log");
  EXPECT_EQ(finished.err, "");
  EXPECT_THAT(finished.out, HasSubstr("starting 1 more learner rank(s), "));
  EXPECT_TRUE(NoProcessLeft());
  const auto alone = one.Metrics(), shared = two.Metrics();
  ASSERT_EQ(alone.size(), 4u);
  ASSERT_EQ(shared.size(), 4u);
  for (size_t step = 0; step < 4; ++step) {
    for (const char* name : {"loss", "grad_norm", "kl", "reward"})
      EXPECT_NEAR(alone[step][name].get<double>(), shared[step][name].get<double>(), 1e-9) << name;
    EXPECT_EQ(alone[step]["completion_tokens"], shared[step]["completion_tokens"]);
  }
  EXPECT_THAT(two.File("logs/learner-1.log"),
              AllOf(HasSubstr("joined run tiny-"), HasSubstr("step 3: loss "),
                    HasSubstr("the run has ended")));
  EXPECT_THAT(two.File("logs/learner-0.log"), HasSubstr("all 2 learner ranks are ready"));
}

TEST(RanksTest, ADryRunShowsThem) {
  const TinyRun run;
  std::vector<std::string> command = Ranks(run, 3, 4);
  command.push_back("--dry_run");
  const Finished finished = Execute(command);
  EXPECT_EQ(finished.code, 0);
  EXPECT_THAT(finished.out, AllOf(HasSubstr("\nlearner-1 "), HasSubstr("\nlearner-2 ")));
}

TEST(RanksTest, AKilledRankEndsTheRunWithItsName) {
  const TinyRun run;
  Process process(Ranks(run, 2, 100000, "learner { rank_timeout: 60 }"), run.Join(""));
  ASSERT_TRUE(Eventually([&] { return run.Metrics().size() >= 2; })) << process.err();
  const pid_t rank = run.PidOf("learner-1");
  ::kill(rank, SIGKILL);
  EXPECT_EQ(process.Wait(), 10);
  EXPECT_THAT(
      process.err(),
      AllOf(HasSubstr("wideberth run: learner-0 ended (exit code 1): learner rank 1 (on "),
            HasSubstr(absl::StrCat(", process ", rank, ") is gone: its connection broke 5")),
            HasSubstr(" of optimiser step ")));
  EXPECT_TRUE(NoProcessLeft());
  for (const auto& step : run.Metrics()) EXPECT_TRUE(step.is_object());
}

TEST(RanksTest, AStoppedRankEndsTheRunWithItsNameAndTheOthersGoToo) {
  const TinyRun run;
  Process process(Ranks(run, 3, 100000), run.Join(""));
  ASSERT_TRUE(Eventually([&] { return run.Metrics().size() >= 2; })) << process.err();
  const pid_t rank = run.PidOf("learner-1");
  ::kill(rank, SIGSTOP);
  EXPECT_EQ(process.Wait(), 10);
  EXPECT_THAT(process.err(),
              AllOf(HasSubstr("learner rank 1 (on "), HasSubstr(absl::StrCat(", process ", rank)),
                    HasSubstr(" of optimiser step "), HasSubstr("(learner.rank_timeout)")));
  EXPECT_TRUE(NoProcessLeft());
  // The rank that was well was told.
  EXPECT_THAT(run.File("logs/learner-2.log"), HasSubstr("E learner-2] learner rank 1 (on "));
}

TEST(RanksTest, ALearnerThatIsKilledComesBackAndItsRanksJoinItAgain) {
  const TinyRun run;
  Process process(
      run.Command({"--override=learner { world_size: 2 max_steps: 12 rank_timeout: 60 }"}),
      run.Join(""));
  ASSERT_TRUE(Eventually([&] { return run.Metrics().size() >= 2; })) << process.err();
  ::kill(run.PidOf("learner-0"), SIGKILL);
  EXPECT_EQ(process.Wait(), 0) << process.err() << run.File("logs/learner-1.log");
  EXPECT_EQ(run.TimesStarted("learner-0"), 2);
  EXPECT_EQ(run.TimesStarted("learner-1"), 1);
  EXPECT_EQ(run.Metrics().size(), 12u);
  EXPECT_THAT(run.File("logs/learner-1.log"), HasSubstr("joins again where rank 0 comes back"));
  EXPECT_TRUE(NoProcessLeft());
}

TEST(RanksTest, CtrlCEndsAllRanksCleanly) {
  const TinyRun run;
  Process process(Ranks(run, 2, 100000), run.Join(""));
  ASSERT_TRUE(Eventually([&] { return run.Metrics().size() >= 2; })) << process.err();
  process.Signal(SIGINT);
  EXPECT_EQ(process.Wait(), 0) << process.err();
  EXPECT_TRUE(NoProcessLeft());
  EXPECT_THAT(run.File("logs/learner-1.log"), HasSubstr("the run has ended"));
  EXPECT_THAT(run.File("logs/learner-1.log"), Not(HasSubstr(" E learner-1]")));
}

TEST(RanksTest, ARankToldOtherThingsThanRankZeroIsRefused) {
  const TinyRun run;
  Process process(Ranks(run, 2, 100000), run.Join(""));
  ASSERT_TRUE(Eventually([&] { return run.Metrics().size() >= 1; })) << process.err();
  const std::string address = run.File("learner.address");
  const std::string learner = absl::StrCat("--learner=", address.substr(0, address.find('\n')));
  const auto refused = [&](std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"wideberth-learner", learner});
    const Finished finished = Execute(flags);
    EXPECT_EQ(finished.code, 2) << finished.err;
    return finished.err;
  };
  EXPECT_THAT(refused({"--rank=1"}), HasSubstr("has that rank already"));
  EXPECT_THAT(refused({"--rank=2"}), HasSubstr("expected a rank from 1 to 1"));
  EXPECT_THAT(refused({"--rank=1", "--world_size=3"}), HasSubstr("was told of 3 ranks"));
  EXPECT_THAT(Execute({"wideberth-learner", "--rank=1"}).err,
              HasSubstr("--learner is not given, must be HOST:PORT of rank 0"));
  process.Signal(SIGINT);
  EXPECT_EQ(process.Wait(), 0) << process.err();
}

}  // namespace
}  // namespace wideberth
