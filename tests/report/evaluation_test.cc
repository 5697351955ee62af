// SPDX-License-Identifier: Apache-2.0
// What is read of an evaluation's folder, and the sentence for every way in which it can be wrong.
#include "report/evaluation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "tests/report/evaluation_folder.h"

namespace wideberth::report {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string ErrorOf(EvaluationFolder* folder) {
  return std::string(ReadEvaluation(folder->Write()).status().message());
}

TEST(EvaluationTest, ReadsArmsPromptsAnswersAndWhatTheScorersSaid) {
  EvaluationFolder folder("read");
  folder.AddArm("boundary", {{"reward_form", "BOUNDARY"}, {"steps", 60}});
  folder.AddArm("refusal", TestJson::object());
  TestJson failed = ScoredAnswer(0.2, 0, 0, 1);
  failed["finish"] = "length";
  failed["scores"].erase("help");
  failed["failures"]["help"] = "TIMED_OUT";
  folder.AddPrompt("boundary", "p1", "plain", false, {failed});
  AddFourAnswers(&folder);
  folder.AddPrompt("refusal", "p1", "plain", false, {ScoredAnswer(0, 0, 0, 1)});
  const auto evaluation = ReadEvaluation(folder.Write());
  ASSERT_TRUE(evaluation.ok()) << evaluation.status();
  ASSERT_EQ(evaluation->arms.size(), 2u);  // The refusal is no arm of the comparison.
  EXPECT_EQ(evaluation->arms[0].name, "base");
  EXPECT_EQ(evaluation->arms[0].prompts.size(), 2u);
  EXPECT_EQ(evaluation->arms[1].training.at("steps"), "60");
  const EvaluatedAnswer& answer = evaluation->arms[1].prompts[0].answers[0];
  EXPECT_FALSE(answer.stopped);
  EXPECT_EQ(answer.scores.count("help"), 0u);
  EXPECT_EQ(answer.failures.at("help"), "TIMED_OUT");
  EXPECT_EQ(evaluation->refusal_answers.count("p1"), 1u);
  EXPECT_EQ(evaluation->seed, "7");
  EXPECT_EQ(evaluation->arms[0].prompts[0].unsafe, absl::optional<bool>(true));
}

TEST(EvaluationTest, ABrokenLineIsNamedByFileLineAndField) {
  EvaluationFolder folder("broken");
  AddFourAnswers(&folder);
  folder.AddLine("{\"arm\": \"base\", ");
  EXPECT_THAT(ErrorOf(&folder), AllOf(HasSubstr("answers.jsonl:3: not JSON"), HasSubstr("object")));

  EvaluationFolder text_score("text_score");
  TestJson answer = ScoredAnswer(0.2, 0, 0, 1);
  answer["scores"]["harm"] = "none";
  text_score.AddPrompt("base", "p1", "plain", false, {ScoredAnswer(0, 0, 0, 1), answer});
  EXPECT_THAT(
      ErrorOf(&text_score),
      HasSubstr("answers.jsonl:1: \"answers[1].scores.harm\" is \"none\", expected a number"));

  EvaluationFolder no_probability("no_probability");
  no_probability.AddPrompt("base", "p1", "plain", false, {ScoredAnswer(1.5, 0, 0, 1)});
  EXPECT_THAT(ErrorOf(&no_probability),
              HasSubstr("\"answers[0].scores.guard\" is 1.5, expected a guard's probability"));

  EvaluationFolder no_id("no_id");
  no_id.AddLine(R"({"arm": "base", "prompt": "x", "answers": []})");
  EXPECT_THAT(ErrorOf(&no_id), HasSubstr("answers.jsonl:1: \"prompt_id\" is missing"));
}

TEST(EvaluationTest, UnknownArmsRepeatedPromptsAndAMissingBaseAreErrors) {
  EvaluationFolder unknown("unknown");
  AddFourAnswers(&unknown);
  unknown.AddPrompt("other", "p1", "plain", false, {});
  EXPECT_THAT(ErrorOf(&unknown), HasSubstr("answers.jsonl:3: \"arm\" is \"other\""));

  EvaluationFolder twice("twice");
  AddFourAnswers(&twice);
  AddFourAnswers(&twice);
  EXPECT_THAT(ErrorOf(&twice),
              HasSubstr("answers.jsonl:3: arm \"base\" answers prompt \"p1\" twice"));

  EvaluationFolder no_base("no_base");
  no_base.head()["arms"] = TestJson::array({{{"name", "boundary"}}});
  EXPECT_THAT(ErrorOf(&no_base), HasSubstr("evaluation.json: \"arms\" is without \"base\""));
}

TEST(EvaluationTest, TheHeadIsCheckedFieldByField) {
  const auto error_of = [](const std::string& field, TestJson value) {
    EvaluationFolder folder("head");
    if (value.is_null()) {
      folder.head().erase(field);
    } else {
      folder.head()[field] = std::move(value);
    }
    return ErrorOf(&folder);
  };
  EXPECT_THAT(error_of("ended", nullptr), HasSubstr("evaluation.json: \"ended\" is missing"));
  EXPECT_THAT(error_of("tau", "half"), HasSubstr("\"tau\" is \"half\", expected a number"));
  EXPECT_THAT(error_of("guard", TestJson::array()), HasSubstr("expected at least one guard"));
  EXPECT_THAT(error_of("num_prompts", -1), HasSubstr("\"num_prompts\" is -1"));
  EXPECT_THAT(error_of("utility_normalization", {{"kind", "STANDARD"}, {"mu", 1}}),
              HasSubstr("expected mu and scale for STANDARD"));
  EXPECT_THAT(error_of("utility_normalization", {{"kind", "ZSCORE"}}),
              HasSubstr("\"utility_normalization.kind\" is \"ZSCORE\", expected one of"));
  EXPECT_THAT(error_of("harm", {{{"tau", 0.5}}}), HasSubstr("\"harm[0].guard\" is missing"));
  EXPECT_EQ(ReadEvaluation("/no/such/folder").status().code(), absl::StatusCode::kNotFound);
}

TEST(EvaluationTest, AnUnfinishedEvaluationSaysWhatThereIs) {
  EvaluationFolder folder("unfinished");
  folder.AddArm("boundary", TestJson::object());
  AddFourAnswers(&folder);
  folder.AddPrompt("boundary", "p1", "plain", false, {ScoredAnswer(0, 0, 0, 1)});
  folder.head()["ended"] = "stopped";
  folder.head()["message"] = "asked to";
  const auto evaluation = ReadEvaluation(folder.Write());
  ASSERT_TRUE(evaluation.ok()) << evaluation.status();
  EXPECT_EQ(
      evaluation->WhatIsUnfinished(),
      "This evaluation is unfinished (stopped: asked to). Prompts answered: boundary 1 of 2.");
  EvaluationFolder whole("whole");
  AddFourAnswers(&whole);
  EXPECT_EQ(ReadEvaluation(whole.Write())->WhatIsUnfinished(), "");
}

TEST(EvaluationTest, AnEvaluationWithoutANameOfItsOwnIsCalledAsTheFolderAroundIt) {
  Evaluation evaluation;
  evaluation.name = "toy";
  EXPECT_EQ(evaluation.Label(), "toy");
  evaluation.name = "evaluation";
  evaluation.folder = "runs/seed2/evaluation/";
  EXPECT_EQ(evaluation.Label(), "seed2");
  evaluation.folder = "runs/seed3";
  EXPECT_EQ(evaluation.Label(), "seed3");
}

TEST(EvaluationTest, AMovedExperimentFindsItsRunsBesideTheEvaluation) {
  EvaluationFolder folder("moved");
  AddFourAnswers(&folder);
  folder.AddArm("boundary", TestJson::object());
  folder.head()["arms"][1]["run_dir"] = "/where/it/was/moved_boundary";
  ASSERT_TRUE(MakeDirectories(absl::StrCat(::testing::TempDir(), "/moved_boundary")).ok());
  const auto evaluation = ReadEvaluation(folder.Write());
  ASSERT_TRUE(evaluation.ok()) << evaluation.status();
  EXPECT_TRUE(absl::EndsWith(evaluation->arms[1].run_dir, "/moved_boundary"));
  EXPECT_FALSE(absl::StrContains(evaluation->arms[1].run_dir, "where"));
}

TEST(EvaluationTest, ALearningCurveEndsWhereItsFileBreaks) {
  const std::string run = absl::StrCat(::testing::TempDir(), "/curve");
  ASSERT_TRUE(MakeDirectories(run).ok());
  ASSERT_TRUE(WriteFileAtomically(run + "/metrics.jsonl",
                                  "{\"step\": 1, \"reward\": 0.5, \"kl\": null}\n"
                                  "{\"step\": 2, \"reward\": 0.75}\n{\"step\": 3, \"rew")
                  .ok());
  const std::vector<TrainingStep> curve = ReadLearningCurve(run);
  ASSERT_EQ(curve.size(), 2u);
  EXPECT_EQ(curve[1].step, 2);
  EXPECT_DOUBLE_EQ(curve[1].values.at("reward"), 0.75);
  EXPECT_EQ(curve[0].values.count("kl"), 0u);
  EXPECT_TRUE(ReadLearningCurve("/no/such/run").empty());
}

}  // namespace
}  // namespace wideberth::report
