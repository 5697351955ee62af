// SPDX-License-Identifier: Apache-2.0
// The one-off looks as commands: what goes in, what comes out, and what a bad line gets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "tests/integration/tiny_run.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::Execute;
using testing::Finished;
using ::testing::HasSubstr;

class LooksTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(testing::WriteTinyModel("llama", model_).ok()); }

  std::vector<json> Lines(const Finished& finished) {
    EXPECT_EQ(finished.code, 0) << finished.err;
    std::vector<json> lines;
    for (const absl::string_view line : absl::StrSplit(finished.out, '\n', absl::SkipEmpty())) {
      lines.push_back(json::parse(line.begin(), line.end(), nullptr, false));
    }
    return lines;
  }

  testing::TempDir folder_;
  const std::string model_ = folder_.Join("model");
};

TEST_F(LooksTest, TokenizeGivesIdsAndTheTextTheyDecodeTo) {
  const auto lines =
      Lines(Execute({"wideberth", "tokenize", "--model", model_}, "the thing\n\n<|im_end|> ö\n"));
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["text"], "the thing");
  EXPECT_FALSE(lines[0]["ids"].empty());
  EXPECT_EQ(lines[1]["ids"][0], 2);
  EXPECT_EQ(lines[1]["text"], "<|im_end|> ö");
}

TEST_F(LooksTest, GenerateAndLogProbsAgree) {
  const Finished generated =
      Execute({"wideberth", "generate", "--model", model_, "--temperature", "1", "--seed", "3",
               "--max_new_tokens", "6", "--num_completions", "2", "--chat"},
              "the cat\n{\"prompt_ids\": [5, 6, 7]}\n{\"messages\": [{\"role\": \"user\", "
              "\"content\": \"why\"}]}\n");
  const auto completions = Lines(generated);
  ASSERT_EQ(completions.size(), 6u);
  EXPECT_THAT(completions[2]["prompt_ids"].get<std::vector<int>>(), ElementsAre(5, 6, 7));
  EXPECT_NE(completions[2]["completion_ids"], completions[3]["completion_ids"]);
  std::string input;
  for (const json& completion : completions) {
    EXPECT_THAT(completion["finish_reason"].get<std::string>(), ::testing::AnyOf("stop", "length"));
    absl::StrAppend(&input,
                    json{{"prompt_ids", completion["prompt_ids"]},
                         {"completion_ids", completion["completion_ids"]}}
                        .dump(),
                    "\n");
  }
  const auto logprobs = Lines(Execute({"wideberth", "logprobs", "--model", model_}, input));
  ASSERT_EQ(logprobs.size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    ASSERT_EQ(logprobs[i]["logprobs"].size(), completions[i]["logprobs"].size());
    for (size_t t = 0; t < logprobs[i]["logprobs"].size(); ++t) {
      EXPECT_NEAR(logprobs[i]["logprobs"][t].get<double>(),
                  completions[i]["logprobs"][t].get<double>(), 1e-4);
    }
  }
}

TEST_F(LooksTest, ACompletionDoesNotDependOnTheBatch) {
  const std::string input = "one\ntwo\nthree\n";
  const std::vector<std::string> argv = {"wideberth", "generate",        "--model",
                                         model_,      "--temperature=1", "--max_new_tokens=5"};
  std::vector<std::string> alone = argv;
  alone.push_back("--batch=1");
  const auto together = Lines(Execute(argv, input)), apart = Lines(Execute(alone, input));
  ASSERT_EQ(together.size(), 3u);
  for (size_t i = 0; i < 3; ++i)
    EXPECT_EQ(together[i]["completion_ids"], apart[i]["completion_ids"]);
}

