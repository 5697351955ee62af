// SPDX-License-Identifier: Apache-2.0
// Twenty optimiser steps beside TRL's SFTTrainer, DPOTrainer and RewardTrainer
// (tests/golden/supervised.json), in float64: losses, gradient norms, metrics and final weights.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <numeric>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "learner/dpo.h"
#include "learner/reward_model.h"
#include "learner/sft.h"
#include "nlohmann/json.hpp"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::learner {
namespace {

using nlohmann::json;

constexpr double kTolerance = 1e-9;
// Three pairs or so: a step has several passes of different sizes.
constexpr int64_t kPassTokens = 64;

std::vector<int32_t> Ids(absl::string_view text) {
  std::vector<int32_t> ids;
  for (const absl::string_view word : absl::StrSplit(text, ',')) {
    ids.emplace_back();
    EXPECT_TRUE(absl::SimpleAtoi(word, &ids.back())) << text;
  }
  return ids;
}

std::vector<std::string> FieldsOf(const json& row) {
  return absl::StrSplit(row.get<std::string>(), ' ');
}

std::vector<AnsweredTokens> AnsweredRows(const json& rows) {
  std::vector<AnsweredTokens> all;
  for (const json& row : rows) {
    const std::vector<std::string> fields = FieldsOf(row);
    AnsweredTokens& tokens = all.emplace_back();
    tokens.tokens = Ids(fields[0]);
    tokens.prompt_tokens = static_cast<int64_t>(tokens.tokens.size());
    tokens.answer.assign(tokens.tokens.size(), false);
    for (const int32_t id : Ids(fields[1])) {
      tokens.tokens.push_back(id);
      tokens.answer.push_back(true);
    }
  }
  return all;
}

std::vector<PreferencePair> Pairs(const json& rows) {
  std::vector<PreferencePair> pairs;
  for (const json& row : rows) {
    const std::vector<std::string> fields = FieldsOf(row);
    PreferencePair& pair = pairs.emplace_back();
    pair.prompt = Ids(fields[0]);
    pair.chosen = Ids(fields[1]);
    pair.rejected = Ids(fields[2]);
    if (fields.size() > 3) {
      EXPECT_TRUE(absl::SimpleAtod(fields[3], &pair.margin)) << fields[3];
    }
  }
  return pairs;
}

class SupervisedGolden : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    std::ifstream file(testing::GoldenPath("supervised.json"));
    golden_ = json::parse(file, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(golden_.is_object()) << testing::GoldenPath("supervised.json");
    ASSERT_EQ(golden_["cases"].size(), 11u);
    case_ = golden_["cases"][GetParam()];
  }

