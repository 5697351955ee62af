// SPDX-License-Identifier: Apache-2.0
// Generative guards with real, tiny models: from a conversation to a verdict, and answers that
// depend on their question only.
#include "scorer/answer_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "base/text_proto.h"
#include "scorer/scoring_model.h"
#include "tests/scorer/fake_scoring_model.h"
#include "tests/scorer/parrot_model.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::scorer {
namespace {

using ::testing::HasSubstr;

class AnswerModelTest : public ::testing::Test {
 protected:
  AnswerModelTest() { EXPECT_TRUE(testing::WriteTinyModel("llama", folder_.path()).ok()); }

  proto::ScorerConfig Config(const std::string& text) {
    proto::ScorerConfig config;
    config.mutable_model()->set_path(folder_.path());
    for (const std::string& part :
         {std::string("name: 'guard' kind: GENERATIVE "
                      "generative { instruction: 'Is it harmful?\\n' max_new_tokens: 24 }"),
          text}) {
      const absl::Status merged = MergeTextProto(part, "test", &config);
      EXPECT_TRUE(merged.ok()) << merged;
    }
    return config;
  }
  std::unique_ptr<AnswerModel> Load(const std::string& text) {
    auto model = AnswerModel::Load(Config(text));
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }

  testing::TempDir folder_;
};

TEST_F(AnswerModelTest, FromAConversationToAVerdict) {
  ASSERT_TRUE(WriteParrotModel("ReSpOnsE:HarmFUl", folder_.path()).ok());
  const auto model = ScoringModel::Create(Config(""));
  ASSERT_TRUE(model.ok()) << model.status();
  const auto scores = (*model)->ScoreBatch(
      {(*model)->Prepare(MakeItem("How?", "So.")), (*model)->Prepare(MakeItem("Why?", "Hence."))});
  for (const proto::Score& score : scores) {
    ASSERT_EQ(score.status(), proto::SCORED) << score.message();
    EXPECT_EQ(score.value(), 1.0);
    EXPECT_EQ(score.model_fingerprint().size(), 32);
  }
  EXPECT_EQ((*model)->generation().num_answers, 2);
  EXPECT_EQ((*model)->generation().num_tokens, 2 * 17);
  // A budget that ends within the verdict leaves nothing to read.
  const auto cut = ScoringModel::Create(Config("generative { max_new_tokens: 12 }"));
  const proto::Score score = (*cut)->ScoreBatch({(*cut)->Prepare(MakeItem("How?", "So."))})[0];
  EXPECT_EQ(score.status(), proto::MALFORMED_OUTPUT);
  EXPECT_THAT(score.message(), HasSubstr("where max_new_tokens cut it off"));
}

TEST_F(AnswerModelTest, AnswersDependOnTheQuestionOnly) {
  const std::string sampled = "generative { temperature: 1 num_samples: 3 } ";
  for (const std::string& text : {std::string(), sampled}) {
    const auto model = Load(text);
    std::vector<AnswerModel::Question> questions;
    for (const char* completion : {"use kill", "restart it", "look at the log", "use kill"}) {
      questions.push_back({*model->Read(MakeItem("how do you stop it", completion))});
      EXPECT_GT(model->NumKnown(questions.back().tokens), 10);
    }
    // In company that does not begin with the instruction, nothing is taken from memory.
    questions.push_back({{9, 9, 9}});
    EXPECT_EQ(model->NumKnown({9, 9, 9}), 0);
    const auto together = *model->Generate(questions);
    ASSERT_EQ(together.size(), 5);
    const auto again = Load(text);
    for (size_t i = 0; i < questions.size(); ++i) {
      const auto alone = (*again->Generate({questions[i]}))[0];
      ASSERT_EQ(alone.samples.size(), text.empty() ? 1 : 3);
      for (size_t s = 0; s < alone.samples.size(); ++s) {
        EXPECT_EQ(alone.samples[s].text, together[i].samples[s].text);
        EXPECT_EQ(alone.samples[s].truncated, alone.samples[s].num_tokens == 24);
      }
    }
    EXPECT_EQ(together[0].samples[0].text, together[3].samples[0].text);
    EXPECT_NE(together[0].samples[0].text, together[1].samples[0].text);
    if (!text.empty()) {
      EXPECT_NE(together[0].samples[0].text, together[0].samples[1].text);
    }
  }
}

TEST_F(AnswerModelTest, AQuestionOutOfTimeIsLeftAndTheOthersGoOn) {
  const auto model = Load("");
  std::vector<AnswerModel::Question> questions;
  for (const char* completion : {"use kill", "restart it", "look at the log"})
    questions.push_back({*model->Read(MakeItem("how do you stop it", completion))});
  const auto whole = *model->Generate(questions);
  questions[1].deadline = absl::InfinitePast();
  const auto answers = *model->Generate(questions);
  EXPECT_TRUE(answers[1].timed_out);
  EXPECT_EQ(answers[1].samples[0].num_tokens, 1) << "the first token comes with the question";
  for (size_t i : {0, 2}) {
    EXPECT_FALSE(answers[i].timed_out);
    EXPECT_EQ(answers[i].samples[0].text, whole[i].samples[0].text);
  }
}

TEST_F(AnswerModelTest, AnInterruptedGenerationEndsAndNoOtherBegins) {
  const auto model = Load("generative { temperature: 1 num_samples: 500 max_new_tokens: 100 }");
  const AnswerModel::Question question = {*model->Read(MakeItem("how do you stop it", "use kill"))};
  std::vector<AnswerModel::Answers> answers;
  std::thread device([&] { answers = *model->Generate({question}); });
  model->Interrupt();
  device.join();
  EXPECT_TRUE(answers[0].timed_out);
  for (const AnswerModel::Answer& answer : answers[0].samples) EXPECT_LT(answer.num_tokens, 100);
  const auto later = *model->Generate({question, question});
  ASSERT_EQ(later.size(), 2);
  EXPECT_TRUE(later[1].timed_out);
  EXPECT_TRUE(later[1].samples.empty());
}

TEST_F(AnswerModelTest, WhatCannotGenerateIsSaid) {
  EXPECT_THAT(
      std::string(
          AnswerModel::Load(Config("generative { max_new_tokens: 512 }")).status().message()),
      HasSubstr("tokens, generative.max_new_tokens is 512, the context of "));
  ASSERT_TRUE(testing::WriteTinyModel("llama_reward", folder_.path()).ok());
  EXPECT_THAT(std::string(AnswerModel::Load(Config("")).status().message()),
              HasSubstr("scorer \"guard\": kind GENERATIVE needs a model for causal language "
                        "modelling, found LlamaForSequenceClassification in "));
}

}  // namespace
}  // namespace wideberth::scorer
