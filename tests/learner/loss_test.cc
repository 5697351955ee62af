// SPDX-License-Identifier: Apache-2.0
// Shapes: M packed tokens.
#include "learner/loss.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/testing/paths.h"

namespace wideberth::learner {
namespace {

using nlohmann::json;

const json& Golden() {
  static const json golden = [] {
    std::ifstream file(testing::GoldenPath("grpo.json"));
    return file ? json::parse(file) : json();
  }();
  return golden;
}

// The valid entries of a padded [B][T] table, row after row.
std::vector<double> Packed(const json& table) {
  std::vector<double> values;
  for (size_t b = 0; b < table.size(); ++b) {
    for (size_t t = 0; t < table[b].size(); ++t) {
      if (Golden()["mask"][b][t] == 1) values.push_back(table[b][t]);
    }
  }
  return values;
}

at::Tensor Constant(const std::vector<double>& values, at::ScalarType dtype = at::kDouble) {
  return at::tensor(values, at::kDouble).to(dtype);
}
at::Tensor Leaf(const std::vector<double>& values, at::ScalarType dtype = at::kDouble) {
  return Constant(values, dtype).set_requires_grad(true);
}

// The reference setting: four completions of 3, 2, 3 and 1 tokens.
LossInputs GoldenInputs(const std::vector<double>& advantages, at::ScalarType dtype = at::kDouble) {
  return {Leaf(Packed(Golden()["new"]), dtype),
          Constant(Packed(Golden()["old"]), dtype),
          Constant(Packed(Golden()["ref"]), dtype),
          advantages,
          {3, 2, 3, 1},
          {}};
}
const std::vector<double>& GroupScaled() {
  static const std::vector<double> advantages = Golden()["advantages"]["group"];
  return advantages;
}

void ExpectNear(const at::Tensor& actual, const std::vector<double>& expected, double tolerance) {
  const at::Tensor values = actual.to(at::kDouble).contiguous();
  ASSERT_EQ(values.numel(), static_cast<int64_t>(expected.size()));
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(values.data_ptr<double>()[i], expected[i], tolerance) << "token " << i;
  }
}

// Completions [first, end) of `all`, as a micro-batch.
LossInputs Slice(const LossInputs& all, size_t first, size_t end) {
  int64_t from = 0, length = 0;
  for (size_t c = 0; c < end; ++c) (c < first ? from : length) += all.lengths[c];
  auto part = [&](const at::Tensor& t) { return t.narrow(0, from, length); };
  LossInputs slice{
      part(all.new_logprobs), part(all.old_logprobs), part(all.reference_logprobs), {}, {}, {}};
  slice.advantages.assign(all.advantages.begin() + first, all.advantages.begin() + end);
  slice.lengths.assign(all.lengths.begin() + first, all.lengths.begin() + end);
  if (!all.counted.empty())
    slice.counted.assign(all.counted.begin() + first, all.counted.begin() + end);
  return slice;
}

TEST(GrpoLossGolden, LossAndGradientEqualTheReference) {
  ASSERT_FALSE(Golden().is_null()) << "tests/golden/grpo.json";
  int compared = 0;
  for (const json& entry : Golden()["cases"]) {
    // What the configuration cannot ask for is not compared.
    if (!entry["delta"].is_null() || !entry["sampler_correction"].is_null() ||
        entry["bias_correction_kl"] == true)
      continue;
    const LossConfig config{
        entry["loss_type"] == "grpo" ? proto::LearnerConfig::GRPO : proto::LearnerConfig::DAPO,
        entry["epsilon"], entry["epsilon_high"], entry["beta"]};
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      SCOPED_TRACE(entry["name"].get<std::string>() +
                   (dtype == at::kDouble ? " float64" : " float32"));
      const LossInputs inputs = GoldenInputs(entry["advantages"], dtype);
      const LossResult result = GrpoLoss(inputs, config, {9, 4});
      EXPECT_EQ(result.loss.scalar_type(), dtype);
      EXPECT_NEAR(result.loss.item<double>(), entry["loss"], dtype == at::kDouble ? 5e-9 : 1e-5);
      result.loss.backward();
      ExpectNear(inputs.new_logprobs.grad(), Packed(entry["gradient"]), 1e-6);
    }
    ++compared;
  }
  EXPECT_EQ(compared, 10);
}

