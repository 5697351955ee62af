// SPDX-License-Identifier: Apache-2.0
// The untrained model's folder: one token a word, the ids of the `tokenizers` package, and a model
// that our own code loads.
#include "toyworld/model_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "launch/toyworld.h"
#include "model/causal_lm.h"
#include "model/tokenizer.h"
#include "tests/testing/paths.h"
#include "toyworld/datasets.h"

namespace wideberth::toyworld {
namespace {

using ::testing::ElementsAre;
using wideberth::testing::TempDir;

class ModelFolderTest : public ::testing::Test {
 protected:
  ModelFolderTest() {
    const absl::Status written =
        launch::ToyWorld({"--out", dir_.path(), "--num_sft_rows=10", "--num_preferences=10"});
    EXPECT_TRUE(written.ok()) << written;
    auto tokenizer = model::Tokenizer::FromFolder(dir_.Join("init"));
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }
  TempDir dir_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
};

TEST_F(ModelFolderTest, EveryWordIsItsOwnTokenWhereverItStands) {
  for (size_t id = 0; id < Vocabulary().size(); ++id) {
    const std::string& word = Vocabulary()[id];
    const int32_t expected = static_cast<int32_t>(id);
    EXPECT_THAT(tokenizer_->Encode(word), ElementsAre(expected)) << word;
    EXPECT_THAT(tokenizer_->Encode(absl::StrCat("<bos>", word, " ", word, "<sep>", word, "<eos>")),
                ElementsAre(1, expected, expected, 3, expected, 2))
        << word;
    EXPECT_EQ(tokenizer_->IsSpecial(expected), id < 4) << word;
  }
  EXPECT_EQ(tokenizer_->vocab_size(), 418);
}

TEST_F(ModelFolderTest, DecodingGivesTheWordsBack) {
  const World world = MakeWorld({});
  for (const SftPair& pair : world.sft) {
    const auto ids = tokenizer_->Encode(pair.completion);
    EXPECT_EQ(ids.size(), SplitWords(pair.completion).size());
    EXPECT_EQ(JoinWords(SplitWords(tokenizer_->Decode(ids))), pair.completion);
  }
}

// tests/golden/toyworld_tokenizer.json holds what the reference makes of the same tokenizer.json.
TEST_F(ModelFolderTest, IdsAreThoseOfTheReference) {
  std::ifstream file(wideberth::testing::GoldenPath("toyworld_tokenizer.json"));
  const nlohmann::json golden = nlohmann::json::parse(file, nullptr, false);
  ASSERT_TRUE(golden.is_object()) << "tests/golden/toyworld_tokenizer.json cannot be read";
  for (const nlohmann::json& row : golden["rows"]) {
    const std::string text = row["text"];
    const auto ids = tokenizer_->Encode(text);
    EXPECT_EQ(ids, row["ids"].get<std::vector<int32_t>>()) << text;
    EXPECT_EQ(tokenizer_->Decode(ids), row["decoded"].get<std::string>()) << text;
  }
  EXPECT_GE(golden["rows"].size(), 10u);
}

TEST_F(ModelFolderTest, TheModelLoadsAndHasItsInitialisation) {
  proto::ModelConfig config;
  config.set_path(dir_.Join("init"));
  const auto lm = model::CausalLm::Load(config);
  ASSERT_TRUE(lm.ok()) << lm.status();
  EXPECT_EQ((*lm)->spec().num_layers, 3);
  EXPECT_EQ((*lm)->spec().max_positions, 128);
  EXPECT_THAT((*lm)->spec().eos_token_ids, ElementsAre(2));
  int64_t num_parameters = 0;
  for (const InitialTensor& tensor : InitialTensors(16)) {
    num_parameters += static_cast<int64_t>(tensor.values.size());
    if (tensor.shape.size() == 1) continue;
    double square = 0;
    for (float value : tensor.values) square += double{value} * value;
    const bool residual = tensor.name.find("o_proj") != std::string::npos ||
                          tensor.name.find("down_proj") != std::string::npos;
    const double expected = 1.0 / static_cast<double>(tensor.shape[1]) / (residual ? 6 : 1);
    EXPECT_NEAR(square / static_cast<double>(tensor.values.size()) / expected, 1, 0.1)
        << tensor.name;
  }
  EXPECT_EQ(num_parameters, 344928);
}

}  // namespace
}  // namespace wideberth::toyworld