TEST_F(LooksTest, LogProbsNeedsNoTokenizer) {
  ASSERT_EQ(::remove((model_ + "/tokenizer.json").c_str()), 0);
  ASSERT_TRUE(WriteFileAtomically(folder_.Join("in.jsonl"),
                                  "{\"prompt_ids\": [5], \"completion_ids\": []}\n")
                  .ok());
  const auto lines =
      Lines(Execute({"wideberth", "logprobs", "--model", model_, folder_.Join("in.jsonl")}));
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_TRUE(lines[0]["logprobs"].empty());
}

TEST_F(LooksTest, ScoreGivesTheTypedResult) {
  const std::string config = folder_.Join("scorer.txtpb");
  ASSERT_TRUE(
      WriteFileAtomically(
          config, absl::StrCat(
                      "name: \"safety\" model { path: \"", model_,
                      "\" } template: \"{prompt} {completion}\" positive_id: 100 negative_id: 101"))
          .ok());
  const auto lines =
      Lines(Execute({"wideberth", "score", "--config", config},
                    absl::StrCat("{\"prompt\": \"why\", \"completion\": \"so\"}\n{\"prompt\": \"",
                                 std::string(9000, 'x'), "\", \"completion\": \"so\"}\n")));
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["status"], "SCORED");
  EXPECT_GT(lines[0]["value"].get<double>(), 0);
  EXPECT_EQ(lines[1]["status"], "REFUSED_INPUT");
  EXPECT_FALSE(lines[1].contains("value"));
}

TEST_F(LooksTest, ScoreSaysWhatAGenerativeGuardAnswered) {
  const std::string config = folder_.Join("guard.txtpb");
  ASSERT_TRUE(WriteFileAtomically(
                  config, absl::StrCat("name: \"guard\" kind: GENERATIVE model { path: \"", model_,
                                       "\" } generative { instruction: \"Judge.\\n\" "
                                       "max_new_tokens: 8 subtask: PROMPT_HARM }"))
                  .ok());
  const auto lines = Lines(Execute({"wideberth", "score", "--config", config},
                                   "{\"prompt\": \"why\", \"completion\": \"\"}\n"));
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["status"], "MALFORMED_OUTPUT");
  EXPECT_THAT(lines[0]["message"].get<std::string>(), HasSubstr("it ends with "));
}

// The reference's four sequences of 3, 2, 3 and 1 tokens.
json GoldenBatch(json* golden) {
  const auto text = ReadFile(testing::GoldenPath("grpo.json"));
  *golden = text.ok() ? json::parse(*text) : json();
  json batch;
  for (const char* field : {"mask", "new", "old", "sampler", "reference", "entropy", "rewards",
                            "weights", "group_size", "max_completion_length", "truncated"}) {
    batch[field] = (*golden)[field];
  }
  return batch;
}

TEST_F(LooksTest, LossGivesTrlsNumbersPaddedOrRagged) {
  json golden;
  const json padded = GoldenBatch(&golden);
  json ragged = padded, poisoned = padded, wider = padded;
  for (const char* field : {"mask", "new", "old", "sampler", "reference", "entropy"}) {
    for (size_t b = 0; b < 4; ++b) {
      const size_t length = std::vector<size_t>{3, 2, 3, 1}[b];
      while (ragged[field][b].size() > length) ragged[field][b].erase(length);
      wider[field][b].push_back(0);
      wider[field][b].push_back(0);
      if (field == std::string("mask")) continue;
      for (size_t t = length; t < 3; ++t) poisoned[field][b][t] = nullptr;
    }
  }
  std::string input;
  for (const json& batch : {padded, ragged, poisoned, wider}) {
    absl::StrAppend(&input, batch.dump(), "\n");
  }
  for (const json& entry : golden["cases"]) {
    SCOPED_TRACE(entry["name"]);
    const auto lines = Lines(Execute(
        {"wideberth", "loss", "--override=" + entry["override"].get<std::string>()}, input));
    ASSERT_EQ(lines.size(), 4u);
    for (const json& line : lines) EXPECT_EQ(line, lines[0]);
    EXPECT_NEAR(lines[0]["loss"].get<double>(), entry["loss"].get<double>(), 5e-9);
    ASSERT_EQ(lines[0]["grad"].size(), 9u);
    for (size_t i = 0; i < 9; ++i) {
      EXPECT_NEAR(lines[0]["grad"][i].get<double>(), entry["gradient"][i].get<double>(), 1e-9);
    }
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_NEAR(lines[0]["advantages"][i].get<double>(), entry["advantages"][i].get<double>(),
                  1e-12);
    }
    for (const auto& [name, value] : entry["metrics"].items()) {
      EXPECT_TRUE(lines[0]["metrics"].contains(name)) << name;
    }
  }
}

