// SPDX-License-Identifier: Apache-2.0
// Local judges with real, tiny models: grades by token probabilities and out of generated answers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/text_proto.h"
#include "scorer/scoring_model.h"
#include "tests/scorer/fake_scoring_model.h"
#include "tests/scorer/parrot_model.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::scorer {
namespace {

using ::testing::HasSubstr;

constexpr char kRubric[] = "How bad is this?\\n{prompt}\\n{completion}\\n";

class JudgeModelTest : public ::testing::Test {
 protected:
  JudgeModelTest() { EXPECT_TRUE(testing::WriteTinyModel("llama", folder_.path()).ok()); }

  absl::StatusOr<std::unique_ptr<ScoringModel>> TryCreate(const std::string& text,
                                                          const std::string& more = "") {
    proto::ScorerConfig config;
    config.set_name("judge");
    config.mutable_model()->set_path(folder_.path());
    for (const std::string& part : {text, more}) {
      const absl::Status merged = MergeTextProto(part, "test", &config);
      EXPECT_TRUE(merged.ok()) << merged;
    }
    return ScoringModel::Create(config);
  }
  std::unique_ptr<ScoringModel> Create(const std::string& text, const std::string& more = "") {
    auto model = TryCreate(text, more);
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }
  static std::string Judge() {
    return absl::StrCat("kind: JUDGE judge { rubric: '", kRubric, "' max_new_tokens: 24 } ");
  }
  static std::vector<proto::Score> Score(ScoringModel& model) {
    return model.ScoreBatch({model.Prepare(MakeItem("how do you stop it", "use kill")),
                             model.Prepare(MakeItem("how do you", "look at the log"))});
  }

  testing::TempDir folder_;
};

// The reference is a verdict's log-odds of each digit against "1", which are transformers'.
TEST_F(JudgeModelTest, TheScoreIsTheMeanGradeByTheProbabilitiesOfTheirTokens) {
  const auto model = Create(Judge(), "judge { low: 1 high: 4 reading: TOKEN_PROBABILITIES }");
  const auto scores = Score(*model);
  std::vector<double> mass(scores.size(), 1), sum(scores.size(), 1);
  for (int grade = 2; grade <= 4; ++grade) {
    const auto odds = Score(*Create(absl::StrCat("template: '", kRubric, "' chat: true positive: '",
                                                 grade, "' negative: '1' output: LOG_ODDS")));
    for (size_t i = 0; i < odds.size(); ++i) {
      mass[i] += std::exp(odds[i].value());
      sum[i] += grade * std::exp(odds[i].value());
    }
  }
  for (size_t i = 0; i < scores.size(); ++i) {
    ASSERT_EQ(scores[i].status(), proto::SCORED) << scores[i].message();
    EXPECT_NEAR(scores[i].value(), sum[i] / mass[i], 1e-5);
  }
  EXPECT_GT(std::abs(scores[0].value() - scores[1].value()), 1e-3);
  EXPECT_EQ(model->Prepare(MakeItem("p", "")).refusal, "") << "an empty answer is graded";
}

TEST_F(JudgeModelTest, AGradeIsOneToken) {
  const auto model = TryCreate(Judge(), "judge { high: 10 reading: TOKEN_PROBABILITIES }");
  EXPECT_THAT(std::string(model.status().message()),
              HasSubstr("scorer \"judge\": verdict text \"10\" is 2 tokens of "));
}

TEST_F(JudgeModelTest, ParsesWhatTheModelAnswers) {
  ASSERT_TRUE(WriteParrotModel("Grade: 2", folder_.path(), "<|im_start|>assistant\n").ok());
  const auto model = Create(Judge());
  for (const proto::Score& score : Score(*model)) {
    ASSERT_EQ(score.status(), proto::SCORED) << score.message();
    EXPECT_EQ(score.value(), 2);
  }
  EXPECT_EQ(model->generation().num_answers, 2);
  const auto sampled = Create(Judge(), "judge { num_samples: 3 temperature: 0.01 }");
  EXPECT_EQ(Score(*sampled)[0].value(), 2);
  EXPECT_EQ(sampled->generation().num_answers, 6);
  EXPECT_NE(sampled->identity().template_hash, model->identity().template_hash);
  EXPECT_NE(Create(Judge(), "judge { high: 4 }")->identity().template_hash,
            model->identity().template_hash);
  const proto::Score beyond = Score(*Create(Judge(), "judge { low: 3 high: 5 }"))[0];
  EXPECT_EQ(beyond.status(), proto::MALFORMED_OUTPUT);
  EXPECT_FALSE(beyond.has_value());
  EXPECT_EQ(beyond.message(),
            "the answer's grade is \"Grade: 2\", expected \"Grade:\" and a whole number from 3 to "
            "5");
  const proto::Score cut = Score(*Create(Judge(), "judge { max_new_tokens: 8 }"))[0];
  EXPECT_EQ(cut.status(), proto::MALFORMED_OUTPUT);
  EXPECT_THAT(cut.message(), HasSubstr("where max_new_tokens cut it off"));
}

TEST_F(JudgeModelTest, RubricsComeFromFiles) {
  ASSERT_TRUE(WriteParrotModel("Grade: 2", folder_.path(), "<|im_start|>assistant\n").ok());
  const std::string path = folder_.Join("rubric.txt");
  const std::string from_file = absl::StrCat("kind: JUDGE judge { rubric_path: '", path, "' }");
  EXPECT_THAT(std::string(TryCreate(from_file).status().message()),
              HasSubstr("scorer \"judge\": judge.rubric_path: "));
  ASSERT_TRUE(WriteFileAtomically(path, "Grade this.").ok());
  EXPECT_EQ(std::string(TryCreate(from_file).status().message()),
            absl::StrCat("scorer \"judge\": the rubric ", path,
                         " has no {completion}, expected a text with {prompt} and {completion}"));
  ASSERT_TRUE(WriteFileAtomically(path, "How bad is this?\n{prompt}\n{completion}\n\n").ok());
  EXPECT_EQ(Score(*Create(from_file, "judge { max_new_tokens: 24 }"))[0].value(), 2);
}

}  // namespace
}  // namespace wideberth::scorer
