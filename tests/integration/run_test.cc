// SPDX-License-Identifier: Apache-2.0
// Whole runs of a tiny model by real processes: one that ends as planned, and those in which
// something dies.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
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

// A run that is long enough to be hit in the middle.
std::vector<std::string> LongRun(const TinyRun& run) {
  return run.Command({"--override=learner { max_steps: 12 }"});
}

void ExpectTrained(const TinyRun& run, size_t steps) {
  const std::vector<json> metrics = run.Metrics();
  ASSERT_EQ(metrics.size(), steps) << run.File("logs/learner-0.log");
  EXPECT_EQ(metrics[0]["kl"].get<double>(), 0.0);
  for (size_t i = 0; i < steps; ++i) {
    EXPECT_EQ(metrics[i]["step"].get<size_t>(), i + 1);
    EXPECT_LT(metrics[i]["logprob_difference_max"].get<double>(), 1e-4);
    EXPECT_NEAR(metrics[i]["ratio_mean"].get<double>(), 1.0, 1e-6);
  }
}

std::string LogProbsOf(const TinyRun& run, const std::vector<std::string>& flags,
                       const std::string& line) {
  std::vector<std::string> argv = {"wideberth", "logprobs", "--model=" + run.Join("model")};
  argv.insert(argv.end(), flags.begin(), flags.end());
  const Finished finished = Execute(argv, line);
  EXPECT_EQ(finished.code, 0) << finished.err;
  return finished.out;
}

TEST(RunTest, TrainsToTheLastStepAndLeavesAnAdapterThatLoads) {
  const TinyRun run;
  const Finished finished = Execute(run.Command());
  ASSERT_EQ(finished.code, 0) << finished.err << run.File("logs/learner-0.log");
  EXPECT_TRUE(NoProcessLeft());
  ExpectTrained(run, 3);
  EXPECT_THAT(finished.out, HasSubstr("        3/3 "));
  EXPECT_THAT(finished.out, HasSubstr("mean t (guard)"));
  EXPECT_THAT(finished.out, HasSubstr(run.run_dir() + "/adapter"));
  EXPECT_EQ(finished.err, "");
  EXPECT_TRUE(json::parse(run.File("summary.json"), nullptr, false).is_object());
  EXPECT_THAT(run.File("config.txtpb"), HasSubstr("group_size: 3"));
  EXPECT_TRUE(run.Exists("run.db"));

  const std::string line = R"({"prompt_ids": [5, 6, 7], "completion_ids": [8, 9, 10, 11]})";
  const std::string base = LogProbsOf(run, {}, line);
  const std::string adapted = LogProbsOf(run, {"--adapter=" + run.run_dir() + "/adapter"}, line);
  EXPECT_NE(base, adapted);

  // The folder is taken: a second run says so and changes nothing.
  const std::string metrics = run.File("metrics.jsonl");
  const Finished second = Execute(run.Command());
  EXPECT_EQ(second.code, 2);
  EXPECT_EQ(second.err, absl::StrCat("wideberth run: ", run.run_dir(),
                                     ": holds a run already (config.txtpb is there); give another "
                                     "run_dir or remove the folder\n"));
  EXPECT_EQ(run.File("metrics.jsonl"), metrics);
}

TEST(RunTest, CompletionsAreOnTheConsoleOnRequestAndInTheJournalAlways) {
  const TinyRun run;
  const Finished finished =
      Execute(run.Command({"--override=learner { max_steps: 2 log_completions: true }"}));
  ASSERT_EQ(finished.code, 0) << finished.err;

  const std::vector<std::string> show = {"wideberth", "completions", "--run=" + run.run_dir()};
  const Finished table = Execute(show);
  ASSERT_EQ(table.code, 0) << table.err;
  EXPECT_THAT(table.out, ::testing::MatchesRegex("group +prompt +completion +safety +helpfu.. "
                                                 "+reward +advant.\n(.*\n){6}"));
  // The last step is shown as it was while the run went on.
  EXPECT_THAT(finished.out, HasSubstr(table.out));

  std::vector<std::string> as_json = show;
  as_json.insert(as_json.end(), {"--step=1", "--json"});
  const Finished lines = Execute(as_json);
  ASSERT_EQ(lines.code, 0) << lines.err;
  double reward_sum = 0, advantage_sum = 0;
  int num_rows = 0;
  for (const absl::string_view line : absl::StrSplit(lines.out, '\n', absl::SkipEmpty())) {
    const json row = json::parse(line.begin(), line.end(), nullptr, false);
    ASSERT_TRUE(row.is_object()) << line;
    EXPECT_EQ(row["step"], 1);
    EXPECT_NE(row["prompt"].get<std::string>().substr(0, 8), "(prompt ") << "its text was found";
    EXPECT_EQ(row["scores"]["safety"]["status"], "SCORED");
    reward_sum += row["reward"].get<double>();
    advantage_sum += row["advantage"].get<double>();
    ++num_rows;
  }
  EXPECT_EQ(num_rows, 2 * 3);
  EXPECT_NEAR(reward_sum / num_rows, run.Metrics()[0]["reward"].get<double>(), 1e-9);
  EXPECT_NEAR(advantage_sum, 0, 1e-9);

  std::vector<std::string> too_far = show;
  too_far.emplace_back("--step=3");
  const Finished refused = Execute(too_far);
  EXPECT_EQ(refused.code, 2);
  EXPECT_EQ(refused.err, absl::StrCat("wideberth completions: ", run.run_dir(),
                                      ": there is no step 3, expected 1 to 2\n"));
}