TEST_F(LooksTest, LossTakesAdvantagesAndNeedsNoOldLogProbs) {
  const auto lines =
      Lines(Execute({"wideberth", "loss", "--override=loss_type: GRPO"},
                    "{\"mask\": [[1, 1], [1]], \"new\": [[-1, -2], [-3]], \"advantages\": [1, 3], "
                    "\"id\": \"mine\"}\n"));
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["loss"], -2.0);
  EXPECT_EQ(lines[0]["grad"], (json{-0.25, -0.25, -1.5}));
  EXPECT_FALSE(lines[0]["metrics"].contains("entropy")) << "none were given";
}

TEST_F(LooksTest, LossSaysWhatIsWrongWithALine) {
  json golden;
  const json good = GoldenBatch(&golden);
  const auto sentence = [&](const std::string& override_text, const json& change) {
    json line = good;
    line.merge_patch(change);  // null removes a field
    const Finished finished =
        Execute({"wideberth", "loss", "--override=" + override_text}, line.dump() + "\n");
    EXPECT_EQ(finished.code, 2);
    EXPECT_EQ(finished.out, "");
    return finished.err;
  };
  const std::tuple<const char*, json, const char*> cases[] = {
      {"", {{"mask", nullptr}}, "standard input:1: field \"mask\" is missing"},
      {"", {{"mask", {{1, 2}, {1}, {1}, {1}}}}, "mask[0][1] is 2, expected 0 or 1"},
      {"", {{"new", {{-1}, {-1}}}}, "field \"new\" has 2 entries, expected 4"},
      {"", {{"new", {{-1}, {-1}, {-1}, {-1}}}}, "new[0] has 1 entries, expected at least 3"},
      {"",
       {{"old", {{"x", 0, 0}, {0, 0}, {0, 0, 0}, {0}}}},
       "old[0][0] is \"x\", expected a number"},
      {"", {{"rewards", {{1}, {1, 2}, {1}, {1}}}}, "rewards[1] has 2 scores, expected 1"},
      {"", {{"weights", {1, 2, 3}}}, "field \"weights\" has 3 entries, expected 2, one a scorer"},
      {"", {{"group_size", 3}}, "group_size is 3, expected a divisor of the 4 sequences"},
      {"", {{"advantages", {1, 1, 1, 1}}}, "has \"rewards\" and \"advantages\""},
      {"", {{"samplers", 1}}, "there is no field \"samplers\", expected \"sampler\""},
      {"beta: 0.1", {{"reference", nullptr}}, "field \"reference\" is missing"},
      {"entropy_coef: 0.1", {{"entropy", nullptr}}, "field \"entropy\" is missing"},
      {"vllm_importance_sampling_correction: true",
       {{"sampler", nullptr}},
       "field \"sampler\" is missing"},
      {"old_policy: SAMPLER", {{"sampler", nullptr}}, "as old_policy is SAMPLER"},
      {"loss_type: DR_GRPO",
       {{"max_completion_length", nullptr}},
       "field \"max_completion_length\" is missing"},
      {"mask_truncated_completions: true",
       {{"truncated", nullptr}},
       "field \"truncated\" is missing"},
      {"epsilon: -1", {}, "--override: epsilon is -1, must be a number of at least 0"},
      {"loss_typ: GRPO", {}, "the nearest valid name is \"loss_type\""}};
  for (const auto& [override_text, change, expected] : cases) {
    EXPECT_THAT(sentence(override_text, change), HasSubstr(expected));
  }
}

