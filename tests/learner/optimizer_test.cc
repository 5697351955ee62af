// SPDX-License-Identifier: Apache-2.0
#include "learner/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/testing/paths.h"

namespace wideberth::learner {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

// What the file gives as inputs are float32 numbers in nine digits.
at::Tensor Single(const json& list, at::ScalarType dtype) {
  return at::tensor(list.get<std::vector<float>>(), at::kFloat).to(dtype);
}

at::Tensor Values(const json& list, at::ScalarType dtype) {
  return at::tensor(list.get<std::vector<double>>(), at::kDouble).to(dtype);
}

std::vector<std::pair<std::string, at::Tensor>> Parameters(const json& initial,
                                                           at::ScalarType dtype) {
  std::vector<std::pair<std::string, at::Tensor>> parameters;
  for (const auto& [name, values] : initial.items())
    parameters.emplace_back(name, Single(values, dtype));
  return parameters;
}

AdamW::Options OptionsOf(const json& entry) {
  return {entry["lr"],  entry["beta1"],        entry["beta2"],
          entry["eps"], entry["weight_decay"], entry["max_grad_norm"]};
}

void SetGradients(const std::vector<std::pair<std::string, at::Tensor>>& parameters,
                  const json& gradients) {
  for (const auto& [name, parameter] : parameters)
    parameter.mutable_grad().copy_(Single(gradients[name], parameter.scalar_type()));
}

TEST(AdamWGolden, FollowsTorchForTwentySteps) {
  std::ifstream file(testing::GoldenPath("adamw.json"));
  ASSERT_TRUE(file) << "tests/golden/adamw.json";
  const json golden = json::parse(file);
  for (const json& entry : golden["cases"]) {
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      const auto parameters = Parameters(entry["initial"], dtype);
      AdamW optimizer(parameters, OptionsOf(entry));
      for (const json& step : entry["steps"]) {
        SetGradients(parameters, step["gradients"]);
        const auto norm = optimizer.Step();
        ASSERT_TRUE(norm.ok()) << norm.status();
        EXPECT_NEAR(*norm, step["grad_norm"], dtype == at::kDouble ? 1e-12 : 1e-5);
        for (const auto& [name, parameter] : parameters) {
          const at::Tensor expected =
              Values(step[dtype == at::kDouble ? "float64" : "float32"][name], at::kDouble);
          const double difference =
              (parameter.detach().to(at::kDouble) - expected).abs().max().item<double>();
          EXPECT_LE(difference, dtype == at::kDouble ? 1e-12 : 1e-7)
              << name << " step " << optimizer.num_steps();
        }
      }
      EXPECT_EQ(optimizer.num_steps(), 20);
    }
  }
}

std::vector<std::pair<std::string, at::Tensor>> TwoParameters() {
  return {{"a", at::tensor({1.0, 2.0}, at::kDouble)},
          {"b", at::tensor({3.0, 4.0, 5.0, 6.0}, at::kDouble).view({2, 2})}};
}

TEST(AdamW, ClipsByTheGlobalNorm) {
  const auto parameters = TwoParameters();
  AdamW::Options options;
  options.beta1 = 0;  // The first moment is then the clipped gradient.
  options.max_grad_norm = 0.5;
  AdamW optimizer(parameters, options);
  optimizer.flat_gradient().copy_(at::tensor({3.0, 0.0, 0.0, 4.0, 0.0, 0.0}, at::kDouble));
  EXPECT_NEAR(*optimizer.Step(), 5, 1e-15);
  EXPECT_NEAR(optimizer.NamedState()[0].second[0].item<double>(), 3 * 0.5 / (5 + 1e-6), 1e-15);
  EXPECT_NEAR(optimizer.NamedState()[2].second[0][1].item<double>(), 4 * 0.5 / (5 + 1e-6), 1e-15);
  // Below the bound nothing is scaled.
  optimizer.flat_gradient().fill_(0.1);
  EXPECT_TRUE(optimizer.Step().ok());
  EXPECT_EQ(optimizer.NamedState()[0].second[0].item<double>(), 0.1);
}

TEST(AdamW, TheNormOfMillionsOfGradientsHasSevenDigits) {
  at::manual_seed(5);
  std::vector<std::pair<std::string, at::Tensor>> parameters;
  for (int i = 0; i < 200; ++i) parameters.emplace_back(std::to_string(i), at::zeros({20000}));
  AdamW optimizer(parameters, {});
  optimizer.flat_gradient().normal_(0, 1e-3);
  const double exact = optimizer.flat_gradient().to(at::kDouble).norm().item<double>();
  const auto norm = optimizer.Step();
  ASSERT_TRUE(norm.ok()) << norm.status();
  EXPECT_NEAR(*norm / exact, 1, 1e-6);
}

