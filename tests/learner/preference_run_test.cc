// SPDX-License-Identifier: Apache-2.0
// Runs of learner.task DPO and REWARD in this process: they learn, go on as the same run, and
// refuse settings that make no sense.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/text_proto.h"
#include "learner/supervised_run.h"
#include "learner/validate_data.h"
#include "nlohmann/json.hpp"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::learner {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class PreferenceRunTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(testing::WriteTinyModel("llama", dir_.Join("model")).ok());
    std::string rows;
    for (int i = 0; i < 10; ++i) {
      absl::StrAppend(&rows, "{\"prompt\": \"p", i, " \", \"chosen\": \"yes ", i,
                      "\", \"rejected\": \"no ", i, "\", \"weight\": ", i % 2 ? 1.2 : 0.8, "}\n");
    }
    ASSERT_TRUE(WriteFileAtomically(dir_.Join("rows.jsonl"), rows).ok());
    ASSERT_TRUE(MergeTextProto(R"(
      name: "tiny" seed: 5
      policy { lora { rank: 4 alpha: 8 } }
      data { batch_size: 4 num_epochs: 4 }
      learner { learning_rate: 1e-2 checkpoint_every: 3 })",
                               "test", &config_)
                    .ok());
    SetTask(GetParam());
    config_.mutable_policy()->mutable_model()->set_path(dir_.Join("model"));
    config_.mutable_data()->add_path(dir_.Join("rows.jsonl"));
    config_.mutable_data()->add_validation_path(dir_.Join("rows.jsonl"));
    config_.set_run_dir(dir_.Join("run"));
  }
  void SetTask(const char* name) {
    proto::Task task = proto::RL;
    ASSERT_TRUE(proto::Task_Parse(name, &task));
    config_.mutable_learner()->set_task(task);
  }
  absl::Status Run(bool resume = false, bool stop = false) {
    auto run = SupervisedRun::Create(config_, &Clock::Real(), resume);
    if (!run.ok()) return run.status();
    if (stop) (*run)->Stop("enough");  // After one step.
    return (*run)->Run();
  }
  std::string File(const std::string& name) const {
    return ReadFile(absl::StrCat(config_.run_dir(), "/", name)).value_or("");
  }
  bool IsReward() const { return absl::string_view(GetParam()) == "REWARD"; }

  testing::TempDir dir_;
  proto::RunConfig config_;
};

TEST_P(PreferenceRunTest, ARunLearnsItsPairs) {
  ASSERT_TRUE(Run().ok());
  std::vector<json> lines;
  for (const auto& line : absl::StrSplit(File("metrics.jsonl"), '\n', absl::SkipEmpty()))
    lines.push_back(json::parse(line));
  ASSERT_EQ(lines.size(), 13u) << "twelve steps and a validation";
  const char* margin = IsReward() ? "margin" : "rewards/margins";
  EXPECT_LT(lines[11]["loss"], 0.8 * lines[0]["loss"].get<double>());
  EXPECT_GT(lines[11][margin], lines[0][margin]);
  EXPECT_EQ(lines[12][IsReward() ? "eval_accuracy" : "eval_rewards/accuracies"], 1);
  EXPECT_EQ(json::parse(File("summary.json"))["ended"], "completed");
  const bool has_head =
      absl::StrContains(File("adapter/adapter_model.safetensors"), "base_model.model.score.weight");
  EXPECT_EQ(has_head, IsReward());
}

TEST_P(PreferenceRunTest, ARunThatWasStoppedGoesOnAsTheSame) {
  ASSERT_TRUE(Run().ok());
  const std::string whole = File("adapter/adapter_model.safetensors");
  config_.set_run_dir(dir_.Join("again"));
  ASSERT_TRUE(Run(/*resume=*/false, /*stop=*/true).ok());
  EXPECT_NE(File("adapter/adapter_model.safetensors"), whole);
  ASSERT_TRUE(Run(/*resume=*/true).ok());
  EXPECT_EQ(File("adapter/adapter_model.safetensors"), whole);
}

TEST_P(PreferenceRunTest, ACheckpointOfTheOtherTaskIsRefused) {
  ASSERT_TRUE(Run(/*resume=*/false, /*stop=*/true).ok());
  SetTask(IsReward() ? "DPO" : "REWARD");
  const absl::Status resumed = Run(/*resume=*/true);
  EXPECT_FALSE(resumed.ok());
  EXPECT_THAT(std::string(resumed.message()),
              ::testing::AllOf(HasSubstr("checkpoints/step-1"), HasSubstr("score.weight.exp_avg")));
}

TEST_P(PreferenceRunTest, PrecomputedReferenceGivesTheSameRun) {
  if (IsReward()) GTEST_SKIP() << "a reward model has no reference";
  ASSERT_TRUE(Run().ok());
  const json live = json::parse(File("summary.json"));
  config_.set_run_dir(dir_.Join("kept"));
  config_.mutable_learner()->mutable_dpo()->set_precompute_reference(true);
  ASSERT_TRUE(Run().ok());
  const json kept = json::parse(File("summary.json"));
  EXPECT_NEAR(kept["loss"].get<double>(), live["loss"].get<double>(), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Tasks, PreferenceRunTest, ::testing::Values("DPO", "REWARD"));

TEST(ValidatePreferences, SettingsThatMakeNoSenseAreNamed) {
  const auto sentence = [](const std::string& learner) {
    proto::RunConfig config;
    EXPECT_TRUE(
        MergeTextProto("data { path: \"rows.jsonl\" } learner { " + learner + " }", "test", &config)
            .ok());
    return std::string(ValidateTaskOnData(config).message());
  };
  EXPECT_EQ(sentence("task: DPO dpo { beta: 0.01 label_smoothing: 0.49 sft_weight: 2 }"), "");
  EXPECT_EQ(sentence("task: DPO dpo { beta: 0 }"),
            "learner.dpo.beta is 0, must be a positive number");
  EXPECT_EQ(sentence("task: DPO dpo { label_smoothing: 0.5 }"),
            "learner.dpo.label_smoothing is 0.5, must be at least 0 and below 0.5");
  EXPECT_EQ(sentence("task: DPO dpo { sft_weight: -1 }"),
            "learner.dpo.sft_weight is -1, must be a number of at least 0");
  EXPECT_EQ(sentence("task: REWARD reward_model { center_rewards_coefficient: 0.01 }"), "");
  EXPECT_EQ(sentence("task: REWARD reward_model { center_rewards_coefficient: nan }"),
            "learner.reward_model.center_rewards_coefficient is nan, must be a number of at least "
            "0");
}

}  // namespace
}  // namespace wideberth::learner
