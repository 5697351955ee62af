// SPDX-License-Identifier: Apache-2.0
// `wideberth evaluate` with real processes: arms, seeds, resume, and what it refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/integration/tiny_run.h"

namespace wideberth {
namespace {

using testing::Execute;
using testing::Finished;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Process;
using testing::TinyRun;
using Json = nlohmann::json;

std::vector<Json> Lines(const std::string& path) {
  std::vector<Json> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
  return lines;
}

class EvaluateTest : public ::testing::Test {
 protected:
  void Train() {
    const Finished trained = Execute(run_.Command());
    ASSERT_EQ(trained.code, 0) << trained.err;
  }
  std::vector<std::string> Command(const std::vector<std::string>& more) const {
    std::vector<std::string> command = {"wideberth", "evaluate",
                                        absl::StrCat("--config=", run_.config()),
                                        absl::StrCat("--run_dir=", folder())};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }
  std::string folder() const { return run_.Join("evaluation"); }
  std::vector<Json> Answers() const { return Lines(folder() + "/answers.jsonl"); }
  std::string Arm(const std::string& name) const {
    return absl::StrCat("--arm=", name, "=", run_.run_dir());
  }
  static constexpr char kTwoAnswers[] = "--override=evaluation { num_completions: 2 }";
  TinyRun run_;
};

TEST_F(EvaluateTest, ArmsAnswerTheSamePromptsWithTheSameSeeds) {
  Train();
  const Finished done =
      Execute(Command({Arm("trained"), Arm("again"), kTwoAnswers,
                       "--override=evaluation { harm_judge: 'safety' help_judge: 'helpfulness' "
                       "second_guard: 'safety' refusal: 'no' }"}));
  ASSERT_EQ(done.code, 0) << done.err << done.out;
  EXPECT_THAT(done.out, HasSubstr("arm trained (2 of 4): 2 of 2 prompts"));
  const std::vector<Json> answers = Answers();
  ASSERT_EQ(answers.size(), 8u) << "four arms, two prompts";
  std::map<std::string, std::vector<Json>> by_arm;
  for (const Json& line : answers) {
    by_arm[line["arm"]].push_back(line["answers"]);
    ASSERT_EQ(line["answers"].size(), 2u);
    for (const Json& answer : line["answers"]) {
      EXPECT_TRUE(answer["scores"]["safety"].is_number());
      EXPECT_TRUE(answer["scores"]["helpfulness"].is_number());
      EXPECT_TRUE(answer["failures"].empty());
    }
  }
  EXPECT_EQ(by_arm["trained"], by_arm["again"]) << "the same adapter, the same random numbers";
  EXPECT_NE(by_arm["trained"], by_arm["base"]) << "a learning rate of 1e-3 shows";
  EXPECT_EQ(by_arm["refusal"][0][1]["text"], "no");
  const Json facts = Json::parse(std::ifstream(folder() + "/evaluation.json"));
  EXPECT_EQ(facts["ended"], "completed");
  EXPECT_EQ(facts["arms"][1]["training"]["reward_form"], "BOUNDARY");
  EXPECT_EQ(facts["arms"][1]["adapter_fingerprint"], facts["arms"][2]["adapter_fingerprint"]);
  EXPECT_EQ(facts["num_prompts"], 2);
  EXPECT_EQ(facts["harm_scale"], 3) << "a guard as the judge";
  EXPECT_EQ(facts["trained_prompts"]["found"], 0) << "the run's held-out prompts were kept out";
  // What the run itself measured with its last policy is what the evaluation sees.
  const Json summary = Json::parse(run_.File("summary.json"));
  EXPECT_EQ(facts["settings"]["base_fingerprint"], summary["base"]["fingerprint"]);
}

TEST_F(EvaluateTest, AKilledEvaluationGoesOnAndAsksNothingTwice) {
  Train();
  const std::string slow =
      "--override=evaluation { num_completions: 2 } actor { groups_per_lease: 1 }";
  Process first(Command({Arm("trained"), slow}), run_.Join("."));
  // Killed once the base's answers are there.
  ASSERT_TRUE(testing::Eventually([&] {
    const std::vector<Json> lines = Lines(folder() + "/metrics.jsonl");
    return !lines.empty() || !first.Running();
  }));
  first.Signal(SIGTERM);
  EXPECT_EQ(first.Wait(), 0) << first.err();
  const Finished second = Execute({"wideberth", "evaluate", absl::StrCat("--resume=", folder())});
  ASSERT_EQ(second.code, 0) << second.err;
  ASSERT_EQ(Answers().size(), 4u);
  const Finished whole =
      Execute({"wideberth", "evaluate", absl::StrCat("--config=", run_.config()),
               absl::StrCat("--run_dir=", run_.Join("whole")), Arm("trained"), kTwoAnswers});
  ASSERT_EQ(whole.code, 0) << whole.err;
  const std::vector<Json> expected = Lines(run_.Join("whole/answers.jsonl"));
  const std::vector<Json> found = Answers();
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    for (int c = 0; c < 2; ++c)
      EXPECT_EQ(found[i]["answers"][c]["text"], expected[i]["answers"][c]["text"]);
  }
}

TEST_F(EvaluateTest, PromptsThatWereTrainedOnAreRefusedUnlessAllowed) {
  Train();
  const std::string all = "--override=prompts { num_held_out: 0 } evaluation { num_prompts: 0 }";
  const Finished refused = Execute(Command({Arm("trained"), all}));
  EXPECT_EQ(refused.code, 2) << refused.out;
  EXPECT_THAT(refused.err, HasSubstr("prompts to evaluate on were trained on: "));
  EXPECT_THAT(refused.err, HasSubstr("evaluation.allow_trained_prompts"));
  const Finished allowed = Execute(
      Command({Arm("trained"), all, "--override=evaluation { allow_trained_prompts: true }"}));
  ASSERT_EQ(allowed.code, 0) << allowed.err;
  const Json facts = Json::parse(std::ifstream(folder() + "/evaluation.json"));
  EXPECT_TRUE(facts["trained_prompts"]["allowed"]);
  EXPECT_GT(facts["trained_prompts"]["found"], 0);
}

TEST_F(EvaluateTest, BadArmsAreOneSentence) {
  Train();
  const Finished absent = Execute(Command({"--arm=x=/nowhere"}));
  EXPECT_EQ(absent.code, 2);
  EXPECT_THAT(absent.err,
              HasSubstr("evaluation.arm \"x\": there is no /nowhere/adapter_config.json"));
  const Finished twice = Execute(Command({Arm("x"), Arm("x")}));
  EXPECT_EQ(twice.code, 2);
  EXPECT_THAT(twice.err, HasSubstr("evaluation.arm.name is \"x\" twice, must be each once"));
  const Finished judge =
      Execute(Command({Arm("x"), "--override=evaluation { harm_judge: 'oracle' }"}));
  EXPECT_EQ(judge.code, 2);
  EXPECT_THAT(judge.err, HasSubstr("evaluation.harm_judge is \"oracle\", must be the name of a "
                                   "scorer: safety, helpfulness"));
  // Another base of the same shape.
  std::ifstream in(run_.Join("run/summary.json"));
  Json summary = Json::parse(in);
  summary["base"]["fingerprint"] = "0123";
  std::ofstream(run_.Join("run/summary.json")) << summary;
  const Finished base = Execute(Command({Arm("x")}));
  EXPECT_EQ(base.code, 2) << base.out;
  EXPECT_THAT(base.err, HasSubstr("trained a base with fingerprint 0123"));
}

}  // namespace
}  // namespace wideberth
