// SPDX-License-Identifier: Apache-2.0
// Twenty optimiser steps beside TRL's GRPOTrainer (tests/golden/grpo_run.json): the same tiny
// model, LoRA start, prompts, completions and rewards must give the same losses, gradient norms and
// final weights.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "learner/schedule.h"
#include "learner/train_step.h"
#include "nlohmann/json.hpp"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::learner {
namespace {

using nlohmann::json;

constexpr double kFloat64Tolerance = 1e-9;
constexpr double kFloat32Tolerance = 1e-4;

// TRL's option names are the configuration's; enum values are in upper case here.
proto::LearnerConfig LearnerConfigOf(const json& options) {
  proto::LearnerConfig config;
  const auto* descriptor = config.GetDescriptor();
  const auto* reflection = config.GetReflection();
  using Field = google::protobuf::FieldDescriptor;
  for (const auto& [name, value] : options.items()) {
    if (name == "temperature") continue;
    const Field* field = descriptor->FindFieldByName(name);
    if (field == nullptr) {
      ADD_FAILURE() << "LearnerConfig has no " << name;
      continue;
    }
    switch (field->cpp_type()) {
      case Field::CPPTYPE_ENUM:
        reflection->SetEnum(
            &config, field,
            field->enum_type()->FindValueByName(absl::AsciiStrToUpper(value.get<std::string>())));
        break;
      case Field::CPPTYPE_DOUBLE:
        reflection->SetDouble(&config, field, value.get<double>());
        break;
      case Field::CPPTYPE_INT32:
        reflection->SetInt32(&config, field, value.get<int32_t>());
        break;
      case Field::CPPTYPE_BOOL:
        reflection->SetBool(&config, field, value.get<bool>());
        break;
      default:
        ADD_FAILURE() << name << " has a type this test does not set";
    }
  }
  return config;
}

std::vector<TrainGroup> GroupsOf(const json& generation) {
  std::vector<TrainGroup> groups;
  for (const json& given : generation) {
    TrainGroup group;
    group.group_id = groups.size();
    group.source = "actor-0";
    group.prompt = given["prompt"].get<std::vector<int32_t>>();
    for (size_t i = 0; i < given["completions"].size(); ++i) {
      TrainCompletion completion;
      completion.tokens = given["completions"][i].get<std::vector<int32_t>>();
      completion.sampler_logprobs.assign(completion.tokens.size(), -5.0f);
      completion.finish = completion.tokens.back() == 2 ? proto::STOP : proto::LENGTH;
      completion.reward = given["rewards"][i].get<double>();
      group.completions.push_back(std::move(completion));
    }
    groups.push_back(std::move(group));
  }
  return groups;
}

class GrpoRun : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ifstream file(testing::GoldenPath("grpo_run.json"));
    golden_ = json::parse(file, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(golden_.is_object()) << testing::GoldenPath("grpo_run.json");
    ASSERT_EQ(golden_["cases"].size(), 3u);
  }