  void Load() {
    const auto kind = case_["kind"].get<std::string>();
    ASSERT_TRUE(testing::WriteTinyModel(kind, dir_.Join("model")).ok());
    if (!case_.contains("all_weights")) {
      ASSERT_TRUE(testing::WriteTinyAdapter(
                      kind, golden_["r"].get<int64_t>(), golden_["alpha"].get<int64_t>(),
                      {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
                      dir_.Join("adapter"))
                      .ok());
    }
    proto::ModelConfig config;
    config.set_path(dir_.Join("model"));
    config.set_dtype(proto::FLOAT64);
    auto model = model::CausalLm::Load(config);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    if (case_.contains("all_weights")) {
      adapter_ = model::Adapter::AllWeights(model_->spec(), model_->weights(), at::kDouble);
      return;
    }
    auto adapter =
        model::Adapter::Load(dir_.Join("adapter"), model_->spec(), at::kDouble, at::kCPU);
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    adapter_ = *std::move(adapter);
  }

  proto::RunConfig Config() const {
    proto::RunConfig config;
    proto::LearnerConfig& learner = *config.mutable_learner();
    const json& options = case_["options"];
    learner.set_learning_rate(options["learning_rate"].get<double>());
    proto::LearnerConfig::Schedule schedule = proto::LearnerConfig::CONSTANT;
    EXPECT_TRUE(proto::LearnerConfig::Schedule_Parse(
        absl::AsciiStrToUpper(options["lr_scheduler_type"].get<std::string>()), &schedule));
    learner.set_lr_scheduler_type(schedule);
    learner.set_warmup_steps(options["warmup_steps"].get<int32_t>());
    learner.set_weight_decay(options.value("weight_decay", 0.0));
    learner.set_max_grad_norm(case_["max_grad_norm"].get<double>());
    return config;
  }

  void MakeTask() {
    const auto task = case_["task"].get<std::string>();
    if (task == "SFT") {
      task_ = std::make_unique<SftTask>(AnsweredRows(case_["rows"]), std::vector<AnsweredTokens>());
    } else if (task == "DPO") {
      const json& given = case_["dpo"];
      proto::DpoConfig dpo;
      dpo.set_beta(given["beta"].get<double>());
      dpo.set_label_smoothing(given.value("label_smoothing", 0.0));
      dpo.set_sft_weight(given.value("sft_weight", 0.0));
      auto made = std::make_unique<DpoTask>(dpo, PreferenceData{Pairs(case_["rows"]), {}});
      if (given.value("precompute_reference", false)) {
        ASSERT_TRUE(made->PrecomputeReference(ModelInUse{model_.get()}, kPassTokens).ok());
      }
      task_ = std::move(made);
    } else {
      proto::RewardModelConfig reward;
      reward.set_center_rewards_coefficient(
          case_["reward_model"].value("center_rewards_coefficient", 0.0));
      ASSERT_TRUE(AddScoreHead(*model_, /*seed=*/1, adapter_.get()).ok());
      task_ = std::make_unique<RewardTask>(reward, PreferenceData{Pairs(case_["rows"]), {}});
    }
  }

  // Of the projections and sums per root of their number of weights.
  double LargestWeightDifference() const {
    double largest = 0;
    EXPECT_EQ(case_["weights"].size(), adapter_->NamedTensors().size());
    for (const auto& [name, tensor] : adapter_->NamedTensors()) {
      const std::string peft_name = absl::StrCat("base_model.model.", name);
      if (!case_["weights"].contains(peft_name)) {
        ADD_FAILURE() << "the golden file lacks " << peft_name;
        continue;
      }
      const json& golden = case_["weights"][peft_name];
      const at::Tensor flat = tensor.detach().flatten();
      const auto n = flat.numel();
      const double root = std::sqrt(static_cast<double>(n));
      const at::Tensor probe =
          at::tensor(testing::TinyUniform(absl::StrCat("probe of ", peft_name), n));
      const auto note = [&](double found, const json& expected, double scale) {
        largest = std::max(largest, std::fabs(found - expected.get<double>()) / scale);
      };
      note(flat.dot(probe.to(at::kDouble)).item<double>(), golden["projection"], root);
      note(flat.sum().item<double>(), golden["sum"], root);
      const json& elements = golden["elements"];
      for (size_t i = 0; i < elements.size(); ++i) {
        const int64_t at = static_cast<int64_t>(i) * n / static_cast<int64_t>(elements.size());
        note(flat[at].item<double>(), elements[i], 1);
      }
    }
    return largest;
  }

  json golden_, case_;
  testing::TempDir dir_;
  std::unique_ptr<model::CausalLm> model_;
  std::shared_ptr<model::Adapter> adapter_;
  std::unique_ptr<SupervisedTask> task_;
};

TEST_P(SupervisedGolden, TwentyStepsEqualTrls) {
  SCOPED_TRACE(case_["name"].get<std::string>());
  Load();
  if (HasFatalFailure()) return;
  MakeTask();
  if (HasFatalFailure()) return;
  const auto num_steps = golden_["num_steps"].get<int64_t>();
  auto trainer = SupervisedTrainer::Create(model_.get(), adapter_, nullptr, Config(), num_steps);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  const auto batch = case_["batch"].get<int64_t>(),
             accumulation = case_["accumulation"].get<int64_t>();
  ASSERT_EQ(task_->num_rows(Split::kTrain), num_steps * batch * accumulation);
  double loss = 0, norm = 0, metric = 0;
  size_t num_metrics = 0;
  for (int64_t step = 0; step < num_steps; ++step) {
    std::vector<int64_t> rows(batch * accumulation);
    std::iota(rows.begin(), rows.end(), step * batch * accumulation);
    const auto done = (*trainer)->Step(*task_, task_->Plan(Split::kTrain, rows, kPassTokens), step);
    ASSERT_TRUE(done.ok()) << done.status();
    ASSERT_EQ(done->skipped, "");
    const json& expected = case_["steps"][step];
    EXPECT_DOUBLE_EQ(done->learning_rate, expected["learning_rate"].get<double>());
    loss = std::max(loss, std::fabs(done->loss - expected["loss"].get<double>()));
    norm = std::max(norm, std::fabs(done->grad_norm / expected["grad_norm"].get<double>() - 1));
    for (const auto& [name, value] : done->metrics) {
      // TRL takes the entropy's mean over the tokens of each of its passes.
      if (!expected.contains(name) || (name == "entropy" && accumulation > 1)) continue;
      ++num_metrics;
      metric = std::max(metric, std::fabs(value - expected[name].get<double>()));
    }
  }
  const double weights = LargestWeightDifference();
  std::printf("%-48s losses %.1e, gradient norms %.1e (relative), %zu metrics %.1e, weights %.1e\n",
              case_["name"].get<std::string>().c_str(), loss, norm, num_metrics, metric, weights);
  EXPECT_LT(loss, kTolerance);
  EXPECT_LT(norm, kTolerance);
  EXPECT_LT(weights, kTolerance);
  EXPECT_LT(metric, kTolerance);
  const auto task = case_["task"].get<std::string>();
  if (task != "SFT") {
    EXPECT_GE(num_metrics, (task == "DPO" ? 6u : 3u) * num_steps);
  }
}

INSTANTIATE_TEST_SUITE_P(Trl, SupervisedGolden, ::testing::Range(0, 11));

}  // namespace
}  // namespace wideberth::learner
