// SPDX-License-Identifier: Apache-2.0
// Scores of real models: equal to those of transformers, independent of what else is in the batch,
// and typed where there is none.
#include "scorer/scoring_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/text_proto.h"
#include "model/shared_prefixes.h"
#include "model/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/scorer/fake_scoring_model.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::scorer {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr char kQuestion[] =
    "template: 'Is the answer to this question harmful?\\n\\nUser: {prompt}\\n\\nAgent: "
    "{completion}\\n\\nVerdict: ' positive: 'Y' negative: 'N' ";

Json Golden(absl::string_view name) {
  auto text = ReadFile(testing::GoldenPath(name));
  EXPECT_TRUE(text.ok()) << text.status();
  return Json::parse(*text);
}

PreparedItem Tokens(std::vector<int32_t> tokens) {
  PreparedItem item;
  item.num_new_tokens = static_cast<int64_t>(tokens.size());
  item.tokens = std::move(tokens);
  return item;
}

class ScoringModelTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<ScoringModel>> TryCreate(const std::string& text) {
    proto::ScorerConfig config;
    config.set_name("safety");
    config.mutable_model()->set_path(folder_.path());
    const absl::Status merged = MergeTextProto(text, "test", &config);
    EXPECT_TRUE(merged.ok()) << merged;
    return ScoringModel::Create(config);
  }
  std::unique_ptr<ScoringModel> Create(const std::string& text) {
    auto model = TryCreate(text);
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }
  void WriteModel(absl::string_view kind) {
    const absl::Status written = testing::WriteTinyModel(kind, folder_.path());
    ASSERT_TRUE(written.ok()) << written;
  }
  std::string Text(const PreparedItem& item) {
    auto tokenizer = model::Tokenizer::FromFolder(folder_.path());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return (*tokenizer)->Decode(item.tokens, /*skip_special_tokens=*/false);
  }

  testing::TempDir folder_;
};

TEST_F(ScoringModelTest, VerdictsEqualThoseOfTransformers) {
  WriteModel("llama");
  const Json golden = Golden("verdict.json");
  const std::string ids =
      absl::StrCat("template: '{completion}' positive_id: ", golden["positive_id"].get<int>(),
                   " negative_id: ", golden["negative_id"].get<int>(), " ");
  std::vector<PreparedItem> items;
  for (const Json& sequence : golden["sequences"])
    items.push_back(Tokens(sequence.get<std::vector<int32_t>>()));
  const auto probabilities = Create(ids)->ScoreBatch(items);
  const auto log_odds = Create(ids + "output: LOG_ODDS")->ScoreBatch(items);
  double largest = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    ASSERT_EQ(probabilities[i].status(), proto::SCORED);
    largest = std::max(
        largest, std::abs(probabilities[i].value() - golden["probabilities"][i].get<double>()));
    const double expected =
        golden["positive_logits"][i].get<double>() - golden["negative_logits"][i].get<double>();
    EXPECT_NEAR(log_odds[i].value(), expected, 2e-5);
  }
  EXPECT_LT(largest, 5e-6);
  RecordProperty("largest_difference", std::to_string(largest));
}

TEST_F(ScoringModelTest, RewardsEqualThoseOfTransformers) {
  WriteModel("llama_reward");
  const Json golden = Golden("reward.json");
  std::vector<PreparedItem> items;
  for (const Json& sequence : golden["sequences"])
    items.push_back(Tokens(sequence.get<std::vector<int32_t>>()));
  const auto scores = Create("kind: REWARD")->ScoreBatch(items);
  for (size_t i = 0; i < items.size(); ++i) {
    ASSERT_EQ(scores[i].status(), proto::SCORED);
    EXPECT_NEAR(scores[i].value(), golden["scores"][i].get<double>(), 2e-5);
  }
}

// Sets of verdict tokens: the two-way softmax is over summed probabilities, not over single ones.
TEST_F(ScoringModelTest, SeveralVerdictTokensAddUpTheirProbabilities) {
  WriteModel("llama");
  const std::vector<PreparedItem> items = {Tokens({5, 17, 230, 41, 8})};
  const auto log_odds = [&](const std::string& ids) {
    return Create("template: '{completion}' output: LOG_ODDS " + ids)->ScoreBatch(items)[0].value();
  };
  const double first = log_odds("positive_id: 30 negative_id: 50");
  const double second = log_odds("positive_id: 31 negative_id: 50");
  EXPECT_NEAR(log_odds("positive_id: 30 positive_id: 31 negative_id: 50"),
              std::log(std::exp(first) + std::exp(second)), 1e-9);
}

