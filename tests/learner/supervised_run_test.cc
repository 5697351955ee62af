// SPDX-License-Identifier: Apache-2.0
// Runs on given data in this process: what they write, how they end, how they go on.
#include "learner/supervised_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/text_proto.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::learner {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class SupervisedRunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(wideberth::testing::WriteTinyModel("llama", dir_.Join("model")).ok());
    std::string rows;
    for (int i = 0; i < 10; ++i) {
      absl::StrAppend(&rows, "{\"prompt\": \"p", i, "\", \"response\": \"", i % 2 ? "yes " : "no ",
                      i, "\", \"label\": ", i % 2, ", \"source\": \"s", i % 3, "\"}\n");
    }
    ASSERT_TRUE(WriteFileAtomically(dir_.Join("rows.jsonl"), rows).ok());
    ASSERT_TRUE(MergeTextProto(R"(
      name: "tiny" seed: 5
      policy { lora { rank: 4 alpha: 8 dropout: 0.1 } }
      data { batch_size: 4 num_epochs: 4 }
      scorer { name: "g" template: "{prompt} {completion}" positive_id: 101 negative_id: 100 }
      learner { task: GUARD learning_rate: 1e-2 lr_scheduler_type: COSINE checkpoint_every: 3 })",
                               "test", &config_)
                    .ok());
    config_.mutable_policy()->mutable_model()->set_path(dir_.Join("model"));
    config_.mutable_scorer(0)->mutable_model()->set_path(dir_.Join("model"));
    config_.mutable_data()->add_path(dir_.Join("rows.jsonl"));
    config_.mutable_data()->add_validation_path(dir_.Join("rows.jsonl"));
    config_.set_run_dir(dir_.Join("run"));
  }
  absl::StatusOr<std::unique_ptr<SupervisedRun>> Create(bool resume = false) {
    return SupervisedRun::Create(config_, &Clock::Real(), resume);
  }
  std::string File(const std::string& name) const {
    return ReadFile(absl::StrCat(config_.run_dir(), "/", name)).value_or("");
  }
  std::vector<json> Metrics() const {
    std::vector<json> lines;
    for (const auto& line : absl::StrSplit(File("metrics.jsonl"), '\n', absl::SkipEmpty()))
      lines.push_back(json::parse(line));
    return lines;
  }
  std::string AdapterBytes() const { return File("adapter/adapter_model.safetensors"); }

  wideberth::testing::TempDir dir_;
  proto::RunConfig config_;
};

TEST_F(SupervisedRunTest, ARunWritesAllThatItPromises) {
  config_.mutable_data()->set_validate_every(5);
  config_.mutable_data()->set_max_validation_rows(6);
  const auto run = Create();
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ((*run)->num_steps(), 12);
  ASSERT_TRUE((*run)->Run().ok());
  std::vector<json> steps, validations;
  for (const json& line : Metrics()) (line.contains("loss") ? steps : validations).push_back(line);
  ASSERT_EQ(steps.size(), 12u);
  for (const char* name : {"grad_norm", "learning_rate", "epoch", "num_tokens", "tokens_per_second",
                           "accuracy", "max_steps"})
    EXPECT_TRUE(steps[11].contains(name)) << name;
  EXPECT_EQ(steps[11]["epoch"], 4);
  EXPECT_GT(steps[11]["num_tokens"], steps[10]["num_tokens"]);
  ASSERT_EQ(validations.size(), 3u);  // After 5, 10 and all.
  EXPECT_EQ(validations[2]["step"], 12);
  EXPECT_EQ(validations[2]["eval_rows"], 6);
  const json summary = json::parse(File("summary.json"));
  EXPECT_EQ(summary["ended"], "completed");
  EXPECT_EQ(summary["steps"], 12);
  EXPECT_EQ(summary["rows"], 40);
  EXPECT_EQ(summary["results"]["num_rows"], 6);
  EXPECT_THAT(File("summary.txt"), HasSubstr("Validation, 6 rows: AUROC"));
  EXPECT_FALSE(AdapterBytes().empty());
  EXPECT_EQ(json::parse(File("adapter/calibration.json")), summary["results"]);
  EXPECT_TRUE(std::filesystem::exists(dir_.Join("run/checkpoints/step-12/MANIFEST.txtpb")));
  EXPECT_EQ((*run)->Status().state, "ended");
  EXPECT_EQ((*run)->Status().progress, 1);
}