TEST(RunTest, TrainsWithCertificatesAndATokenThatIsNowhereToBeSeen) {
  const TinyRun run;
  const std::string certs = run.Join("certs");
  ASSERT_EQ(Execute({testing::SourcePath("launch/make_certs.sh"), certs}).code, 0);
  ::setenv("WIDEBERTH_CERTS", certs.c_str(), 1);
  ::setenv("WIDEBERTH_TOKEN_FILE", (certs + "/token").c_str(), 1);
  const Finished finished = Execute(run.Command());
  ::unsetenv("WIDEBERTH_CERTS");
  ::unsetenv("WIDEBERTH_TOKEN_FILE");
  ASSERT_EQ(finished.code, 0) << finished.err << run.File("logs/learner-0.log");
  ExpectTrained(run, 3);
  EXPECT_THAT(run.File("logs/learner-0.log"), HasSubstr(" with TLS, health page http://127.0.0.1"));
  const std::string token(absl::StripSuffix(ReadFile(certs + "/token").value_or(""), "\n"));
  ASSERT_EQ(token.size(), 64u);
  for (const auto& file : std::filesystem::recursive_directory_iterator(run.run_dir())) {
    if (!file.is_regular_file()) continue;
    EXPECT_EQ(ReadFile(file.path().string()).value_or("").find(token), std::string::npos)
        << file.path();
  }
}

TEST(RunTest, BeyondLoopbackItWantsCertificatesBeforeAnythingIsMade) {
  const TinyRun run;
  const Finished finished = Execute(run.Command({"--override=learner { address: \"0.0.0.0:0\" }"}));
  EXPECT_EQ(finished.code, 2);
  EXPECT_THAT(finished.err, HasSubstr("launch/make_certs.sh DIR; export WIDEBERTH_CERTS=DIR"));
  EXPECT_FALSE(run.Exists("config.txtpb"));
}

TEST(RunTest, PeftLoadsTheAdapterOfARun) {
  const char* const python = std::getenv("WIDEBERTH_PYTHON");
  if (python == nullptr)
    GTEST_SKIP() << "WIDEBERTH_PYTHON does not name a Python with transformers and peft";
  const TinyRun run;
  const Finished finished = Execute(run.Command());
  ASSERT_EQ(finished.code, 0) << finished.err;
  const std::string line = R"({"prompt_ids": [5], "completion_ids": [6, 7, 8, 9, 10, 11]})";
  json expected;
  expected["ids"] = {5, 6, 7, 8, 9, 10, 11};
  expected["next_logprobs"] =
      json::parse(LogProbsOf(run, {"--adapter=" + run.run_dir() + "/adapter"}, line))["logprobs"];
  expected["base_next_logprobs"] = json::parse(LogProbsOf(run, {}, line))["logprobs"];
  ASSERT_TRUE(WriteFileAtomically(run.Join("expected.json"), expected.dump()).ok());
  const Finished peft =
      Execute({python, "tests/golden/check_adapter_with_peft.py", "--model", run.Join("model"),
               "--adapter", run.run_dir() + "/adapter", "--expect", run.Join("expected.json")});
  EXPECT_EQ(peft.code, 0) << peft.out << peft.err;
}

TEST(RunTest, GoesOnFromATrainedAdapterWhichIsThenTheReference) {
  const TinyRun run;
  ASSERT_EQ(Execute(run.Command()).code, 0);
  std::filesystem::rename(run.run_dir(), run.Join("first"));
  const std::string start = run.Join("first/adapter");
  const Finished finished =
      Execute(run.Command({absl::StrCat("--override=policy { adapter: '", start, "' }")}));
  ASSERT_EQ(finished.code, 0) << finished.err << run.File("logs/learner-0.log");
  ExpectTrained(run, 3);  // KL 0 on the first step among the rest.
  EXPECT_THAT(run.File("logs/learner-0.log"), HasSubstr("from adapter " + start));
  EXPECT_NE(run.File("adapter/adapter_model.safetensors"),
            ReadFile(start + "/adapter_model.safetensors").value_or(""));
}