// Rows of the reference where the third completion counts as truncated and is masked.
TEST(GrpoLossGolden, ATruncatedCompletionLeavesDapoButDilutesGrpo) {
  const std::pair<proto::LearnerConfig::LossType, double> rows[] = {
      {proto::LearnerConfig::DAPO, -0.25913580}, {proto::LearnerConfig::GRPO, -0.19123297}};
  const std::vector<std::vector<double>> gradients = {
      {0, -0.106613, -0.117825, 0, 0.130217, 0, 0, 0, -0.117785},
      {0, -0.053306, -0.058913, 0, 0.097663, 0, 0, 0, -0.176677}};
  for (int row = 0; row < 2; ++row) {
    LossInputs inputs = GoldenInputs(GroupScaled());
    inputs.counted = {true, true, false, true};
    const LossResult result = GrpoLoss(inputs, {rows[row].first, 0.2, 0.2, 0}, {6, 4});
    EXPECT_NEAR(result.loss.item<double>(), rows[row].second, 5e-9);
    result.loss.backward();
    ExpectNear(inputs.new_logprobs.grad(), gradients[row], 1e-6);
    EXPECT_EQ(result.metrics.num_tokens, 6);
    // Left out of the pass altogether it is the same.
    const LossInputs all = GoldenInputs(GroupScaled());
    const double without =
        GrpoLoss(Slice(all, 0, 2), {rows[row].first, 0.2, 0.2, 0}, {6, 4}).metrics.loss +
        GrpoLoss(Slice(all, 3, 4), {rows[row].first, 0.2, 0.2, 0}, {6, 4}).metrics.loss;
    EXPECT_NEAR(without, rows[row].second, 5e-9);
  }
}

class EitherLoss : public ::testing::TestWithParam<proto::LearnerConfig::LossType> {
 protected:
  LossConfig config_{GetParam(), 0.2, 0.28, 0.04};
};
INSTANTIATE_TEST_SUITE_P(Loss, EitherLoss,
                         ::testing::Values(proto::LearnerConfig::DAPO, proto::LearnerConfig::GRPO),
                         [](const auto& info) {
                           return proto::LearnerConfig::LossType_Name(info.param);
                         });

TEST_P(EitherLoss, DoesNotDependOnHowTheStepIsSplitIntoMicroBatches) {
  const LossInputs whole = GoldenInputs(GroupScaled());
  const LossResult expected = GrpoLoss(whole, config_, {9, 4});
  expected.loss.backward();
  for (size_t cut = 1; cut < 4; ++cut) {
    const LossInputs split = GoldenInputs(GroupScaled());
    const LossResult first = GrpoLoss(Slice(split, 0, cut), config_, {9, 4});
    const LossResult second = GrpoLoss(Slice(split, cut, 4), config_, {9, 4});
    first.loss.backward();
    second.loss.backward();
    EXPECT_NEAR((first.loss + second.loss).item<double>(), expected.loss.item<double>(), 1e-14);
    EXPECT_LT((split.new_logprobs.grad() - whole.new_logprobs.grad()).abs().max().item<double>(),
              1e-14);
    LossMetrics merged = first.metrics;
    merged.Merge(second.metrics);
    EXPECT_EQ(merged.num_tokens, expected.metrics.num_tokens);
    EXPECT_NEAR(merged.kl_sum, expected.metrics.kl_sum, 1e-14);
    EXPECT_EQ(merged.clipped_low, expected.metrics.clipped_low);
    EXPECT_EQ(merged.clipped_high, expected.metrics.clipped_high);
    EXPECT_EQ(merged.clipped_low_min, expected.metrics.clipped_low_min);
    EXPECT_EQ(merged.clipped_high_max, expected.metrics.clipped_high_max);
    EXPECT_EQ(merged.ratio_min, expected.metrics.ratio_min);
    EXPECT_EQ(merged.ratio_max, expected.metrics.ratio_max);
  }
}

TEST_P(EitherLoss, DoesNotDependOnTheOrderOfCompletions) {
  const LossInputs all = GoldenInputs(GroupScaled());
  const double expected = GrpoLoss(all, config_, {9, 4}).loss.item<double>();
  const std::vector<size_t> order = {2, 0, 3, 1};
  LossInputs shuffled;
  std::vector<at::Tensor> now, old, reference;
  for (size_t c : order) {
    const LossInputs one = Slice(all, c, c + 1);
    now.push_back(one.new_logprobs);
    old.push_back(one.old_logprobs);
    reference.push_back(one.reference_logprobs);
    shuffled.advantages.push_back(all.advantages[c]);
    shuffled.lengths.push_back(all.lengths[c]);
  }
  shuffled.new_logprobs = at::cat(now);
  shuffled.old_logprobs = at::cat(old);
  shuffled.reference_logprobs = at::cat(reference);
  EXPECT_NEAR(GrpoLoss(shuffled, config_, {9, 4}).loss.item<double>(), expected, 1e-14);
}