TEST_F(SupervisedRunTest, MaxStepsEndsARunEarlier) {
  config_.mutable_learner()->set_max_steps(5);
  EXPECT_EQ((*Create())->num_steps(), 5);
}

TEST_F(SupervisedRunTest, ARunThatWasStoppedGoesOnAsTheSame) {
  ASSERT_TRUE((*Create())->Run().ok());
  const std::string whole = AdapterBytes();
  const std::vector<json> metrics = Metrics();
  config_.set_run_dir(dir_.Join("again"));
  {
    const auto run = Create();
    ASSERT_TRUE(run.ok()) << run.status();
    (*run)->Stop("enough");  // After one step.
    ASSERT_TRUE((*run)->Run().ok());
    const json summary = json::parse(File("summary.json"));
    EXPECT_EQ(summary["ended"], "stopped");
    EXPECT_EQ(summary["message"], "enough");
    EXPECT_EQ(summary["steps"], 1);
    EXPECT_FALSE(summary.contains("results"));
  }
  {
    const auto run = Create(/*resume=*/true);
    ASSERT_TRUE(run.ok()) << run.status();
    ASSERT_TRUE((*run)->Run().ok());
  }
  EXPECT_EQ(AdapterBytes(), whole);
  ASSERT_EQ(Metrics().size(), metrics.size());
  for (size_t i = 0; i < metrics.size(); ++i) {
    for (const char* name : {"step", "loss", "eval_loss", "num_tokens", "learning_rate"})
      EXPECT_EQ(Metrics()[i].value(name, 0.0), metrics[i].value(name, 0.0)) << i << " " << name;
  }
}

TEST_F(SupervisedRunTest, ARunOfAllWeightsGoesOnAsTheSame) {
  for (const bool bfloat16 : {false, true}) {
    if (bfloat16) config_.mutable_policy()->mutable_model()->set_dtype(proto::BFLOAT16);
    config_.mutable_policy()->set_all_weights(true);
    config_.set_run_dir(dir_.Join(absl::StrCat("whole", bfloat16)));
    ASSERT_TRUE((*Create())->Run().ok());
    const std::string whole = AdapterBytes();
    const std::vector<json> metrics = Metrics();
    EXPECT_LT(metrics[11]["loss"], metrics[0]["loss"]);
    std::filesystem::remove_all(absl::StrCat(config_.run_dir(), "/checkpoints/step-12"));
    const auto run = Create(/*resume=*/true);
    ASSERT_TRUE(run.ok()) << run.status();
    EXPECT_EQ(Metrics().size(), 9u);
    ASSERT_TRUE((*run)->Run().ok());
    EXPECT_EQ(AdapterBytes(), whole);

    const auto model = model::CausalLm::Load(config_.policy().model());
    const auto adapter = model::Adapter::Load(config_.run_dir() + "/adapter", (*model)->spec(),
                                              at::kFloat, at::kCPU);
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    EXPECT_EQ((*adapter)->NamedTensors().size(), 30u);
    EXPECT_NE((*adapter)->weights(), nullptr);
  }
  config_.mutable_policy()->set_all_weights(false);
  EXPECT_THAT(std::string(Create(true).status().message()),
              HasSubstr("holds all weights of a model, expected LoRA pairs; `wideberth merge`"));
}

TEST_F(SupervisedRunTest, ARunOfLoraIsNoneOfAllWeights) {
  config_.mutable_learner()->set_max_steps(1);
  ASSERT_TRUE((*Create())->Run().ok());
  config_.mutable_policy()->set_all_weights(true);
  EXPECT_THAT(std::string(Create(true).status().message()),
              HasSubstr("holds LoRA pairs, policy.all_weights expects all weights"));
}