// TRL's own code on 200 random batches with random options.
TEST_F(LooksTest, LossEqualsTrlOnRandomBatches) {
  const char* const python = std::getenv("WIDEBERTH_PYTHON");
  const char* const bin = std::getenv("WIDEBERTH_BIN");
  if (python == nullptr || Execute({python, "-c", "import trl"}).code != 0)
    GTEST_SKIP() << "WIDEBERTH_PYTHON does not name a Python with trl";
  ASSERT_NE(bin, nullptr);
  const Finished finished = Execute(
      {python, "tests/golden/compare_trl_loss.py", "--binary", std::string(bin) + "/wideberth"});
  std::cout << finished.out;
  EXPECT_EQ(finished.code, 0) << finished.err;
}

TEST_F(LooksTest, ABadLineIsNamedAfterTheResultsOfTheGoodOnes) {
  const Finished finished = Execute(
      {"wideberth", "generate", "--model", model_, "--max_new_tokens=2"}, "fine\n{\"prompt\": \n");
  EXPECT_EQ(finished.code, 2);
  EXPECT_THAT(finished.out, HasSubstr("\"finish_reason\""));
  EXPECT_THAT(finished.err, HasSubstr("wideberth generate: standard input:2:"));
  const Finished ids = Execute({"wideberth", "logprobs", "--model", model_},
                               "{\"prompt_ids\": [5], \"completion_ids\": [100000]}\n");
  EXPECT_EQ(ids.code, 2);
  EXPECT_THAT(
      ids.err,
      HasSubstr("standard input:1: completion_ids[0] is 100000, expected a token id from 0 to "));
}

TEST_F(LooksTest, APromptLongerThanTheContextIsRefused) {
  const Finished finished =
      Execute({"wideberth", "generate", "--model", model_}, std::string(9000, 'x') + "\n");
  EXPECT_EQ(finished.code, 2);
  EXPECT_EQ(finished.out, "");
  EXPECT_THAT(finished.err, AllOf(HasSubstr("standard input:1: the prompt has "),
                                  HasSubstr("the model's context holds ")));
}

TEST_F(LooksTest, EverySubcommandExplainsItself) {
  EXPECT_THAT(Execute({"wideberth", "--version"}).out, HasSubstr("wideberth 0."));
  const Finished help = Execute({"wideberth", "--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* name : {"run", "check", "tokenize", "generate", "logprobs", "loss", "score"}) {
    EXPECT_THAT(help.out, HasSubstr(absl::StrCat("  ", name, " ")));
    const Finished one = Execute({"wideberth", name, "--help"});
    EXPECT_EQ(one.code, 0) << name;
    EXPECT_THAT(one.out, HasSubstr(absl::StrCat("Usage: wideberth ", name)));
    const Finished wrong = Execute({"wideberth", name, "--modle=x"});
    EXPECT_EQ(wrong.code, 2) << name;
    EXPECT_THAT(wrong.err, HasSubstr("there is no flag --modle")) << name;
  }
  EXPECT_THAT(Execute({"wideberth", "rum"}).err,
              HasSubstr("no subcommand \"rum\"; the nearest is \"run\""));
}

TEST_F(LooksTest, DryRunPrintsConfigurationAndPlacementAndStartsNothing) {
  const testing::TinyRun run;
  const Finished finished = Execute(run.Command({"--dry_run"}));
  EXPECT_EQ(finished.code, 0) << finished.err;
  EXPECT_THAT(finished.out,
              AllOf(HasSubstr("group_size: 3"), HasSubstr("scorer-helpfulness-0  localhost"),
                    HasSubstr("4 processes")));
  EXPECT_FALSE(run.Exists(""));
}

}  // namespace
}  // namespace wideberth
