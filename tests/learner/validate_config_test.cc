// SPDX-License-Identifier: Apache-2.0
// Configurations that parse but make no sense: one sentence each, with file and line where a file
// said so.
#include "learner/validate_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/text_proto.h"
#include "tests/testing/paths.h"

namespace wideberth::learner {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

constexpr char kGood[] = R"(name: "good"
policy { model { path: "models/tiny" } }
prompts {
  path: "p.jsonl"
  num_held_out: 4
}
scorer {
  name: "safety"
  model { path: "models/tiny" }
  template: "{prompt} {completion}"
  positive: "unsafe"
  negative: "safe"
}
scorer {
  name: "helpful"
  model { path: "models/tiny" }
  output: LOG_ODDS
}
reward { guard: "safety" utility: "helpful" }
evaluation { num_prompts: 4 }
)";

class ValidateConfigTest : public ::testing::Test {
 protected:
  // The sentence for the good configuration with `overlay` merged over it from a second file.
  std::string Sentence(const std::string& overlay) {
    const std::string base = dir_.Join("base.txtpb"), over = dir_.Join("over.txtpb");
    std::ofstream(base) << kGood;
    std::ofstream(over) << overlay;
    proto::RunConfig config;
    EXPECT_TRUE(MergeTextProtoFile(base, &config).ok());
    const absl::Status parsed = MergeTextProtoFile(over, &config);
    EXPECT_TRUE(parsed.ok()) << parsed;
    return std::string(ValidateRunConfig(config, {base, over}).message());
  }
  wideberth::testing::TempDir dir_;
};

TEST_F(ValidateConfigTest, AGoodOneIsAccepted) { EXPECT_EQ(Sentence(""), ""); }

TEST_F(ValidateConfigTest, AnOracleNeedsNoModelAndIsNoReward) {
  EXPECT_EQ(Sentence("scorer { name: 'truth' kind: ORACLE oracle { measure: HELP } }"), "");
  EXPECT_THAT(Sentence("scorer { name: 'truth' kind: ORACLE }\nreward { utility: 'truth' }"),
              HasSubstr("over.txtpb:2: reward.utility names scorer \"truth\""));
}

TEST_F(ValidateConfigTest, AJudgeBehindHttpNeedsNoModel) {
  EXPECT_EQ(Sentence("scorer { name: 'gpt' kind: HTTP_JUDGE }"), "");
  EXPECT_THAT(Sentence("scorer { name: 'judge' kind: JUDGE }"), HasSubstr("model.path"));
}

TEST_F(ValidateConfigTest, HarmIsJudgedByGradesOrProbabilities) {
  EXPECT_EQ(Sentence("learner { task: EVALUATE } evaluation { harm_judge: 'safety' }"), "");
  EXPECT_THAT(Sentence("learner { task: EVALUATE } evaluation { harm_judge: 'helpful' }"),
              HasSubstr("evaluation.harm_judge is \"helpful\", whose scores have no bounds, must "
                        "be a judge, the oracle or a guard"));
}

TEST_F(ValidateConfigTest, WhatNothingActsOnIsRefusedRatherThanIgnored) {
  const std::pair<const char*, const char*> cases[] = {
      {"data { path: \"rows.jsonl\" }", "data is set, must be left out"}};
  for (const auto& [overlay, sentence] : cases) {
    EXPECT_THAT(Sentence(overlay), HasSubstr(sentence));
    EXPECT_THAT(Sentence(overlay), EndsWith("(not supported yet)"));
    EXPECT_THAT(Sentence(overlay), HasSubstr("over.txtpb:1: "));
  }
}

TEST_F(ValidateConfigTest, AllWeightsAreTrainedBySomeTasksOnly) {
  const std::string all = "policy {\nall_weights: true }\ndata { path: \"rows.jsonl\" }\n";
  EXPECT_EQ(Sentence(all + "learner { task: SFT }"), "");
  EXPECT_EQ(Sentence(all + "learner { task: REWARD }"), "");
  EXPECT_THAT(Sentence(all + "learner { task: DPO }"),
              EndsWith("over.txtpb:2: policy.all_weights is true, must be false for learner.task "
                       "DPO, which trains LoRA only"));
  EXPECT_THAT(Sentence("policy { all_weights: true }"), HasSubstr("false for learner.task RL"));
  EXPECT_THAT(Sentence("policy { all_weights: true adapter: \"a\" }\n"
                       "data { path: \"rows.jsonl\" }\nlearner { task: SFT }"),
              HasSubstr("policy.all_weights is true, must be false with policy.adapter; "
                        "`wideberth merge` makes a model folder"));
}