TEST_F(SupervisedRunTest, StepsAfterTheNewestWholeCheckpointComeAgain) {
  config_.mutable_learner()->set_keep_last(4);
  ASSERT_TRUE((*Create())->Run().ok());
  const std::string whole = AdapterBytes();
  // As a kill leaves it: lines of 12 steps, no adapter yet; and of the checkpoints the newest is
  // damaged.
  for (const char* name : {"checkpoints/step-12", "adapter"})
    std::filesystem::remove_all(absl::StrCat(config_.run_dir(), "/", name));
  std::ofstream(dir_.Join("run/checkpoints/step-9/state.txtpb"), std::ios::app) << " ";
  const auto run = Create(/*resume=*/true);
  ASSERT_TRUE(run.ok()) << run.status();
  ASSERT_EQ(Metrics().size(), 6u);
  EXPECT_EQ(Metrics().back()["step"], 6);
  ASSERT_TRUE((*run)->Run().ok());
  EXPECT_EQ(AdapterBytes(), whole);
  EXPECT_EQ(Metrics().size(), 13u);
}

TEST_F(SupervisedRunTest, WithoutAWholeCheckpointItBeginsAgain) {
  ASSERT_TRUE((*Create())->Run().ok());
  const std::string whole = AdapterBytes();
  for (const char* name : {"checkpoints", "adapter"})
    std::filesystem::remove_all(absl::StrCat(config_.run_dir(), "/", name));
  const auto run = Create(/*resume=*/true);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_TRUE(Metrics().empty());
  ASSERT_TRUE((*run)->Run().ok());
  EXPECT_EQ(AdapterBytes(), whole);
}

TEST_F(SupervisedRunTest, AFinishedRunTakesMoreSteps) {
  config_.mutable_learner()->set_max_steps(4);
  ASSERT_TRUE((*Create())->Run().ok());
  config_.mutable_learner()->set_max_steps(6);
  const auto run = Create(/*resume=*/true);
  ASSERT_TRUE(run.ok()) << run.status();
  ASSERT_TRUE((*run)->Run().ok());
  EXPECT_EQ(json::parse(File("summary.json"))["steps"], 6);
}

TEST_F(SupervisedRunTest, OtherDataOrAnotherSeedIsNotTheSameRun) {
  config_.mutable_learner()->set_max_steps(4);
  ASSERT_TRUE((*Create())->Run().ok());
  config_.mutable_data()->set_batch_size(3);
  EXPECT_THAT(std::string(Create(true).status().message()),
              HasSubstr("step 4 stood before row 14, with this data and batch_size it stands "
                        "before row 10"));
  config_.mutable_data()->set_batch_size(4);
  config_.set_seed(6);
  EXPECT_THAT(std::string(Create(true).status().message()),
              HasSubstr("belongs to a run with seed 5, the configuration says 6"));
  config_.set_seed(5);
  config_.mutable_policy()->mutable_lora()->set_rank(2);
  EXPECT_THAT(std::string(Create(true).status().message()), HasSubstr("is of LoRA rank 4"));
}

TEST_F(SupervisedRunTest, ARunStartsFromATrainedAdapterAndOnlyFromOneThatFits) {
  config_.mutable_learner()->set_max_steps(3);
  ASSERT_TRUE((*Create())->Run().ok());
  const std::string trained = AdapterBytes();
  const std::string first = config_.run_dir();
  config_.mutable_policy()->set_adapter(first + "/adapter");
  config_.set_run_dir(dir_.Join("second"));
  // The first step of a warm-up changes nothing.
  config_.mutable_learner()->set_warmup_steps(1);
  config_.mutable_learner()->set_max_steps(1);
  ASSERT_TRUE((*Create())->Run().ok());
  EXPECT_EQ(AdapterBytes(), trained);
  config_.mutable_learner()->set_max_steps(2);
  ASSERT_TRUE((*Create(true))->Run().ok());
  EXPECT_NE(AdapterBytes(), trained);

  config_.mutable_policy()->set_adapter(config_.run_dir() + "/adapter");
  EXPECT_THAT(std::string(Create(true).status().message()),
              HasSubstr("belongs to a run that started from an adapter with fingerprint"));
  config_.mutable_policy()->clear_adapter();
  EXPECT_THAT(std::string(Create(true).status().message()),
              HasSubstr("policy.adapter gives no adapter"));
  config_.mutable_policy()->set_adapter(first + "/adapter");
  config_.mutable_policy()->mutable_lora()->set_rank(2);
  config_.set_run_dir(dir_.Join("third"));
  EXPECT_THAT(std::string(Create().status().message()),
              HasSubstr("run/adapter: is of LoRA rank 4, policy.lora.rank is 2"));
  config_.mutable_policy()->set_adapter(dir_.Join("none"));
  EXPECT_THAT(std::string(Create().status().message()), HasSubstr("none/adapter_config.json"));
}