TEST(AdamW, BackwardAccumulatesIntoTheFlatGradient) {
  const auto parameters = TwoParameters();
  AdamW optimizer(parameters, {});
  for (int pass = 0; pass < 2; ++pass)
    (parameters[0].second.sum() + 2 * parameters[1].second.sum()).backward();
  const at::Tensor expected = at::tensor({2.0, 2.0, 4.0, 4.0, 4.0, 4.0}, at::kDouble);
  EXPECT_TRUE(optimizer.flat_gradient().equal(expected));
  ASSERT_TRUE(optimizer.Step().ok());
  EXPECT_TRUE(optimizer.flat_gradient().equal(at::zeros_like(expected)));
}

TEST(AdamW, ANonFiniteGradientChangesNothingAndNamesTheTensor) {
  const auto parameters = TwoParameters();
  AdamW optimizer(parameters, {});
  optimizer.flat_gradient().fill_(0.3);
  ASSERT_TRUE(optimizer.Step().ok());
  std::vector<at::Tensor> before;
  for (const auto& [name, tensor] : parameters) before.push_back(tensor.detach().clone());
  for (const auto& [name, tensor] : optimizer.NamedState()) before.push_back(tensor.clone());

  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    optimizer.flat_gradient().fill_(0.3);
    optimizer.flat_gradient()[4].fill_(bad);
    const absl::Status status = optimizer.Step().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(status.message()), HasSubstr("gradient of b"));
  }
  EXPECT_EQ(optimizer.num_steps(), 1);
  size_t i = 0;
  for (const auto& [name, tensor] : parameters)
    EXPECT_TRUE(tensor.detach().equal(before[i++])) << name;
  for (const auto& [name, tensor] : optimizer.NamedState())
    EXPECT_TRUE(tensor.equal(before[i++])) << name;
  EXPECT_EQ(optimizer.flat_gradient().abs().max().item<double>(), 0);
}

TEST(AdamW, ContinuesExactlyFromARestoredState) {
  const auto run = [](AdamW* optimizer, int from, int to) {
    for (int step = from; step < to; ++step) {
      optimizer->flat_gradient().fill_(0.1 * step - 0.2);
      optimizer->flat_gradient()[1].fill_(0.05 * step);
      ASSERT_TRUE(optimizer->Step().ok());
    }
  };
  const auto parameters = TwoParameters();
  AdamW optimizer(parameters, {});
  run(&optimizer, 0, 3);
  auto copies = TwoParameters();
  AdamW resumed(copies, {});
  std::vector<std::pair<std::string, at::Tensor>> state;
  for (const auto& [name, tensor] : optimizer.NamedState())
    state.emplace_back(name, tensor.clone());
  {
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < copies.size(); ++i) copies[i].second.copy_(parameters[i].second);
  }
  ASSERT_TRUE(resumed.Restore(state, optimizer.num_steps()).ok());
  run(&optimizer, 3, 6);
  run(&resumed, 3, 6);
  for (size_t i = 0; i < copies.size(); ++i)
    EXPECT_TRUE(copies[i].second.detach().equal(parameters[i].second.detach()));
}

TEST(AdamW, RefusesAStateThatDoesNotFit) {
  AdamW optimizer(TwoParameters(), {});
  optimizer.flat_gradient().fill_(1);
  ASSERT_TRUE(optimizer.Step().ok());
  auto state = optimizer.NamedState();
  auto expect_refused = [&](const std::vector<std::pair<std::string, at::Tensor>>& bad,
                            const char* text) {
    const absl::Status status = optimizer.Restore(bad, 7);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
    EXPECT_EQ(optimizer.num_steps(), 1);
  };
  auto bad = state;
  bad.pop_back();
  expect_refused(bad, "lacks b.exp_avg_sq");
  bad = state;
  bad.emplace_back("c.exp_avg", at::zeros({1}));
  expect_refused(bad, "unknown tensor c.exp_avg");
  bad = state;
  bad[0].second = at::zeros({3}, at::kDouble);
  expect_refused(bad, "a.exp_avg");
  bad[0].second = at::zeros({2}, at::kFloat);
  expect_refused(bad, "Float");
}

}  // namespace
}  // namespace wideberth::learner
