// SPDX-License-Identifier: Apache-2.0
// Each bad scorer configuration gets one sentence that names scorer, field, what was found and what
// is expected.
#include "scorer/scorer_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

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

TEST(ScorerConfigTest, NumbersHaveBounds) {
  EXPECT_EQ(Message(kVerdict, "replicas: 0"),
            "scorer \"safety\": replicas is 0, must be at least 1");
  EXPECT_EQ(Message(kVerdict, "max_batch_tokens: 0"),
            "scorer \"safety\": max_batch_tokens is 0, must be at least 1");
  EXPECT_EQ(Message(kVerdict, "max_batch_wait_ms: -1"),
            "scorer \"safety\": max_batch_wait_ms is -1, must be at least 0");
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
