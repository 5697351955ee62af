// SPDX-License-Identifier: Apache-2.0
// Each bad scorer configuration gets one sentence that names scorer, field, what was found and what
// is expected.
#include "scorer/scorer_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/text_proto.h"

namespace wideberth::scorer {
namespace {

constexpr char kVerdict[] =
    "name: 'safety' model { path: 'm' } template: '{prompt} {completion}' positive: 'yes' "
    "negative: 'no' ";
constexpr char kReward[] = "name: 'helpfulness' kind: REWARD model { path: 'm' } ";

// The message of the configuration `text`, later fields replacing earlier ones; empty when it is
// valid.
std::string Message(const std::string& text, const std::string& overlay = "") {
  proto::ScorerConfig config;
  for (const std::string& part : {text, overlay}) {
    const absl::Status merged = MergeTextProto(part, "test", &config);
    EXPECT_TRUE(merged.ok()) << merged;
  }
  return std::string(ValidateScorerConfig(config).message());
}

TEST(ScorerConfigTest, AcceptsWhatRuns) {
  EXPECT_EQ(Message(kVerdict), "");
  EXPECT_EQ(Message(kReward), "");
  EXPECT_EQ(Message("name: 'guard' model { path: 'm' } template: 'llama_guard_2'"), "");
  EXPECT_EQ(Message("name: 'guard' model { path: 'm' } template: '{completion}' positive_id: 5 "
                    "negative_id: 6"),
            "");
}

TEST(ScorerConfigTest, AVerdictNeedsTokensOnBothSides) {
  const std::string expected =
      "scorer \"safety\": kind VERDICT needs at least one positive and one negative token";
  EXPECT_EQ(Message("name: 'safety' model { path: 'm' } template: '{completion}'"), expected);
  EXPECT_EQ(Message("name: 'safety' model { path: 'm' } template: '{completion}' positive: 'yes'"),
            expected);
  EXPECT_EQ(Message("name: 'safety' model { path: 'm' } template: 'llama_guard_2' negative_id: 3"),
            expected);
  EXPECT_EQ(Message(kVerdict, "negative: 'yes'"),
            "scorer \"safety\": the same verdict token is positive and negative");
  EXPECT_EQ(Message(kVerdict, "negative: ''"),
            "scorer \"safety\": a verdict text is empty, must be one token");
  EXPECT_EQ(Message(kVerdict, "negative_id: -1"),
            "scorer \"safety\": a verdict token id is -1, must be at least 0");
}

TEST(ScorerConfigTest, AVerdictNeedsATemplate) {
  EXPECT_EQ(Message("name: 'safety' model { path: 'm' } positive: 'yes' negative: 'no'"),
            "scorer \"safety\": kind VERDICT needs a template, \"llama_guard_2\" or a text with "
            "{prompt} and {completion}");
  EXPECT_EQ(Message(kVerdict, "template: 'llama_guard_9'"),
            "scorer \"safety\": template \"llama_guard_9\" is neither \"llama_guard_2\" nor a text "
            "with {completion}");
}

TEST(ScorerConfigTest, ARewardRefusesVerdictFields) {
  EXPECT_EQ(Message(kReward, "template: 'x {completion}'"),
            "scorer \"helpfulness\": kind REWARD uses the model's chat template; template is for "
            "kind VERDICT");
  EXPECT_EQ(Message(kReward, "output: LOG_ODDS"),
            "scorer \"helpfulness\": kind REWARD gives the model's raw score; output is for kind "
            "VERDICT");
  EXPECT_EQ(
      Message(kReward, "positive: 'yes'"),
      "scorer \"helpfulness\": kind REWARD has a score head; verdict tokens are for kind VERDICT");
}

TEST(ScorerConfigTest, AnOracleHasNoModel) {
  const std::string oracle = "name: 'truth' kind: ORACLE oracle { measure: HELP } ";
  EXPECT_EQ(Message(oracle), "");
  EXPECT_EQ(Message("name: 'truth' kind: ORACLE"), "");
  EXPECT_EQ(Message(oracle, "model { path: 'm' }"),
            "scorer \"truth\": kind ORACLE judges by rule; model and adapter are for the other "
            "kinds");
  EXPECT_EQ(Message(oracle, "positive: 'yes'"),
            "scorer \"truth\": kind ORACLE judges by rule; template, output and verdict tokens are "
            "for kind VERDICT");
  EXPECT_EQ(Message(kVerdict, "oracle { measure: HELP }"),
            "scorer \"safety\": oracle is for kind ORACLE, found kind VERDICT");
}

TEST(ScorerConfigTest, AGenerativeScorerHasFieldsOfItsOwn) {
  const std::string guard = "name: 'guard' kind: GENERATIVE model { path: 'm' } ";
  EXPECT_EQ(Message(guard), "");
  EXPECT_EQ(Message(guard, "generative { num_samples: 4 temperature: 0.7 } adapter: 'a'"), "");
  const std::string who = "scorer \"guard\": ";
  EXPECT_EQ(Message(guard, "template: '{completion}'"),
            who + "kind GENERATIVE asks by generative.instruction; template is for kind VERDICT");
  EXPECT_EQ(Message(guard, "output: LOG_ODDS"),
            who +
                "kind GENERATIVE gives the share of positive answers, a PROBABILITY; LOG_ODDS is "
                "for kind VERDICT");
  EXPECT_EQ(Message(guard, "positive: 'yes'"),
            who + "kind GENERATIVE reads a text; verdict tokens are for kind VERDICT");
  EXPECT_EQ(Message(guard, "generative { max_new_tokens: 0 }"),
            who + "generative.max_new_tokens is 0, must be at least 1");
  EXPECT_EQ(Message(guard, "generative { num_samples: 0 }"),
            who + "generative.num_samples is 0, must be at least 1");
  EXPECT_EQ(Message(guard, "generative { temperature: -1 }"),
            who + "generative.temperature is -1, must be at least 0");
  EXPECT_EQ(Message(guard, "generative { num_samples: 4 }"),
            who +
                "generative.num_samples is 4 with temperature 0, where all answers are one: must "
                "be 1, or the temperature above 0");
  EXPECT_EQ(Message(guard, "generative { instruction: '' }"),
            who + "generative.instruction is empty, must be a text or left out");
  EXPECT_EQ(Message(kVerdict, "generative { num_samples: 1 }"),
            "scorer \"safety\": generative is for kind GENERATIVE, found kind VERDICT");
}

TEST(ScorerConfigTest, AJudgeGradesByARubric) {
  const std::string judge =
      "name: 'judge' kind: JUDGE model { path: 'm' } judge { rubric: '{prompt} {completion}' } ";
  const std::string who = "scorer \"judge\": ";
  EXPECT_EQ(Message(judge), "");
  EXPECT_EQ(Message("name: 'judge' kind: JUDGE model { path: 'm' } judge { rubric_path: 'r' }"), "")
      << "no file is touched";
  EXPECT_EQ(Message(judge, "judge { num_samples: 4 temperature: 0.7 } adapter: 'a'"), "");
  EXPECT_EQ(
      Message("name: 'judge' kind: JUDGE model { path: 'm' }"),
      who + "kind JUDGE has neither judge.rubric nor judge.rubric_path, expected one of them");
  EXPECT_EQ(Message(judge, "judge { rubric_path: 'r' }"),
            who + "kind JUDGE has both judge.rubric and judge.rubric_path, expected one of them");
  EXPECT_EQ(
      Message(judge, "judge { rubric: 'Grade {prompt}' }"),
      who + "judge.rubric has no {completion}, expected a text with {prompt} and {completion}");
  EXPECT_EQ(Message(judge, "judge { low: 3 }"),
            who + "judge.low is 3 and judge.high 3, must be ascending");
  EXPECT_EQ(Message(judge, "judge { label: ' ' }"),
            who + "judge.label is empty, must be what stands before the grade");
  EXPECT_EQ(Message(judge, "judge { max_new_tokens: 0 }"),
            who + "judge.max_new_tokens is 0, must be at least 1");
  EXPECT_EQ(Message(judge, "judge { num_samples: 4 }"),
            who +
                "judge.num_samples is 4 with temperature 0, where all answers are one: must be 1, "
                "or the temperature above 0");
  EXPECT_EQ(Message(judge, "judge { reading: TOKEN_PROBABILITIES temperature: 1 }"),
            who +
                "judge.reading is TOKEN_PROBABILITIES, which samples nothing; num_samples and "
                "temperature are for PARSE");
  EXPECT_EQ(Message(judge, "template: '{completion}'"),
            who +
                "kind JUDGE grades by judge.rubric; template, chat, output and verdict tokens are "
                "for kind VERDICT");
  EXPECT_EQ(Message(judge, "http { model: 'm' }"),
            who + "http is for kind HTTP_JUDGE, found kind JUDGE");
  EXPECT_EQ(Message(kVerdict, "judge { low: 1 }"),
            "scorer \"safety\": judge is for the kinds JUDGE and HTTP_JUDGE, found kind VERDICT");
}

TEST(ScorerConfigTest, AnHttpJudgeNeedsAServer) {
  const std::string judge =
      "name: 'gpt' kind: HTTP_JUDGE judge { rubric: '{completion}' } "
      "http { base_url: 'https://api.openai.com/v1' model: 'gpt-4.1' } ";
  const std::string who = "scorer \"gpt\": ";
  EXPECT_EQ(Message(judge), "");
  EXPECT_EQ(Message(judge, "model { path: 'm' }"),
            who + "kind HTTP_JUDGE asks a server; model and adapter are for the other kinds");
  EXPECT_EQ(Message(judge, "judge { reading: TOKEN_PROBABILITIES }"),
            who + "judge.reading is TOKEN_PROBABILITIES, kind HTTP_JUDGE reads by PARSE only");
  for (const char* url : {"", "api.openai.com", "ftp://a", "https://", "http:///v1"}) {
    EXPECT_EQ(Message(judge, absl::StrCat("http { base_url: '", url, "' }")),
              absl::StrCat(who, "http.base_url is \"", url,
                           "\", must begin with https://HOST or http://HOST"));
  }
  EXPECT_EQ(Message(judge, "http { model: '' }"),
            who + "http.model is empty, must be the server's name of the model");
  EXPECT_EQ(Message(judge, "http { key_env: 'A' key_path: 'b' }"),
            who + "has both http.key_env and http.key_path, expected one of them at most");
  EXPECT_EQ(Message(judge, "http { max_concurrent: 0 }"),
            who + "http.max_concurrent is 0, must be at least 1");
  EXPECT_EQ(Message(judge, "http { max_retries: -1 }"),
            who + "http.max_retries is -1, must be at least 0");
  EXPECT_EQ(Message(judge, "http { request_timeout: 0 }"),
            who + "http.request_timeout is 0, must be above 0");
  EXPECT_EQ(Message(judge, "http { requests_per_minute: -1 }"),
            who + "http.requests_per_minute is -1, must be at least 0");
  EXPECT_EQ(Message(judge, "http { max_dollars: 1 }"),
            who +
                "http.max_dollars is set and no price, expected "
                "http.dollars_per_million_prompt_tokens and _completion_tokens");
}

TEST(ScorerConfigTest, NumbersHaveBounds) {
  EXPECT_EQ(Message(kVerdict, "replicas: 0"),
            "scorer \"safety\": replicas is 0, must be at least 1");
  EXPECT_EQ(Message(kVerdict, "max_batch_tokens: 0"),
            "scorer \"safety\": max_batch_tokens is 0, must be at least 1");
  EXPECT_EQ(Message(kVerdict, "max_batch_wait_ms: -1"),
            "scorer \"safety\": max_batch_wait_ms is -1, must be at least 0");
  EXPECT_EQ(Message(kVerdict, "max_latency_ms: -1"),
            "scorer \"safety\": max_latency_ms is -1, must be at least 0");
  EXPECT_EQ(Message(kVerdict, "max_latency_ms: 9"),
            "scorer \"safety\": max_latency_ms is 9, must be 0 or at least max_batch_wait_ms, "
            "which is 10");
  EXPECT_EQ(Message(kVerdict, "max_latency_ms: 10 hedge_quantile: 1"), "");
  EXPECT_EQ(Message(kVerdict, "hedge_quantile: 0"),
            "scorer \"safety\": hedge_quantile is 0, must be above 0 and at most 1 (1: never)");
  EXPECT_EQ(Message(kVerdict, "hedge_quantile: nan"),
            "scorer \"safety\": hedge_quantile is nan, must be above 0 and at most 1 (1: never)");
  EXPECT_EQ(Message(kVerdict, "queue_items: 0"),
            "scorer \"safety\": queue_items is 0, must be at least 1");
  EXPECT_EQ(Message(kVerdict, "cache_items: -1"),
            "scorer \"safety\": cache_items is -1, must be at least 0");
  EXPECT_EQ(Message(kVerdict, "timeout: 0"),
            "scorer \"safety\": timeout is 0, must be a positive number of seconds");
  EXPECT_EQ(Message(kVerdict, "model { num_threads: -1 }"),
            "scorer \"safety\": model.num_threads is -1, must be at least 0");
}

TEST(ScorerConfigTest, NameAndModelAreRequired) {
  EXPECT_EQ(Message("model { path: 'm' }"),
            "a scorer has no name; scores and processes are named after it");
  EXPECT_EQ(Message(kVerdict, "name: 'a/b'"),
            "scorer \"a/b\": the name may have letters, digits, '_' and '-' only, since processes "
            "and files are named after it");
  EXPECT_EQ(Message("name: 'safety'"),
            "scorer \"safety\": model.path is empty, must be a Hugging Face folder");
}

TEST(ScorerConfigTest, EveryExampleIsValid) {
  int num_files = 0;
  for (const auto& file : std::filesystem::directory_iterator("configs/scorers")) {
    proto::ScorerConfig config;
    const absl::Status read = MergeTextProtoFile(file.path().string(), &config);
    EXPECT_TRUE(read.ok()) << read;
    const absl::Status valid = ValidateScorerConfig(config);
    EXPECT_TRUE(valid.ok()) << file.path() << ": " << valid;
    ++num_files;
  }
  EXPECT_GE(num_files, 3);
}

}  // namespace
}  // namespace wideberth::scorer
