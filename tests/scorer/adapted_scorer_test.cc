// SPDX-License-Identifier: Apache-2.0
// Trained guards and reward models (base and PEFT adapter) score as PEFT does, and in deterministic
// mode a score's bits are a function of its item only.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/text_proto.h"
#include "nlohmann/json.hpp"
#include "scorer/batcher.h"
#include "scorer/conversation_key.h"
#include "scorer/scoring_model.h"
#include "tests/scorer/fake_scoring_model.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::scorer {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

Json Golden(absl::string_view name) {
  auto text = ReadFile(testing::GoldenPath(name));
  EXPECT_TRUE(text.ok()) << text.status();
  return Json::parse(*text);
}

class AdaptedScorerTest : public ::testing::Test {
 protected:
  AdaptedScorerTest() {
    EXPECT_TRUE(testing::WriteTinyModel("llama", base_.path()).ok());
    EXPECT_TRUE(testing::WriteTinyAdapter("llama", golden_["r"], golden_["alpha"],
                                          golden_["targets"].get<std::vector<std::string>>(),
                                          adapter_.path())
                    .ok());
  }
  absl::StatusOr<std::unique_ptr<ScoringModel>> TryCreate(const std::string& text,
                                                          bool adapted = true,
                                                          bool deterministic = false) {
    proto::ScorerConfig config;
    config.set_name("safety");
    config.mutable_model()->set_path(base_.path());
    if (adapted) config.set_adapter(adapter_.path());
    const absl::Status merged = MergeTextProto(text, "test", &config);
    EXPECT_TRUE(merged.ok()) << merged;
    return ScoringModel::Create(config, {deterministic});
  }
  std::unique_ptr<ScoringModel> Create(const std::string& text, bool adapted = true,
                                       bool deterministic = false) {
    auto model = TryCreate(text, adapted, deterministic);
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }
  std::string Verdict() const {
    return absl::StrCat("template: '{completion}' positive_id: ", golden_["positive_id"].get<int>(),
                        " negative_id: ", golden_["negative_id"].get<int>(), " ");
  }
  std::vector<PreparedItem> GoldenItems() const {
    std::vector<PreparedItem> items;
    for (const Json& sequence : golden_["sequences"]) {
      items.emplace_back();
      items.back().tokens = sequence.get<std::vector<int32_t>>();
    }
    return items;
  }
  void WriteCalibration(const std::string& text) {
    ASSERT_TRUE(WriteFileAtomically(adapter_.Join("calibration.json"), text).ok());
  }

  const Json golden_ = Golden("scorer_adapters.json");
  testing::TempDir base_, adapter_;
};

TEST_F(AdaptedScorerTest, VerdictsEqualThoseOfPeft) {
  const auto log_odds = Create(Verdict() + "output: LOG_ODDS")->ScoreBatch(GoldenItems());
  WriteCalibration(absl::StrCat("{\"temperature\": ", golden_["temperature"].get<double>(), "}"));
  const auto probabilities = Create(Verdict())->ScoreBatch(GoldenItems());
  const auto tempered = Create(Verdict() + "output: LOG_ODDS")->ScoreBatch(GoldenItems());
  double largest = 0;
  for (size_t i = 0; i < log_odds.size(); ++i) {
    ASSERT_EQ(log_odds[i].status(), proto::SCORED) << log_odds[i].message();
    const double expected = golden_["log_odds"][i];
    EXPECT_NEAR(log_odds[i].value(), expected, 2e-5);
    EXPECT_NEAR(tempered[i].value(), expected / golden_["temperature"].get<double>(), 2e-5);
    largest = std::max(largest, std::abs(probabilities[i].value() -
                                         golden_["tempered_probabilities"][i].get<double>()));
  }
  EXPECT_LT(largest, 5e-6);
  RecordProperty("largest_difference", std::to_string(largest));
}