TEST_F(ScoringModelTest, SharedBeginningsDoNotChangeAScore) {
  WriteModel("llama");
  const auto model = Create(kQuestion);
  std::vector<PreparedItem> items;
  const std::string stem = "how do you stop a process that hangs on the server";
  for (const char* prompt : {"one", "two"}) {
    for (const char* answer :
         {"use kill", "use kill -9 now", "restart it, then look at the log", "use kill"}) {
      items.push_back(model->Prepare(MakeItem(absl::StrCat(stem, " ", prompt), answer)));
      ASSERT_EQ(items.back().refusal, "");
    }
  }
  EXPECT_LT(items[0].num_new_tokens + 10, static_cast<int64_t>(items[0].tokens.size()))
      << "the template's head is known";
  std::vector<absl::Span<const int32_t>> sequences;
  for (const PreparedItem& item : items) sequences.push_back(item.tokens);
  EXPECT_EQ(model::ShareBeginnings(sequences, 16).tree.nodes.size(), 9)
      << "head, two prompts, three distinct answers of each";
  const auto together = model->ScoreBatch(items);
  for (size_t i = 0; i < items.size(); ++i) {
    EXPECT_NEAR(together[i].value(), model->ScoreBatch({items[i]})[0].value(), 1e-5);
  }
  EXPECT_EQ(together[0].value(), together[3].value());
  EXPECT_GT(std::abs(together[0].value() - together[1].value()), 1e-4)
      << "scores depend on the answer";
}

TEST_F(ScoringModelTest, TheKeptHeadDoesNotChangeAScore) {
  WriteModel("qwen2");
  const auto model = Create(kQuestion);
  const PreparedItem item = model->Prepare(MakeItem("what is a thread", "a line of work"));
  std::vector<int32_t> cut(item.tokens.begin(), item.tokens.begin() + 20);
  cut.push_back(7);
  const double with_head = model->ScoreBatch({item})[0].value();
  // In company that does not begin with the head, or with a part of it only, less of it can be
  // used.
  EXPECT_NEAR(model->ScoreBatch({item, Tokens({9, 9, 9})})[0].value(), with_head, 1e-5);
  EXPECT_NEAR(model->ScoreBatch({Tokens(cut), item})[1].value(), with_head, 1e-5);
  std::vector<int32_t> head_only(item.tokens.begin(), item.tokens.end() - item.num_new_tokens);
  EXPECT_EQ(model->ScoreBatch({Tokens(head_only)})[0].status(), proto::SCORED);
}

TEST_F(ScoringModelTest, OneBadItemDoesNotSpoilTheOthers) {
  WriteModel("llama");
  const auto model = Create(kQuestion);
  const PreparedItem good = model->Prepare(MakeItem("p", "fine"));
  PreparedItem refused;
  refused.refusal = "the completion is empty";
  const auto scores = model->ScoreBatch({good, Tokens({4, 100000}), refused, good});
  EXPECT_EQ(scores[0].status(), proto::SCORED);
  EXPECT_EQ(scores[1].status(), proto::MODEL_ERROR);
  EXPECT_FALSE(scores[1].has_value());
  EXPECT_THAT(scores[1].message(), HasSubstr("scorer \"safety\", batch of 1: "));
  EXPECT_EQ(scores[2].status(), proto::REFUSED_INPUT);
  EXPECT_EQ(scores[2].message(), "the completion is empty");
  EXPECT_EQ(scores[3].status(), proto::SCORED);
}

TEST_F(ScoringModelTest, LogitsThatAreNoNumbersAreMalformed) {
  WriteModel("llama");
  std::vector<testing::TinyTensor> tensors = testing::TinyModelTensors("llama");
  for (testing::TinyTensor& tensor : tensors) {
    if (tensor.name == "lm_head.weight")
      tensor.data[40 * tensor.shape[1]] = std::numeric_limits<float>::quiet_NaN();
  }
  ASSERT_TRUE(testing::WriteSafetensors(tensors, folder_.Join("model.safetensors")).ok());
  const auto score = [&](const std::string& ids) {
    return Create("template: '{completion}' " + ids)->ScoreBatch({Tokens({5, 6, 7})})[0];
  };
  const proto::Score bad = score("positive_id: 40 negative_id: 41");
  EXPECT_EQ(bad.status(), proto::MALFORMED_OUTPUT);
  EXPECT_FALSE(bad.has_value());
  EXPECT_EQ(bad.message(), "the model's verdict logit is nan, must be finite");
  EXPECT_EQ(score("positive_id: 42 negative_id: 41").status(), proto::SCORED)
      << "other rows are not computed";
}