TEST_P(EitherLoss, AtRatioOneKlIsZeroAndTheValueIsMinusTheMeanAdvantage) {
  LossInputs inputs = GoldenInputs({0.5, -0.25, 1.5, -2.0});
  inputs.old_logprobs = inputs.new_logprobs.detach();
  inputs.reference_logprobs = inputs.new_logprobs.detach();
  const LossResult result = GrpoLoss(inputs, config_, {9, 4});
  EXPECT_EQ(result.metrics.kl_sum, 0);
  EXPECT_EQ(result.metrics.ratio_min, 1);
  EXPECT_EQ(result.metrics.ratio_max, 1);
  EXPECT_EQ(result.metrics.ratio_sum, 9);
  EXPECT_EQ(result.metrics.clipped_low + result.metrics.clipped_high, 0);
  const double mean = GetParam() == proto::LearnerConfig::GRPO
                          ? (0.5 - 0.25 + 1.5 - 2.0) / 4
                          : (3 * 0.5 - 2 * 0.25 + 3 * 1.5 - 2.0) / 9;
  EXPECT_NEAR(result.loss.item<double>(), -mean, 1e-15);
}

TEST_P(EitherLoss, MaskedCompletionsGetNoGradientWhateverStandsThere) {
  LossInputs inputs = GoldenInputs(GroupScaled());
  inputs.counted = {true, false, true, true};
  {
    at::Tensor values = inputs.new_logprobs.detach();
    values[3] = -std::numeric_limits<double>::infinity();
    values[4] = std::numeric_limits<double>::quiet_NaN();
  }
  const LossResult result = GrpoLoss(inputs, config_, {7, 4});
  EXPECT_TRUE(std::isfinite(result.loss.item<double>()));
  result.loss.backward();
  const at::Tensor gradient = inputs.new_logprobs.grad();
  EXPECT_EQ(gradient[3].item<double>(), 0);
  EXPECT_EQ(gradient[4].item<double>(), 0);
  EXPECT_TRUE(gradient.isfinite().all().item<bool>());
}

TEST_P(EitherLoss, CountsClippedTokensAgainstTheirAdvantage) {
  // Ratios e^0.5 (A > 0: clipped), e^-0.5 (A < 0: clipped), and both with the other sign (not
  // clipped).
  const LossInputs inputs{
      Leaf({0.5, -0.5, 0.5, -0.5}), Constant({0, 0, 0, 0}), {}, {1, -1, -1, 1}, {1, 1, 1, 1}, {}};
  config_.beta = 0;
  const LossMetrics metrics = GrpoLoss(inputs, config_, {4, 4}).metrics;
  EXPECT_EQ(metrics.clipped_high, 1);
  EXPECT_EQ(metrics.clipped_low, 1);
  EXPECT_EQ(metrics.clipped_high_max, 1);
  EXPECT_EQ(metrics.clipped_low_min, 0);
  EXPECT_NEAR(metrics.ratio_sum, 2 * std::exp(0.5) + 2 * std::exp(-0.5), 1e-12);
}

TEST_P(EitherLoss, RefusesShapesThatDoNotFit) {
  LossInputs inputs = GoldenInputs(GroupScaled());
  inputs.lengths = {3, 2, 3, 2};
  EXPECT_THROW(GrpoLoss(inputs, config_, {9, 4}), c10::Error);
  inputs = GoldenInputs(GroupScaled());
  inputs.reference_logprobs = at::Tensor();
  EXPECT_THROW(GrpoLoss(inputs, config_, {9, 4}), c10::Error) << "beta is not zero";
}

TEST(LossConfigOf, EpsilonHighDefaultsToEpsilon) {
  proto::LearnerConfig config;
  config.set_epsilon(0.1);
  EXPECT_EQ(LossConfigOf(config).epsilon_high, 0.1);
  config.set_epsilon_high(0.28);
  EXPECT_EQ(LossConfigOf(config).epsilon_high, 0.28);
}

}  // namespace
}  // namespace wideberth::learner
