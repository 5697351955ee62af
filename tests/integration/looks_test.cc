// SPDX-License-Identifier: Apache-2.0
// The one-off looks as commands: what goes in, what comes out, and what a bad line gets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "tests/integration/tiny_run.h"
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
  for (const char* name : {"run", "check", "tokenize", "generate", "logprobs", "score"}) {
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
