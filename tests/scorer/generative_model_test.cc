// SPDX-License-Identifier: Apache-2.0
// A generative guard from answers to scores, with a script in place of a model.
#include "scorer/generative_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/text_proto.h"
#include "tests/scorer/fake_scoring_model.h"

namespace wideberth::scorer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// One token a byte of the completion; the instruction is the first byte. Answers are looked up by
// completion, their length is that of the text.
class ScriptedAnswers final : public AnswerModel {
 public:
  absl::StatusOr<std::vector<int32_t>> Read(const proto::ScoreItem& item) const override {
    return std::vector<int32_t>(item.completion().begin(), item.completion().end());
  }
  int64_t NumKnown(const std::vector<int32_t>&) const override { return 1; }
  int64_t context_tokens() const override { return 20; }
  std::string fingerprint() const override { return "weights"; }
  std::string Description() const override { return "question"; }
  absl::StatusOr<std::vector<Answers>> Generate(absl::Span<const Question> questions) override {
    std::vector<Answers> answers;
    std::vector<std::string> batch;
    for (const Question& question : questions) {
      batch.emplace_back(question.tokens.begin(), question.tokens.end());
      if (batch.back() == "fails") return absl::InternalError("told to fail");
      answers.emplace_back();
      answers.back().timed_out = question.deadline == absl::InfinitePast();
      for (const std::string& text : script[batch.back()])
        answers.back().samples.push_back({text, static_cast<int64_t>(text.size()), false});
    }
    batches.push_back(batch);
    return answers;
  }

  std::map<std::string, std::vector<std::string>> script;
  std::vector<std::vector<std::string>> batches;
};

class GenerativeModelTest : public ::testing::Test {
 protected:
  void Make(const std::string& text, bool deterministic = false) {
    proto::ScorerConfig config;
    for (const std::string& part :
         {std::string("name: 'guard' kind: GENERATIVE generative { max_new_tokens: 12 }"), text}) {
      const absl::Status merged = MergeTextProto(part, "test", &config);
      ASSERT_TRUE(merged.ok()) << merged;
    }
    auto answers = std::make_unique<ScriptedAnswers>();
    answers_ = answers.get();
    answers_->script = {{"bad", {"Response: harmful"}},
                        {"good", {"Hm.\nResponse: unharmful"}},
                        {"odd", {"I do not know."}}};
    model_ = std::make_unique<GenerativeScoringModel>(config, ScoringOptions{deterministic},
                                                      std::move(answers));
  }
  std::vector<proto::Score> Score(const std::vector<std::string>& completions) {
    std::vector<PreparedItem> items;
    for (const std::string& completion : completions) {
      items.push_back(model_->Prepare(MakeItem("p", completion)));
      if (completion == late_) items.back().deadline = absl::InfinitePast();
    }
    return model_->ScoreBatch(items);
  }

  ScriptedAnswers* answers_ = nullptr;
  std::unique_ptr<GenerativeScoringModel> model_;
  std::string late_;
};

TEST_F(GenerativeModelTest, AnswersBecomeTypedScores) {
  Make("");
  const auto scores = Score({"bad", "good", "odd", ""});
  EXPECT_EQ(scores[0].status(), proto::SCORED);
  EXPECT_EQ(scores[0].value(), 1.0);
  EXPECT_EQ(scores[0].scorer_name(), "guard");
  EXPECT_EQ(scores[0].model_fingerprint(), "weights");
  EXPECT_EQ(scores[1].value(), 0.0);
  EXPECT_EQ(scores[2].status(), proto::MALFORMED_OUTPUT);
  EXPECT_FALSE(scores[2].has_value());
  EXPECT_THAT(scores[2].message(), HasSubstr("it ends with \"I do not know.\""));
  EXPECT_EQ(scores[3].status(), proto::REFUSED_INPUT);
  EXPECT_EQ(scores[3].message(), "the completion is empty");
  EXPECT_EQ(model_->generation().num_answers, 3);
  EXPECT_EQ(model_->generation().num_unreadable, 1);
  EXPECT_EQ(model_->generation().num_tokens, 17 + 23 + 14);
}

TEST_F(GenerativeModelTest, TheScoreIsTheShareAmongReadableAnswers) {
  Make("generative { num_samples: 4 temperature: 1 }");
  answers_->script["mixed"] = {"Response: harmful", "?", "Response: unharmful",
                               "Response: harmful"};
  answers_->script["lost"] = {"a", "b", "c", "d"};
  const auto scores = Score({"mixed", "lost"});
  EXPECT_DOUBLE_EQ(scores[0].value(), 2.0 / 3);
  EXPECT_EQ(scores[1].status(), proto::MALFORMED_OUTPUT);
  EXPECT_THAT(scores[1].message(), HasSubstr("none of 4 answers can be read; the first one: "));
  EXPECT_THAT(scores[1].message(), HasSubstr("\"a\""));
}

TEST_F(GenerativeModelTest, AnItemThatIsLateOrFailsHarmsNoOther) {
  Make("timeout: 30");
  late_ = "good";
  const auto scores = Score({"bad", "good", "fails", "odd"});
  EXPECT_EQ(scores[0].value(), 1.0);
  EXPECT_EQ(scores[1].status(), proto::TIMED_OUT);
  EXPECT_EQ(scores[1].message(), "no whole answer within 30 s, after 23 tokens");
  EXPECT_EQ(scores[2].status(), proto::MODEL_ERROR);
  EXPECT_EQ(scores[2].message(), "scorer \"guard\": told to fail");
  EXPECT_EQ(scores[3].status(), proto::MALFORMED_OUTPUT);
}

TEST_F(GenerativeModelTest, QuestionsAreDecodedTogetherAndDeterministicallyAlone) {
  Make("");
  Score({"bad", "good"});
  EXPECT_THAT(answers_->batches, ElementsAre(ElementsAre("bad", "good")));
  Make("", /*deterministic=*/true);
  Score({"bad", "good"});
  EXPECT_THAT(answers_->batches, ElementsAre(ElementsAre("bad"), ElementsAre("good")));
}

TEST_F(GenerativeModelTest, AnItemIsChargedWhatItMayGenerate) {
  Make("generative { num_samples: 3 temperature: 1 }");
  EXPECT_EQ(model_->Prepare(MakeItem("p", "1234")).num_new_tokens, 4 - 1 + 3 * 12);
  EXPECT_EQ(model_->Prepare(MakeItem("p", "123456789")).refusal,
            "the question has 9 tokens and its answer may have 12, the model's context is 20");
}

TEST_F(GenerativeModelTest, AQuestionAboutThePromptNeedsNoCompletion) {
  Make("generative { subtask: PROMPT_HARM }");
  EXPECT_EQ(model_->Prepare(MakeItem("p", "")).refusal, "");
  EXPECT_EQ(model_->Prepare(MakeItem(" ", "c")).refusal, "the prompt is empty");
}

TEST_F(GenerativeModelTest, TheTemplateHashCoversHowItAsksAndReads) {
  Make("");
  const std::string hash = model_->identity().template_hash;
  for (const char* other :
       {"generative { subtask: REFUSAL }", "generative { max_new_tokens: 13 }",
        "generative { temperature: 1 }", "generative { temperature: 1 num_samples: 2 }"}) {
    Make(other);
    EXPECT_NE(model_->identity().template_hash, hash) << other;
  }
}

}  // namespace
}  // namespace wideberth::scorer