TEST_F(SupervisedRunTest, StepsThatAreNotFiniteEndTheRunWithItsLastGoodState) {
  config_.mutable_policy()->mutable_lora()->set_dropout(0);
  config_.mutable_learner()->set_lr_scheduler_type(proto::LearnerConfig::CONSTANT);
  config_.mutable_learner()->set_learning_rate(1e30);
  const auto run = Create();
  const absl::Status ended = (*run)->Run();
  EXPECT_THAT(std::string(ended.message()),
              HasSubstr("were skipped, the loss is nan, expected a finite number; "
                        "learner.max_skipped_steps is 3"));
  const json summary = json::parse(File("summary.json"));
  EXPECT_EQ(summary["ended"], "failed");
  EXPECT_EQ(summary["skipped_steps"], 3);
  const std::string step = absl::StrCat(summary["steps"].get<int>());
  EXPECT_TRUE(std::filesystem::exists(dir_.Join("run/checkpoints/step-" + step)));
  EXPECT_EQ((*run)->Status().last_error, ended.message());
}

TEST_F(SupervisedRunTest, SkippedStepsAreCountedOnAfterAResume) {
  config_.mutable_learner()->set_lr_scheduler_type(proto::LearnerConfig::CONSTANT);
  config_.mutable_learner()->set_learning_rate(1e30);
  config_.mutable_learner()->set_max_skipped_steps(2);
  EXPECT_FALSE((*Create())->Run().ok());
  const auto steps = json::parse(File("summary.json"))["steps"].get<int>();
  config_.mutable_learner()->set_max_skipped_steps(3);
  EXPECT_THAT(std::string((*Create(/*resume=*/true))->Run().message()),
              HasSubstr(absl::StrCat("steps ", steps - 1, " to ", steps + 1, " were skipped")));
}

TEST_F(SupervisedRunTest, WhatCannotBeginLeavesNothing) {
  std::ofstream(dir_.Join("rows.jsonl"), std::ios::app) << "{\"prompt\": 3}\n";
  EXPECT_THAT(std::string(Create().status().message()), HasSubstr("rows.jsonl:11: "));
  EXPECT_FALSE(std::filesystem::exists(config_.run_dir()));
  EXPECT_TRUE(absl::IsNotFound(Create(/*resume=*/true).status()));
}

TEST_F(SupervisedRunTest, AFolderWithARunIsRefusedAndAbandonedOneIsFree) {
  (*Create())->Abandon();
  EXPECT_FALSE(std::filesystem::exists(absl::StrCat(config_.run_dir(), "/config.txtpb")));
  const auto run = Create();
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_TRUE(absl::IsAlreadyExists(Create().status()));
  EXPECT_THAT(std::string(Create(/*resume=*/true).status().message()), HasSubstr("is in use"));
}

TEST_F(SupervisedRunTest, CalibrationNeedsBothClasses) {
  config_.mutable_data()->set_max_validation_rows(1);
  config_.mutable_learner()->set_max_steps(1);
  ASSERT_TRUE((*Create())->Run().ok());
  EXPECT_EQ(json::parse(File("adapter/calibration.json"))["temperature"], 1);
}

}  // namespace
}  // namespace wideberth::learner