// Over a causal model, as reward training leaves it, and over a sequence classifier, whose own head
// the trained one replaces.
TEST_F(AdaptedScorerTest, RewardsWithATrainedHeadEqualThoseOfPeft) {
  std::vector<testing::TinyTensor> tensors = testing::TinyAdapterTensors(
      "llama", golden_["r"], golden_["targets"].get<std::vector<std::string>>());
  const std::string name = golden_["score_head"];
  std::vector<float> head = testing::TinyUniform(name, 64);
  for (float& value : head) value *= 0.25f;
  tensors.push_back({name, {1, 64}, head});
  ASSERT_TRUE(testing::WriteSafetensors(tensors, adapter_.Join("adapter_model.safetensors")).ok());
  for (const char* kind : {"llama", "llama_reward"}) {
    ASSERT_TRUE(testing::WriteTinyModel(kind, base_.path()).ok());
    const auto scores = Create("kind: REWARD")->ScoreBatch(GoldenItems());
    for (size_t i = 0; i < scores.size(); ++i) {
      ASSERT_EQ(scores[i].status(), proto::SCORED) << scores[i].message();
      EXPECT_NEAR(scores[i].value(), golden_["rewards"][i].get<double>(), 2e-5) << kind;
    }
  }
  ASSERT_TRUE(testing::WriteTinyModel("llama", base_.path()).ok());
  EXPECT_EQ(std::string(TryCreate(Verdict()).status().message()),
            absl::StrCat("scorer \"safety\": adapter ", adapter_.path(),
                         " has a score head, which kind REWARD reads, found kind VERDICT"));
}

TEST_F(AdaptedScorerTest, AnAdapterOfAllWeightsScoresAsAModelWithTheseWeights) {
  std::vector<testing::TinyTensor> tensors = testing::TinyModelTensors("llama");
  for (testing::TinyTensor& tensor : tensors) {
    for (float& value : tensor.data) value *= 1.25f;
  }
  testing::TempDir other;
  ASSERT_TRUE(testing::WriteTinyModel("llama", other.path()).ok());
  ASSERT_TRUE(testing::WriteSafetensors(tensors, other.Join("model.safetensors")).ok());
  for (testing::TinyTensor& tensor : tensors)
    tensor.name = absl::StrCat("base_model.model.", tensor.name);
  ASSERT_TRUE(testing::WriteSafetensors(tensors, adapter_.Join("adapter_model.safetensors")).ok());
  const auto adapted = Create(Verdict())->ScoreBatch(GoldenItems());
  const std::string path = absl::StrCat("model { path: '", other.path(), "' } ");
  const auto whole = Create(path + Verdict(), /*adapted=*/false)->ScoreBatch(GoldenItems());
  const auto base = Create(Verdict(), /*adapted=*/false)->ScoreBatch(GoldenItems());
  for (size_t i = 0; i < whole.size(); ++i) {
    ASSERT_EQ(adapted[i].status(), proto::SCORED) << adapted[i].message();
    EXPECT_EQ(adapted[i].value(), whole[i].value());
    EXPECT_NE(adapted[i].value(), base[i].value());
  }
}

TEST_F(AdaptedScorerTest, ARewardNeedsAHeadFromSomewhere) {
  EXPECT_EQ(std::string(TryCreate("kind: REWARD").status().message()),
            absl::StrCat("scorer \"safety\": kind REWARD needs a model for sequence classification "
                         "with one label, or an adapter with a score head, found LlamaForCausalLM "
                         "in ",
                         base_.path()));
}

TEST_F(AdaptedScorerTest, TheFingerprintCoversAdapterAndCalibration) {
  std::set<std::string> fingerprints;
  const auto add = [&](bool adapted) {
    const std::string fingerprint = Create(Verdict(), adapted)->identity().model_fingerprint;
    EXPECT_EQ(fingerprint.size(), 32);
    EXPECT_EQ(Create(Verdict(), adapted)->identity().model_fingerprint, fingerprint);
    EXPECT_TRUE(fingerprints.insert(fingerprint).second);
  };
  add(false);
  add(true);
  WriteCalibration("{\"temperature\": 1.5}");
  add(true);
  WriteCalibration("{\"temperature\": 1.25}");
  add(true);
  std::vector<testing::TinyTensor> tensors = testing::TinyAdapterTensors(
      "llama", golden_["r"], golden_["targets"].get<std::vector<std::string>>());
  tensors.back().data.back() += 0.5f;
  ASSERT_TRUE(testing::WriteSafetensors(tensors, adapter_.Join("adapter_model.safetensors")).ok());
  add(true);
  Json config = Json::parse(*ReadFile(adapter_.Join("adapter_config.json")));
  config["lora_alpha"] = 16;
  ASSERT_TRUE(WriteFileAtomically(adapter_.Join("adapter_config.json"), config.dump()).ok());
  add(true);
}