TEST_F(ValidateConfigTest, AGenerativeScorerIsServed) {
  const std::string guard = "scorer { name: \"guard\" model { path: \"m\" } kind: GENERATIVE ";
  EXPECT_EQ(Sentence(guard + "}"), "");
  EXPECT_EQ(Sentence(guard + "generative { temperature: 0.7 num_samples: 4 } }"), "");
  EXPECT_THAT(
      Sentence(guard + "\ngenerative { max_new_tokens: 0 } }"),
      EndsWith("over.txtpb:2: scorer[2].generative.max_new_tokens is 0, must be at least 1"));
  EXPECT_THAT(Sentence(guard + "generative { num_samples: 0 } }"),
              HasSubstr("scorer[2].generative.num_samples is 0"));
  EXPECT_THAT(Sentence(guard + "generative { temperature: -1 } }"),
              HasSubstr("scorer[2].generative.temperature is -1"));
}

TEST_F(ValidateConfigTest, GroupSizeOneIsRefusedWithFileAndLine) {
  EXPECT_THAT(Sentence("# comment\nlearner {\n  max_steps: 3\n  group_size: 1\n}\n"),
              EndsWith("over.txtpb:4: learner.group_size is 1, must be at least 2"));
}

TEST_F(ValidateConfigTest, WithoutAFileTheSentenceStandsAlone) {
  proto::RunConfig config;
  ASSERT_TRUE(MergeTextProto(kGood, "good", &config).ok());
  config.mutable_learner()->set_group_size(1);
  EXPECT_EQ(ValidateRunConfig(config).message(), "learner.group_size is 1, must be at least 2");
}

TEST_F(ValidateConfigTest, NoFileIsBlamedForAnOverride) {
  const std::string base = dir_.Join("base.txtpb");
  std::ofstream(base) << kGood << "learner { group_size: 6 }";
  proto::RunConfig config;
  ASSERT_TRUE(MergeTextProtoFile(base, &config).ok());
  config.mutable_learner()->set_group_size(1);
  EXPECT_EQ(ValidateRunConfig(config, {base}).message(),
            "learner.group_size is 1, must be at least 2");
}

TEST_F(ValidateConfigTest, TheLastFileThatSetsAFieldIsNamed) {
  EXPECT_THAT(Sentence("evaluation { num_prompts: 9 }"),
              HasSubstr("over.txtpb:1: evaluation.num_prompts is 9, must be at most "
                        "prompts.num_held_out, which is 4"));
  EXPECT_THAT(Sentence("prompts { num_held_out: 2 }"),
              HasSubstr("base.txtpb:20: evaluation.num_prompts is 4"));
}

TEST_F(ValidateConfigTest, RepeatedMessagesAreFoundInTheFileThatAddedThem) {
  EXPECT_THAT(Sentence("\nscorer {\n  name: \"third\"\n  model { path: \"m\" }\n  replicas: 0\n}"),
              HasSubstr("over.txtpb:5: scorer[2].replicas is 0, must be at least 1"));
  EXPECT_THAT(
      Sentence("scorer { name: \"safety\" model { path: \"m\" } }"),
      HasSubstr(
          "over.txtpb:1: scorer[2].name is \"safety\" again, must be different for every scorer"));
}

TEST_F(ValidateConfigTest, RewardsMustNameScorersThatExist) {
  EXPECT_THAT(Sentence("reward {\n  utility: \"helpfull\"\n}"),
              ::testing::AllOf(HasSubstr("over.txtpb:2: reward.utility is \"helpfull\""),
                               HasSubstr("helpful")));
}

TEST_F(ValidateConfigTest, EachOwnersFieldsAreChecked) {
  const std::pair<const char*, const char*> cases[] = {
      {"policy { lora { rank: 0 } }", "policy.lora.rank is 0, must be at least 1"},
      {"policy { lora { target: \"qproj\" } }", "policy.lora.target is \"qproj\", must be one of"},
      {"policy { model { device: \"gpu\" } }",
       "policy.model.device is \"gpu\", must be \"cpu\" or \"cuda:N\""},
      {"generation { max_new_tokens: 0 }", "generation.max_new_tokens is 0, must be at least 1"},
      {"generation { temperature: -1 }", "generation.temperature is -1"},
      {"generation { top_p: 0 }", "generation.top_p is 0"},
      {"learner { address: \"localhost\" }", "learner.address is \"localhost\", must be host:port"},
      {"learner { max_steps: 0 }", "learner.max_steps is 0"},
      {"learner { world_size: 0 }", "learner.world_size is 0, must be at least 1"},
      {"learner { world_size: 2 task: SFT }",
       "learner.world_size is 2, must be 1 where learner.task is not RL"},
      {"learner { rank_timeout: 0 }", "learner.rank_timeout is 0"},
      {"learner { learning_rate: nan }", "learner.learning_rate is nan"},
      {"learner { adam_beta2: 1 }", "learner.adam_beta2 is 1"},
      {"learner { step_timeout: 0 }", "learner.step_timeout is 0, must be a positive number"},
      {"reward { tau: 1.5 }", "reward.tau is 1.5"},
      {"actor { groups_per_lease: 0 }", "actor.groups_per_lease is 0"},
      {"cluster { placement { role: \"scorer:none\" } }",
       "cluster.placement[0].role is \"scorer:none\""},
      {"name: \"a/b\"", "name is \"a/b\", must be a name without /"},
  };
  for (const auto& [overlay, sentence] : cases)
    EXPECT_THAT(Sentence(overlay), HasSubstr(sentence)) << overlay;
}