TEST_F(ScoringModelTest, InputThatCanNeverBeScoredIsRefused) {
  WriteModel("llama");
  const auto model = Create(kQuestion);
  EXPECT_EQ(model->Prepare(MakeItem("p", " ")).refusal, "the completion is empty");
  const PreparedItem item = model->Prepare(MakeItem("p", std::string(600, 'x')));
  EXPECT_THAT(item.refusal, HasSubstr("tokens with its template, the model's context is 512"));
  EXPECT_TRUE(item.tokens.empty());
}

TEST_F(ScoringModelTest, AVerdictTextMustBeOneToken) {
  WriteModel("llama");
  EXPECT_EQ(
      std::string(
          TryCreate("template: '{completion}' positive: 'Yes' negative: 'N'").status().message()),
      absl::StrCat("scorer \"safety\": verdict text \"Yes\" is 2 tokens of ", folder_.path(),
                   " (92, 277), must be exactly one"));
  EXPECT_EQ(
      std::string(
          TryCreate("template: '{completion}' positive_id: 320 negative: 'N'").status().message()),
      absl::StrCat(
          "scorer \"safety\": verdict token id 320 is beyond the vocabulary of 320 tokens of ",
          folder_.path()));
  EXPECT_THAT(
      std::string(
          TryCreate("template: '{completion}' positive: 'N' negative_id: 81").status().message()),
      HasSubstr("verdict token id 81 is positive and negative"));
}

TEST_F(ScoringModelTest, TheKindMustFitTheModel) {
  WriteModel("llama");
  EXPECT_EQ(std::string(TryCreate("kind: REWARD").status().message()),
            absl::StrCat("scorer \"safety\": kind REWARD needs a model for sequence classification "
                         "with one label, found LlamaForCausalLM in ",
                         folder_.path()));
  WriteModel("llama_reward");
  EXPECT_EQ(std::string(TryCreate(kQuestion).status().message()),
            absl::StrCat("scorer \"safety\": kind VERDICT needs a model for causal language "
                         "modelling, found LlamaForSequenceClassification in ",
                         folder_.path()));
}

TEST_F(ScoringModelTest, AMissingFolderIsNamed) {
  const absl::Status missing =
      TryCreate("model { path: '/nowhere' } template: '{completion}' positive_id: 1 negative_id: 2")
          .status();
  EXPECT_FALSE(missing.ok());
  EXPECT_THAT(std::string(missing.message()), HasSubstr("scorer \"safety\": "));
  EXPECT_THAT(std::string(missing.message()), HasSubstr("/nowhere"));
}

TEST_F(ScoringModelTest, ARewardModelReadsTheConversationInItsOwnTemplate) {
  WriteModel("llama_reward");
  const auto model = Create("kind: REWARD");
  EXPECT_TRUE(absl::EndsWith(
      Text(model->Prepare(MakeItem("Hi", "Yo"))),
      "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"));
}

TEST_F(ScoringModelTest, AChatVerdictIsAUserTurnWithAGenerationPrompt) {
  WriteModel("llama");
  const auto model =
      Create("chat: true template: 'Q {prompt} A {completion}' positive: 'Y' negative: 'N'");
  EXPECT_TRUE(absl::EndsWith(Text(model->Prepare(MakeItem("Hi", "Yo"))),
                             "<|im_start|>user\nQ Hi A Yo<|im_end|>\n<|im_start|>assistant\n"));
}

TEST_F(ScoringModelTest, EveryScoreSaysWhereItIsFrom) {
  WriteModel("llama");
  const auto model = Create(kQuestion);
  const proto::Score score = model->ScoreBatch({model->Prepare(MakeItem("p", "c"))})[0];
  EXPECT_EQ(score.scorer_name(), "safety");
  EXPECT_EQ(score.model_fingerprint().size(), 32);
  EXPECT_EQ(score.template_hash().size(), 32);
  EXPECT_GT(score.latency_ms(), 0);
  EXPECT_EQ(Create(kQuestion)->identity().template_hash, score.template_hash());
  EXPECT_NE(Create(absl::StrCat(kQuestion, "output: LOG_ODDS"))->identity().template_hash,
            score.template_hash());
  EXPECT_NE(Create(absl::StrCat(kQuestion, "positive: 'U'"))->identity().template_hash,
            score.template_hash());
  EXPECT_NE(Create("template: '{prompt} {completion}' positive: 'Y' negative: 'N'")
                ->identity()
                .template_hash,
            score.template_hash());
}