  // A by the formula, B zero.
  void Load(const std::string& kind, proto::DType dtype) {
    const std::vector<std::string> targets = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                              "gate_proj", "up_proj", "down_proj"};
    ASSERT_TRUE(testing::WriteTinyModel(kind, dir_.Join(kind)).ok());
    ASSERT_TRUE(testing::WriteTinyAdapter(kind, golden_["r"].get<int64_t>(),
                                          golden_["alpha"].get<int64_t>(), targets,
                                          dir_.Join("adapter"))
                    .ok());
    proto::ModelConfig config;
    config.set_path(dir_.Join(kind));
    config.set_dtype(dtype);
    auto model = model::CausalLm::Load(config);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    auto adapter =
        model::Adapter::Load(dir_.Join("adapter"), model_->spec(),
                             dtype == proto::FLOAT64 ? at::kDouble : at::kFloat, at::kCPU);
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    adapter_ = *std::move(adapter);
    const at::NoGradGuard no_grad;
    for (auto& [name, tensor] : adapter_->NamedTensors()) {
      if (name.find("lora_B") != std::string::npos) tensor.zero_();
    }
  }

  // Largest difference of a weight; of the projections per root of their number of weights.
  double LargestWeightDifference(const json& expected) const {
    double largest = 0;
    EXPECT_EQ(expected.size(), adapter_->NamedTensors().size());
    for (const auto& [name, tensor] : adapter_->NamedTensors()) {
      const std::string peft_name = absl::StrCat("base_model.model.", name);
      if (!expected.contains(peft_name)) {
        ADD_FAILURE() << "the golden file lacks " << peft_name;
        continue;
      }
      const json& golden = expected[peft_name];
      const at::Tensor flat = tensor.detach().to(at::kDouble).flatten();
      const auto n = flat.numel();
      const std::vector<float> uniform =
          testing::TinyUniform(absl::StrCat("probe of ", peft_name), n);
      const double projection = flat.dot(at::tensor(uniform).to(at::kDouble)).item<double>();
      const double root = std::sqrt(static_cast<double>(n));
      const auto note = [&](double difference) { largest = std::max(largest, difference); };
      note(std::fabs(projection - golden["projection"].get<double>()) / root);
      note(std::fabs(flat.sum().item<double>() - golden["sum"].get<double>()) / root);
      const json& elements = golden["elements"];
      for (size_t i = 0; i < elements.size(); ++i) {
        const int64_t at = static_cast<int64_t>(i) * n / static_cast<int64_t>(elements.size());
        note(std::fabs(flat[at].item<double>() - elements[i].get<double>()));
      }
    }
    return largest;
  }

  void Compare(const json& one_case, proto::DType dtype, double tolerance) {
    SCOPED_TRACE(absl::StrCat(one_case["name"].get<std::string>(), " ", proto::DType_Name(dtype)));
    Load(one_case["kind"].get<std::string>(), dtype);
    Trainer::Options options;
    options.learner = LearnerConfigOf(one_case["options"]);
    options.learner.set_max_logprob_difference(0);
    const auto num_steps = golden_["num_steps"].get<int32_t>();
    options.learner.set_max_steps(num_steps / options.learner.num_iterations());
    options.temperature = one_case["options"]["temperature"].get<double>();
    auto trainer = Trainer::Create(model_.get(), adapter_, options);
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    const json& expected = one_case["results"][dtype == proto::FLOAT64 ? "float64" : "float32"];
    double loss = 0, norm = 0, kl = 0;
    for (const json& generation : one_case["generations"]) {
      const auto metrics = (*trainer)->Step(GroupsOf(generation));
      ASSERT_TRUE(metrics.ok()) << metrics.status();
      const int64_t last = (*trainer)->optimizer().num_steps() - 1;
      const json& step = expected["steps"][last];
      EXPECT_DOUBLE_EQ(LearningRate(options.learner, last, num_steps),
                       step["learning_rate"].get<double>());
      loss = std::max(loss, std::fabs(metrics->loss - step["loss"].get<double>()));
      const double golden_norm = step["grad_norm"].get<double>();
      norm = std::max(norm, std::fabs(metrics->grad_norm / golden_norm - 1));
      // TRL sums KL in float32.
      if (step.contains("kl")) kl = std::max(kl, std::fabs(metrics->kl - step["kl"].get<double>()));
    }
    EXPECT_EQ((*trainer)->optimizer().num_steps(), num_steps);
    const double weights = LargestWeightDifference(expected["weights"]);
    std::printf("%-64s %s: weights %.1e, losses %.1e, gradient norms %.1e (relative), KL %.1e\n",
                one_case["name"].get<std::string>().c_str(), proto::DType_Name(dtype).c_str(),
                weights, loss, norm, kl);
    EXPECT_LT(weights, tolerance);
    EXPECT_LT(loss, tolerance);
    EXPECT_LT(norm, tolerance);
    EXPECT_LT(kl, std::max(tolerance, 1e-7));
  }

  json golden_;
  testing::TempDir dir_;
  std::unique_ptr<model::CausalLm> model_;
  std::shared_ptr<model::Adapter> adapter_;
};

TEST_F(GrpoRun, TwentyStepsEqualTrlsInFloat64) {
  for (const json& one_case : golden_["cases"])
    Compare(one_case, proto::FLOAT64, kFloat64Tolerance);
}

TEST_F(GrpoRun, TwentyStepsEqualTrlsInFloat32) {
  for (const json& one_case : golden_["cases"])
    Compare(one_case, proto::FLOAT32, kFloat32Tolerance);
}

}  // namespace
}  // namespace wideberth::learner