TEST_F(ValidateConfigTest, WhatIsMissingIsNamed) {
  EXPECT_EQ(ValidateRunConfig({}).message(),
            "policy.model.path is not set, must be a Hugging Face folder");
}

constexpr char kGuard[] = R"(name: "guard"
policy { model { path: "models/tiny" } }
data { path: "rows.jsonl" validation_path: "val.jsonl" }
scorer {
  name: "g"
  model { path: "models/tiny" }
  template: "{completion}"
  positive: "yes"
  negative: "no"
}
learner { task: GUARD }
)";

// The sentence for the guard's configuration with `overlay` merged over it.
std::string GuardSentence(const std::string& overlay) {
  proto::RunConfig config;
  EXPECT_TRUE(MergeTextProto(kGuard, "guard", &config).ok());
  EXPECT_TRUE(MergeTextProto(overlay, "overlay", &config).ok());
  return std::string(ValidateRunConfig(config).message());
}

TEST(ValidateTaskTest, AGuardNeedsNeitherPromptsNorRewards) { EXPECT_EQ(GuardSentence(""), ""); }

TEST(ValidateTaskTest, SftNeedsNoScorer) {
  proto::RunConfig config;
  ASSERT_TRUE(MergeTextProto(R"(policy { model { path: "m" } } data { path: "rows.jsonl" }
                                learner { task: SFT })",
                             "sft", &config)
                  .ok());
  EXPECT_TRUE(ValidateRunConfig(config).ok()) << ValidateRunConfig(config);
  config.clear_data();
  EXPECT_EQ(ValidateRunConfig(config).message(), "data.path is not set, must be a JSON lines file");
}

TEST(ValidateTaskTest, EveryFieldOfATaskIsChecked) {
  const struct {
    const char* overlay;
    const char* sentence;
  } kBad[] = {
      {"data { batch_size: 0 }", "data.batch_size is 0, must be at least 1"},
      {"data { max_tokens: 1 }", "data.max_tokens is 1, must be at least 2"},
      {"data { num_epochs: 0 }", "data.num_epochs is 0, must be at least 1"},
      {"data { validate_every: -1 }", "data.validate_every is -1, must be at least 0"},
      {"data { max_validation_rows: 0 }", "data.max_validation_rows is 0, must be at least 1"},
      {"learner { world_size: 2 }", "learner.world_size is 2, must be 1"},
      {"learner { guard { positive_weight: 0 } }",
       "learner.guard.positive_weight is 0, must be a positive number"},
      {"learner { guard { negative_weight: nan } }",
       "learner.guard.negative_weight is nan, must be a positive number"},
      {"scorer { name: 'h' model { path: 'm' } }",
       "scorer is there 2 times, must be there once for learner.task GUARD: the scorer that shall "
       "serve the guard"},
      {"policy { model { path: 'other' } }",
       "scorer[0].model.path is \"models/tiny\", must be policy.model.path, \"other\", for "
       "learner.task GUARD"},
      {"learner { warmup_steps: -1 }", "learner.warmup_steps is -1, must be at least 0"},
      {"learner { warmup_ratio: 2 }", "learner.warmup_ratio is 2, must be between 0 and 1"},
      {"learner { checkpoint_every: -1 }", "learner.checkpoint_every is -1, must be at least 0"},
      {"learner { keep_last: 0 }", "learner.keep_last is 0, must be at least 1"},
      {"learner { max_skipped_steps: 0 }", "learner.max_skipped_steps is 0, must be at least 1"},
  };
  for (const auto& bad : kBad)
    EXPECT_THAT(GuardSentence(bad.overlay), ::testing::StartsWith(bad.sentence));
  proto::RunConfig config;
  ASSERT_TRUE(MergeTextProto(kGuard, "guard", &config).ok());
  config.mutable_data()->clear_validation_path();
  EXPECT_TRUE(ValidateRunConfig(config).ok());
  config.mutable_learner()->mutable_guard()->set_calibrate(true);
  EXPECT_EQ(ValidateRunConfig(config).message(),
            "learner.guard.calibrate is true, must be false without data.validation_path");
  config.mutable_learner()->mutable_guard()->set_calibrate(false);
  config.mutable_data()->set_validate_every(3);
  EXPECT_EQ(ValidateRunConfig(config).message(),
            "data.validate_every is 3, must be 0 without data.validation_path");
  config.clear_data();
  config.mutable_data()->add_path("rows.jsonl");
  config.mutable_scorer(0)->set_kind(proto::ScorerConfig::REWARD);
  EXPECT_EQ(ValidateRunConfig(config).message(),
            "scorer[0].kind is REWARD, must be VERDICT for learner.task GUARD");
}

}  // namespace
}  // namespace wideberth::learner