TEST_F(AdaptedScorerTest, WhatIsWrongWithAnAdapterIsSaidInOneSentence) {
  WriteCalibration("{\"temperature\": 0}");
  EXPECT_EQ(std::string(TryCreate(Verdict()).status().message()),
            absl::StrCat("scorer \"safety\": ", adapter_.path(),
                         "/calibration.json: temperature is 0, expected {\"temperature\": a "
                         "positive number}"));
  const std::string missing(TryCreate(Verdict() + "adapter: '/nowhere/guard'").status().message());
  EXPECT_THAT(missing, HasSubstr("scorer \"safety\": /nowhere/guard/adapter_config.json"));
  ASSERT_TRUE(testing::WriteTinyAdapter("qwen2", 4, 8, {"q_proj"}, adapter_.path()).ok());
  const std::string other(TryCreate(Verdict()).status().message());
  EXPECT_THAT(other, HasSubstr("scorer \"safety\": "));
  EXPECT_THAT(other, HasSubstr("adapter_model.safetensors"));
}

std::vector<proto::ScoreItem> RandomItems(int count, std::mt19937* random) {
  const std::vector<std::string> words = {"how",  "do",  "you",   "stop", "a",   "process",
                                          "kill", "now", "first", "then", "log", "restart"};
  std::vector<proto::ScoreItem> items;
  for (int i = 0; i < count; ++i) {
    std::string texts[2];
    for (std::string& text : texts) {
      const int length = 1 + static_cast<int>((*random)() % 12);
      for (int w = 0; w < length; ++w)
        absl::StrAppend(&text, w == 0 ? "" : " ", words[(*random)() % words.size()]);
    }
    // Prompts repeat, so that beginnings are shared as they are within a group.
    items.push_back(i % 3 == 0 || items.empty()
                        ? MakeItem(texts[0], texts[1])
                        : MakeItem(items.back().prompt(0).content(), texts[1]));
  }
  return items;
}

TEST_F(AdaptedScorerTest, DeterministicScoresDependOnTheItemOnlyToTheLastBit) {
  std::mt19937 random(20260101);
  const std::string text =
      "template: 'Is the answer to this question harmful?\\n\\nUser: {prompt}\\n\\nAgent: "
      "{completion}\\n\\nVerdict: ' positive: 'Y' negative: 'N' output: LOG_ODDS ";
  const std::vector<proto::ScoreItem> items = RandomItems(24, &random);
  std::map<std::string, double> alone;
  {
    const auto model = Create(text, true, true);
    for (const proto::ScoreItem& item : items)
      alone[ConversationKey(item)] = model->ScoreBatch({model->Prepare(item)})[0].value();
  }
  int64_t num_hits = 0;
  for (int round = 0; round < 6; ++round) {
    const auto model = Create(text, true, true);  // A restarted scorer.
    BatcherOptions options;
    options.max_batch_tokens = 1 + static_cast<int64_t>(random() % 400);
    options.max_batch_wait = absl::ZeroDuration();
    options.cache_items = round % 2 == 0 ? 8 : 0;
    Batcher batcher(options, model.get(), &Clock::Real());
    for (int request = 0; request < 8; ++request) {
      std::vector<proto::ScoreItem> some;
      for (size_t i = 0; i < 1 + random() % 10; ++i) some.push_back(items[random() % items.size()]);
      bool answered = false;
      batcher.Submit(some, [&](std::vector<proto::Score> scores) {
        answered = true;
        for (size_t i = 0; i < scores.size(); ++i) {
          ASSERT_EQ(scores[i].status(), proto::SCORED) << scores[i].message();
          ASSERT_EQ(scores[i].value(), alone[ConversationKey(some[i])]);
        }
      });
      while (!answered) batcher.RunOnce(absl::ZeroDuration());
    }
    num_hits += batcher.Stats().num_cache_hits;
  }
  EXPECT_GT(num_hits, 0);
}

}  // namespace
}  // namespace wideberth::scorer