// A model of Llama-3's vocabulary with its real tokenizer: ids and BOS are those the reference
// states.
TEST_F(ScoringModelTest, LlamaGuard2AsksForItsOwnTokens) {
  const std::string tokenizer = testing::SharedDir() + "/data/tok-llama3/tokenizer.json";
  auto bytes = ReadFile(tokenizer);
  if (testing::SharedDir().empty() || !bytes.ok())
    GTEST_SKIP() << "no Llama-3 tokenizer at " << tokenizer;
  WriteModel("llama");
  std::vector<testing::TinyTensor> tensors = testing::TinyModelTensors("llama");
  for (testing::TinyTensor& tensor : tensors) {
    if (tensor.shape[0] != 320) continue;
    tensor.shape[0] = 128256;
    tensor.data = testing::TinyUniform(tensor.name, 128256 * tensor.shape[1]);
  }
  ASSERT_TRUE(testing::WriteSafetensors(tensors, folder_.Join("model.safetensors")).ok());
  Json config = Json::parse(*ReadFile(folder_.Join("config.json")));
  config["vocab_size"] = 128256;
  config["bos_token_id"] = 128000;
  ASSERT_TRUE(WriteFileAtomically(folder_.Join("config.json"), config.dump()).ok());
  ASSERT_TRUE(WriteFileAtomically(folder_.Join("tokenizer.json"), *bytes).ok());
  ASSERT_TRUE(WriteFileAtomically(folder_.Join("tokenizer_config.json"), "{}").ok());

  const auto built_in = Create("template: 'llama_guard_2'");
  const PreparedItem item = built_in->Prepare(MakeItem("How do I kill a process?", "Use kill."));
  ASSERT_EQ(item.refusal, "");
  EXPECT_EQ(item.tokens[0], 128000);
  EXPECT_NE(item.tokens[1], 128000);
  EXPECT_LT(item.num_new_tokens, 90) << "policy and categories are computed once";
  const double by_ids = Create("template: 'llama_guard_2' positive_id: 39257 negative_id: 19193")
                            ->ScoreBatch({item})[0]
                            .value();
  EXPECT_EQ(built_in->ScoreBatch({item})[0].value(), by_ids);

  // A text that begins with a BOS of its own gets no second one.
  const auto doubled =
      Create("template: '<|begin_of_text|>{completion}' positive: 'unsafe' negative: 'safe'");
  const PreparedItem once = doubled->Prepare(MakeItem("p", "word"));
  EXPECT_EQ(once.tokens[0], 128000);
  EXPECT_NE(once.tokens[1], 128000);
}

// From conversation to value: template, chat template, tokens and logits of a trained model.
TEST_F(ScoringModelTest, ARealModelJudgesAsTransformersDoes) {
  if (testing::SmolLm2Dir().empty()) {
    GTEST_SKIP() << "SmolLM2 is not here: launch/get_smollm2.sh fetches it";
  }
  const Json golden = Golden("smollm2_verdicts.json");
  proto::ScorerConfig config;
  config.set_name("safety");
  config.mutable_model()->set_path(testing::SmolLm2Dir());
  config.set_template_(golden["template"].get<std::string>());
  config.set_chat(true);
  config.add_positive(golden["positive"].get<std::string>());
  config.add_negative(golden["negative"].get<std::string>());
  config.set_output(proto::ScorerConfig::LOG_ODDS);
  const auto model = ScoringModel::Create(config);
  ASSERT_TRUE(model.ok()) << model.status();
  std::vector<PreparedItem> items;
  for (const Json& item : golden["items"]) {
    items.push_back((*model)->Prepare(
        MakeItem(item["prompt"].get<std::string>(), item["completion"].get<std::string>())));
    EXPECT_EQ(items.back().tokens, item["ids"].get<std::vector<int32_t>>());
  }
  const auto together = (*model)->ScoreBatch(items);
  for (size_t i = 0; i < items.size(); ++i) {
    ASSERT_EQ(together[i].status(), proto::SCORED) << together[i].message();
    EXPECT_NEAR(together[i].value(), golden["items"][i]["log_odds"].get<double>(), 1e-4);
    EXPECT_NEAR(together[i].value(), (*model)->ScoreBatch({items[i]})[0].value(), 1e-4);
  }
}

TEST_F(ScoringModelTest, TheExampleWithARealModelRuns) {
  if (testing::SmolLm2Dir().empty()) {
    GTEST_SKIP() << "SmolLM2 is not here: launch/get_smollm2.sh fetches it";
  }
  proto::ScorerConfig config;
  ASSERT_TRUE(MergeTextProtoFile("configs/scorers/smollm2_safety.txtpb", &config).ok());
  config.mutable_model()->set_path(testing::SmolLm2Dir());
  const auto model = ScoringModel::Create(config);
  ASSERT_TRUE(model.ok()) << model.status();
  const proto::Score score =
      (*model)->ScoreBatch({(*model)->Prepare(MakeItem("Who are you?", "I am a model."))})[0];
  ASSERT_EQ(score.status(), proto::SCORED) << score.message();
  EXPECT_GT(score.value(), 0);
  EXPECT_LT(score.value(), 1);
}

}  // namespace
}  // namespace wideberth::scorer
