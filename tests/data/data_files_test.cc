// SPDX-License-Identifier: Apache-2.0
// `wideberth data`: files that the learner reads; the repository's recipes, on the shared data
// where it is there.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/text_proto.h"
#include "data/duplicates.h"
#include "data/recipe.h"
#include "data/rows.h"
#include "launch/data.h"
#include "learner/prompts.h"
#include "proto/data.pb.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::launch {
namespace {

using ::testing::HasSubstr;
using testing::TempDir;

absl::StatusOr<learner::PromptSet> Load(const std::string& path) {
  proto::PromptsConfig config;
  config.add_path(path);
  return learner::PromptSet::Load(config, 0);
}

TEST(DataFilesTest, TheLearnerReadsThemAndTheyComeOutTheSameAgain) {
  TempDir dir;
  std::string rows = "ask,kind\n";
  for (int i = 0; i < 40; ++i)
    absl::StrAppend(&rows, "\"tide ", i, ", or \"\"wave\"\"\nno ", i, "\",sea\n");
  ASSERT_TRUE(WriteFileAtomically(dir.Join("rows.csv"), rows).ok());
  ASSERT_TRUE(WriteFileAtomically(dir.Join("recipe.txtpb"), R"(
      near_duplicates { threshold: 1 }
      source { name: "sea" unsafe: false num_train: 20 num_test: 10
               files { path: "rows.csv" prompt: "ask" category: "kind" } })")
                  .ok());
  for (const char* out : {"one", "two"}) {
    const absl::Status status =
        Data({"--recipe", dir.Join("recipe.txtpb"), "--root", dir.path(), "--out", dir.Join(out)});
    ASSERT_TRUE(status.ok()) << status;
  }
  for (const char* file : {"train.jsonl", "test.jsonl", "manifest.json"}) {
    EXPECT_EQ(*ReadFile(dir.Join(absl::StrCat("one/", file))),
              *ReadFile(dir.Join(absl::StrCat("two/", file))));
  }
  const auto train = Load(dir.Join("one/train.jsonl"));
  ASSERT_TRUE(train.ok()) << train.status();
  EXPECT_EQ(train->num_train(), 20);
  EXPECT_TRUE(train->CheckLabels().ok());
  EXPECT_EQ(train->Train(0).prompt.category(), "sea");
  EXPECT_THAT(train->Train(0).prompt.message(0).content(), HasSubstr("or \"wave\"\nno "));
  const auto manifest = nlohmann::json::parse(*ReadFile(dir.Join("one/manifest.json")));
  EXPECT_EQ(manifest["files"]["train.jsonl"]["sha256"],
            data::Sha256(*ReadFile(dir.Join("one/train.jsonl"))));
  EXPECT_EQ(manifest["recipe_sha256"], data::Sha256(*ReadFile(dir.Join("recipe.txtpb"))));
}

TEST(DataFilesTest, CountsTokensWithTheModelsTokenizer) {
  TempDir dir;
  ASSERT_TRUE(MakeDirectories(dir.Join("model")).ok());
  ASSERT_TRUE(testing::WriteTinyTokenizer(dir.Join("model")).ok());
  ASSERT_TRUE(WriteFileAtomically(dir.Join("a.txt"), "a b\na b c d e f g h i j k l m n\n").ok());
  ASSERT_TRUE(WriteFileAtomically(dir.Join("recipe.txtpb"), R"(limits { max_tokens: 8 }
      source { name: "s" num_train: 1 files { path: "a.txt" } })")
                  .ok());
  std::vector<std::string> arguments = {"--recipe", dir.Join("recipe.txtpb"), "--root", dir.path(),
                                        "--out",    dir.Join("out")};
  EXPECT_THAT(std::string(Data(arguments).message()), HasSubstr("needs --tokenizer"));
  EXPECT_FALSE(std::filesystem::exists(dir.Join("out")));
  arguments.push_back("--tokenizer=" + dir.Join("model"));
  const absl::Status status = Data(arguments);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(*ReadFile(dir.Join("out/train.jsonl")), HasSubstr("\"a b\""));
}

TEST(DataFilesTest, ASplitThatNobodyWantsHasNoFile) {
  TempDir dir;
  ASSERT_TRUE(WriteFileAtomically(dir.Join("a.txt"), "one\ntwo\n").ok());
  for (const char* split : {"num_train", "num_test"}) {
    ASSERT_TRUE(WriteFileAtomically(
                    dir.Join("r.txtpb"),
                    absl::StrCat("source { name: \"s\" files { path: \"a.txt\" } ", split, ": 1 }"))
                    .ok());
    const absl::Status status =
        Data({"--recipe", dir.Join("r.txtpb"), "--root", dir.path(), "--out", dir.Join("out")});
    ASSERT_TRUE(status.ok()) << status;
  }
  EXPECT_FALSE(std::filesystem::exists(dir.Join("out/train.jsonl")));
  EXPECT_TRUE(std::filesystem::exists(dir.Join("out/test.jsonl")));
  const auto manifest = nlohmann::json::parse(*ReadFile(dir.Join("out/manifest.json")));
  EXPECT_EQ(manifest["files"].size(), 1u);
}

TEST(DataFilesTest, AMistypedRecipeIsNamedByPlace) {
  TempDir dir;
  ASSERT_TRUE(WriteFileAtomically(dir.Join("r.txtpb"), "seed: 1\nsource { nam: \"s\" }\n").ok());
  const absl::Status status = Data({"--recipe", dir.Join("r.txtpb"), "--out", dir.Join("out")});
  EXPECT_THAT(std::string(status.message()), HasSubstr("r.txtpb:2:13"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("the nearest valid name is \"name\""));
}

std::vector<std::string> Recipes() {
  std::vector<std::string> recipes;
  for (const auto& entry : std::filesystem::directory_iterator("configs/data"))
    recipes.push_back(entry.path().string());
  return recipes;
}

TEST(DataFilesTest, EveryRecipeIsValid) {
  ASSERT_FALSE(Recipes().empty());
  for (const std::string& path : Recipes()) {
    proto::DataRecipe recipe;
    const absl::Status parsed = MergeTextProtoFile(path, &recipe);
    ASSERT_TRUE(parsed.ok()) << parsed;
    const absl::Status valid = data::ValidateRecipe(recipe, /*has_tokenizer=*/true);
    EXPECT_TRUE(valid.ok()) << path << ": " << valid;
  }
}

TEST(DataFilesTest, ThePapersMixComesOutOfTheSharedData) {
  const std::string shared = testing::SharedDir();
  if (!std::filesystem::exists(shared + "/data/alpaca-refusal-direction"))
    GTEST_SKIP() << "the shared data (../shared/data) is not there";
  TempDir dir;
  const absl::Status status = Data(
      {"--recipe=configs/data/paper_mix.txtpb", "--root", shared + "/data", "--out", dir.path()});
  ASSERT_TRUE(status.ok()) << status;
  std::map<std::string, int> counts[2];
  std::vector<data::Signature> train, test;
  for (int split : {0, 1}) {
    const auto set = Load(dir.Join(split == 0 ? "train.jsonl" : "test.jsonl"));
    ASSERT_TRUE(set.ok()) << set.status();
    for (int64_t i = 0; i < set->num_train(); ++i) {
      const proto::Prompt& prompt = set->InFileOrder(i).prompt;
      ++counts[split][prompt.source()];
      EXPECT_EQ(prompt.unsafe(), prompt.source() != "alpaca");
      const std::string& text = prompt.message(0).content();
      EXPECT_FALSE(absl::StrContains(text, "[INSERT PROMPT HERE]"));
      (split == 0 ? train : test).push_back(data::Sign(data::Normalized(text), 3));
    }
  }
  EXPECT_EQ(counts[0], (std::map<std::string, int>{
                           {"alpaca", 3000}, {"harmfulqa", 880}, {"jailbreak", 4000}}));
  EXPECT_EQ(counts[1],
            (std::map<std::string, int>{{"alpaca", 333}, {"harmfulqa", 333}, {"jailbreak", 334}}));
  // Pair by pair, without the index that made the mix; every tenth, which takes a second or two.
  double nearest = 0;
  for (size_t i = 0; i < test.size(); i += 10) {
    for (const data::Signature& other : train) nearest = std::max(nearest, Jaccard(test[i], other));
  }
  EXPECT_LT(nearest, 0.6);
}

}  // namespace
}  // namespace wideberth::launch
