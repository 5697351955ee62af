// SPDX-License-Identifier: Apache-2.0
// The loss against TRL's numbers, and what must not matter to it.
#include "learner/loss.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "tests/learner/loss_golden.h"

namespace wideberth::learner {
namespace {

using proto::LearnerConfig;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

void ExpectMetrics(const LossMetrics& metrics, const LossConfig& config, const json& expected) {
  std::map<std::string, double> named;
  for (const auto& [name, value] : NamedMetrics(metrics, config)) named[name] = value;
  EXPECT_EQ(named.size(), expected.size());
  for (const auto& [name, value] : expected.items()) {
    ASSERT_TRUE(named.count(name)) << name;
    if (value.is_null()) {
      EXPECT_TRUE(std::isnan(named[name])) << name;
    } else {
      // TRL counts clipped tokens in float32.
      EXPECT_NEAR(named[name], value.get<double>(), 5e-8) << name;
    }
  }
}

TEST(GrpoLossGolden, LossGradientAndMetricsEqualTrlsInEveryRow) {
  ASSERT_FALSE(Golden().is_null()) << "tests/golden/grpo.json";
  ASSERT_EQ(Golden()["cases"].size(), 40u);
  for (const json& entry : Golden()["cases"]) {
    const proto::LearnerConfig learner = LearnerOf(entry["override"]);
    const LossConfig config = LossConfigOf(learner, Golden()["max_completion_length"]);
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      const bool exact = dtype == at::kDouble;
      SCOPED_TRACE(entry["name"].get<std::string>() + (exact ? " float64" : " float32"));
      LossInputs inputs = GoldenInputs(entry["advantages"], dtype);
      if (learner.mask_truncated_completions()) {
        for (bool truncated : Golden()["truncated"]) inputs.counted.push_back(!truncated);
      }
      const LossResult result = WholeLoss(inputs, config);
      EXPECT_EQ(result.loss.scalar_type(), dtype);
      EXPECT_NEAR(result.loss.item<double>(), entry["loss"], exact ? 5e-9 : 1e-5);
      EXPECT_EQ(result.metrics.loss, result.loss.item<double>());
      ExpectNear(GradientOf(inputs, result), entry["gradient"], exact ? 1e-9 : 1e-6);
      if (exact) ExpectMetrics(result.metrics, config, entry["metrics"]);
    }
  }
}

TEST(GrpoLossGolden, KlEstimatorsEqualTheReference) {
  for (const json& entry : Golden()["kl"]) {
    const double difference = entry["difference"];
    for (const char* name : {"k1", "k2", "k3"}) {
      LossInputs inputs;
      inputs.new_logprobs = Leaf({-1.0});
      inputs.reference_logprobs = Constant({-1.0 - difference});
      inputs.advantages = {0};
      inputs.lengths = {1};
      const LossConfig config =
          ConfigOf(absl::StrCat("beta: 1 kl_estimator: K", std::string(name).substr(1)));
      const LossResult result = WholeLoss(inputs, config);
      EXPECT_NEAR(result.loss.item<double>(), entry[name], 1e-15) << name;
      EXPECT_NEAR(result.metrics.kl_sum, entry[name], 1e-15) << name;
      const double slope = name == std::string("k1")   ? 1
                           : name == std::string("k2") ? difference
                                                       : 1 - std::exp(-difference);
      EXPECT_NEAR(GradientOf(inputs, result)[0], slope, 1e-15) << name;
    }
  }
}

// Every loss type with most of what can be switched on.
class AnyLoss : public ::testing::TestWithParam<LearnerConfig::LossType> {
 protected:
  LossConfig Config(const std::string& more = "") const {
    const char* level = GetParam() == LearnerConfig::LUSPO ? "SEQUENCE" : "TOKEN";
    return ConfigOf(absl::StrCat("loss_type: ", LearnerConfig::LossType_Name(GetParam()),
                                 " importance_sampling_level: ", level,
                                 " epsilon_high: 0.28 beta: 0.04 top_entropy_quantile: 0.7 "
                                 "entropy_coef: 0.01 off_policy_mask_threshold: 0.2 "
                                 "vllm_importance_sampling_mode: TOKEN_TRUNCATE ",
                                 more));
  }
};
INSTANTIATE_TEST_SUITE_P(Loss, AnyLoss,
                         ::testing::Values(LearnerConfig::DAPO, LearnerConfig::GRPO,
                                           LearnerConfig::BNPO, LearnerConfig::DR_GRPO,
                                           LearnerConfig::CISPO, LearnerConfig::SAPO,
                                           LearnerConfig::LUSPO, LearnerConfig::VESPO),
                         [](const auto& info) { return LearnerConfig::LossType_Name(info.param); });

TEST_P(AnyLoss, DoesNotDependOnHowTheSliceIsSplitIntoMicroBatches) {
  const LossConfig config = Config();
  LossInputs whole = GoldenInputs(GroupScaled());
  const LossNormalizer normalizer = WholeBatch(config, &whole);
  const LossResult expected = GrpoLoss(whole, config, normalizer);
  const std::vector<double> gradient = GradientOf(whole, expected);
  for (size_t cut = 1; cut < 4; ++cut) {
    LossInputs split = GoldenInputs(GroupScaled());
    split.entropy_mask = whole.entropy_mask;
    const LossResult first = GrpoLoss(SliceOf(split, 0, cut), config, normalizer);
    const LossResult second = GrpoLoss(SliceOf(split, cut, 4), config, normalizer);
    EXPECT_NEAR((first.loss + second.loss).item<double>(), expected.loss.item<double>(), 1e-14);
    (first.loss + second.loss).backward();
    ExpectNear(GradientOf(split, {at::zeros({}, at::kDouble).set_requires_grad(true), {}}),
               gradient, 1e-14);
    LossMetrics merged = first.metrics;
    merged.Merge(second.metrics);
    EXPECT_EQ(merged.num_tokens, expected.metrics.num_tokens);
    EXPECT_EQ(merged.ratio_min, expected.metrics.ratio_min);
    EXPECT_EQ(merged.ratio_max, expected.metrics.ratio_max);
    const auto one = NamedMetrics(expected.metrics, config), two = NamedMetrics(merged, config);
    ASSERT_EQ(one.size(), two.size());
    EXPECT_GE(one.size(), 9u);
    for (size_t i = 0; i < one.size(); ++i) {
      EXPECT_NEAR(one[i].second, two[i].second, 1e-14) << one[i].first;
    }
  }
}

TEST_P(AnyLoss, DoesNotDependOnTheOrderOfCompletions) {
  const LossConfig config = Config();
  LossInputs all = GoldenInputs(GroupScaled());
  const LossNormalizer normalizer = WholeBatch(config, &all);
  const double expected = GrpoLoss(all, config, normalizer).loss.item<double>();
  std::vector<LossInputs> parts;
  LossInputs shuffled;
  for (size_t c : {2, 0, 3, 1}) {
    parts.push_back(SliceOf(all, c, c + 1));
    shuffled.advantages.push_back(all.advantages[c]);
    shuffled.lengths.push_back(all.lengths[c]);
  }
  for (at::Tensor LossInputs::*field :
       {&LossInputs::new_logprobs, &LossInputs::old_logprobs, &LossInputs::sampler_logprobs,
        &LossInputs::reference_logprobs, &LossInputs::entropies, &LossInputs::entropy_mask}) {
    std::vector<at::Tensor> tensors;
    for (const LossInputs& part : parts) tensors.push_back(part.*field);
    shuffled.*field = at::cat(tensors);
  }
  EXPECT_NEAR(GrpoLoss(shuffled, config, normalizer).loss.item<double>(), expected, 1e-14);
}

TEST_P(AnyLoss, TheRatioIsExactlyOneWhenTheVersionMatches) {
  LossInputs inputs = GoldenInputs({0.5, -0.25, 1.5, -2.0});
  inputs.reference_logprobs = inputs.new_logprobs.detach();
  const LossConfig config = Config();
  for (const bool given : {false, true}) {
    inputs.old_logprobs = given ? inputs.new_logprobs.detach() : at::Tensor();
    inputs.sampler_logprobs = inputs.new_logprobs.detach();
    const LossMetrics metrics = WholeLoss(inputs, config).metrics;
    EXPECT_EQ(metrics.kl_sum, 0);
    EXPECT_EQ(metrics.ratio_min, 1);
    EXPECT_EQ(metrics.ratio_max, 1);
    EXPECT_EQ(metrics.ratio_sum, 9);
    EXPECT_EQ(metrics.weight_min, 1);
    EXPECT_EQ(metrics.weight_max, 1);
    EXPECT_EQ(metrics.clipped_low, 0);
    EXPECT_EQ(metrics.clipped_high, GetParam() == LearnerConfig::CISPO ? 6 : 0) << "cap of 0.28";
  }
}

TEST_P(AnyLoss, MaskedCompletionsGetNoGradientWhateverStandsThere) {
  const LossConfig config = Config();
  LossInputs clean = GoldenInputs(GroupScaled());
  clean.counted = {true, false, true, true};
  const double expected = WholeLoss(clean, config).loss.item<double>();
  for (const double poison : {-kInfinity, kInfinity, kNan}) {
    LossInputs inputs = GoldenInputs(GroupScaled());
    inputs.counted = clean.counted;
    for (const at::Tensor& tensor :
         {inputs.new_logprobs, inputs.old_logprobs, inputs.sampler_logprobs,
          inputs.reference_logprobs, inputs.entropies}) {
      tensor.detach().narrow(0, 3, 2).fill_(poison);
    }
    const LossResult result = WholeLoss(inputs, config);
    EXPECT_EQ(result.loss.item<double>(), expected);
    const std::vector<double> gradient = GradientOf(inputs, result);
    EXPECT_EQ(gradient[3], 0);
    EXPECT_EQ(gradient[4], 0);
    for (const double g : gradient) EXPECT_TRUE(std::isfinite(g));
    EXPECT_EQ(result.metrics.num_tokens, 7);
  }
}

TEST_P(AnyLoss, ACompletionThatDoesNotCountIsOneWithoutTokens) {
  const LossConfig config = Config();
  LossInputs masked = GoldenInputs(GroupScaled());
  masked.counted = {true, false, true, true};
  const LossNormalizer normalizer = WholeBatch(config, &masked);
  const LossInputs all = GoldenInputs(GroupScaled());
  LossInputs without = SliceOf(masked, 2, 4);
  without.counted.clear();
  LossInputs first = SliceOf(masked, 0, 1);
  first.counted.clear();
  EXPECT_NEAR(GrpoLoss(first, config, normalizer).metrics.loss +
                  GrpoLoss(without, config, normalizer).metrics.loss,
              GrpoLoss(masked, config, normalizer).metrics.loss, 1e-14);
}

TEST_P(AnyLoss, NothingLeftIsALossOfZeroAndNoGradient) {
  LossInputs inputs = GoldenInputs(GroupScaled());
  inputs.counted = {false, false, false, false};
  const LossResult result = WholeLoss(inputs, Config());
  EXPECT_EQ(result.loss.item<double>(), 0);
  for (const double g : GradientOf(inputs, result)) EXPECT_EQ(g, 0);
}

TEST_P(AnyLoss, RefusesShapesThatDoNotFitAndWhatIsMissing) {
  const LossConfig config = Config();
  const auto refuses = [&](const std::function<void(LossInputs&)>& spoil) {
    LossInputs inputs = GoldenInputs(GroupScaled());
    const LossNormalizer normalizer = WholeBatch(config, &inputs);
    spoil(inputs);
    EXPECT_THROW(GrpoLoss(inputs, config, normalizer), c10::Error);
  };
  refuses([](LossInputs& in) { in.lengths = {3, 2, 3, 2}; });
  refuses([](LossInputs& in) { in.advantages.pop_back(); });
  refuses([](LossInputs& in) { in.counted = {true}; });
  refuses([](LossInputs& in) { in.reference_logprobs = at::Tensor(); });
  refuses([](LossInputs& in) { in.sampler_logprobs = at::Tensor(); });
  refuses([](LossInputs& in) { in.entropies = at::Tensor(); });
  refuses([](LossInputs& in) { in.entropy_mask = at::Tensor(); });
  refuses([](LossInputs& in) { in.old_logprobs = in.old_logprobs.narrow(0, 0, 8); });
}

TEST(GrpoLoss, AccumulationDividesWhatIsAMeanOfASlice) {
  const std::pair<const char*, double> types[] = {{"GRPO", 4},  {"BNPO", 4},  {"DR_GRPO", 4},
                                                  {"SAPO", 4},  {"LUSPO", 4}, {"DAPO", 1},
                                                  {"CISPO", 1}, {"VESPO", 1}};
  for (const auto& [type, factor] : types) {
    const std::string text = absl::StrCat("loss_type: ", type);
    const double alone = WholeLoss(GoldenInputs(GroupScaled()), ConfigOf(text)).metrics.loss;
    const double one_of_four =
        WholeLoss(GoldenInputs(GroupScaled()), ConfigOf(text + " gradient_accumulation_steps: 4"))
            .metrics.loss;
    EXPECT_NEAR(one_of_four * factor, alone, 1e-15) << type;
  }
}

TEST(GrpoLoss, TheEntropyBonusHasAGradientOnTheTokensThatPassTheMask) {
  const LossConfig config = ConfigOf("entropy_coef: 0.5 top_entropy_quantile: 0.5");
  LossInputs inputs = GoldenInputs(GroupScaled());
  inputs.entropies = Leaf(Packed(Golden()["entropy"]));
  const LossResult result = WholeLoss(inputs, config);
  result.loss.backward();
  // Of 0.2 1.5 0.1 | 0.9 0.4 | 0.05 2.2 1.1 | 0.7 the five from the median (0.7) up.
  const at::Tensor gradient = inputs.entropies.grad();
  const std::vector<double> expected = {0, -0.1, 0, -0.1, 0, 0, -0.1, -0.1, -0.1};
  for (int i = 0; i < 9; ++i) EXPECT_NEAR(gradient[i].item<double>(), expected[i], 1e-15);
  EXPECT_NEAR(result.metrics.policy_loss - result.metrics.loss,
              0.5 * (1.5 + 0.9 + 2.2 + 1.1 + 0.7) / 5, 1e-15);
}

TEST(GrpoLoss, AWeightOfZeroDropsATokenWhoseRatioOverflows) {
  LossInputs inputs;
  inputs.new_logprobs = Leaf({-0.5, -1.0});
  inputs.old_logprobs = Constant({-1000, -1.0});
  inputs.sampler_logprobs = Constant({-2000, -1.0});
  inputs.advantages = {-1, -1};
  inputs.lengths = {1, 1};
  const LossResult result =
      WholeLoss(inputs, ConfigOf("vllm_importance_sampling_mode: TOKEN_MASK"));
  EXPECT_EQ(result.loss.item<double>(), 0.5);
}

TEST(LossConfigOf, EpsilonHighDefaultsToEpsilon) {
  EXPECT_EQ(ConfigOf("epsilon: 0.1").epsilon_high, 0.1);
  EXPECT_EQ(ConfigOf("epsilon: 0.1 epsilon_high: 0.28").epsilon_high, 0.28);
}

TEST(LossConfigOf, TheCorrectionIsOnWhereItOrItsModeIsSet) {
  EXPECT_FALSE(ConfigOf("").correction.has_value());
  EXPECT_EQ(ConfigOf("vllm_importance_sampling_correction: true").correction,
            LearnerConfig::SEQUENCE_MASK);
  EXPECT_EQ(ConfigOf("vllm_importance_sampling_mode: TOKEN_MASK").correction,
            LearnerConfig::TOKEN_MASK);
}

}  // namespace
}  // namespace wideberth::learner