TEST(RunTest, DropoutIsInWhatIsTrainedOnAndNotInWhatIsCompared) {
  const TinyRun run;
  const Finished finished =
      Execute(run.Command({"--override=policy { lora { dropout: 0.5 } } learner { beta: 0.1 }"}));
  ASSERT_EQ(finished.code, 0) << finished.err << run.File("logs/learner-0.log");
  ExpectTrained(run, 3);
  EXPECT_GT(run.Metrics()[2]["kl"].get<double>(), 0);
  // Replayed with the same masks.
  const Finished replayed = Execute({"wideberth", "replay", "--run=" + run.run_dir()});
  EXPECT_EQ(replayed.code, 0) << replayed.err;
  EXPECT_THAT(replayed.err, HasSubstr("byte for byte, after 3 of them"));
}

TEST(RunTest, TheSameSeedGivesTheSameRun) {
  const TinyRun run;
  run.Replace("max_steps: 3", "max_steps: 3\n  deterministic: true");
  ASSERT_EQ(Execute(run.Command()).code, 0);
  const Finished again =
      Execute({"wideberth", "run", "--config=" + run.config(), "--run_dir=" + run.Join("again")});
  ASSERT_EQ(again.code, 0) << again.err;
  const auto adapter = ReadFile(run.Join("again/adapter/adapter_model.safetensors"));
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ(*adapter, run.File("adapter/adapter_model.safetensors"));
}

TEST(RunTest, CompletesWhenAnActorIsKilled) {
  const TinyRun run;
  Process process(LongRun(run), run.Join(""));
  ASSERT_TRUE(Eventually([&] { return run.Metrics().size() >= 2; })) << process.err();
  ::kill(run.PidOf("actor-0"), SIGKILL);
  EXPECT_EQ(process.Wait(), 0) << process.err();
  EXPECT_EQ(run.TimesStarted("actor-0"), 2);
  ExpectTrained(run, 12);
  EXPECT_TRUE(NoProcessLeft());
}

TEST(RunTest, CompletesWhenAScorerIsKilledInTheMiddleOfItsWork) {
  const TinyRun run;
  Process process(LongRun(run), run.Join(""));
  ASSERT_TRUE(Eventually([&] { return run.Metrics().size() >= 2; })) << process.err();
  ::kill(run.PidOf("scorer-safety-0"), SIGKILL);
  EXPECT_EQ(process.Wait(), 0) << process.err();
  EXPECT_EQ(run.TimesStarted("scorer-safety-0"), 2);
  ExpectTrained(run, 12);
  for (const json& step : run.Metrics()) EXPECT_EQ(step["unscored"].get<int>(), 0);
  EXPECT_TRUE(NoProcessLeft());
}

TEST(RunTest, EndsWithASentenceWhenTheLearnerIsKilledAndMayNotBeStartedAgain) {
  const TinyRun run;
  Process process(run.Command({"--override=learner { max_steps: 12 }",
                               "--override=supervisor { max_restarts: 0 }"}),
                  run.Join(""));
  ASSERT_TRUE(Eventually([&] { return run.Metrics().size() >= 2; })) << process.err();
  ::kill(run.PidOf("learner-0"), SIGKILL);
  EXPECT_EQ(process.Wait(), 10);
  EXPECT_THAT(process.err(),
              HasSubstr("wideberth run: learner-0 ended (killed by signal 9 (Killed))"));
  EXPECT_TRUE(NoProcessLeft());
  for (const json& step : run.Metrics()) EXPECT_TRUE(step.is_object());  // No half line.
}

TEST(RunTest, CtrlCEndsItCleanlyWithTheAdapterOfTheLastStep) {
  const TinyRun run;
  Process process(run.Command({"--override=learner { max_steps: 100000 }"}), run.Join(""));
  ASSERT_TRUE(Eventually([&] { return run.Metrics().size() >= 2; })) << process.err();
  process.Signal(SIGINT);
  EXPECT_EQ(process.Wait(), 0) << process.err();
  EXPECT_TRUE(NoProcessLeft());
  EXPECT_TRUE(run.Exists("adapter/adapter_model.safetensors"));
  EXPECT_THAT(run.File("summary.json"), HasSubstr("stopped"));
  EXPECT_THAT(process.out(), HasSubstr("ending: waiting for every process"));
}

TEST(RunTest, NothingOutlivesTheCommandWhenItIsKilled) {
  const TinyRun run;
  Process process(LongRun(run), run.Join(""));
  ASSERT_TRUE(Eventually([&] { return !run.Metrics().empty(); })) << process.err();
  process.Signal(SIGKILL);
  EXPECT_EQ(process.Wait(), 128 + SIGKILL);
  EXPECT_TRUE(NoProcessLeft());
}

}  // namespace
}  // namespace wideberth
