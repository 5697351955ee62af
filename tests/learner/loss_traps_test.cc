// SPDX-License-Identifier: Apache-2.0
// What reimplementations of GRPO get wrong, by the numbers of the reference's list of traps. Those
// about advantages are in advantages_test.cc (2, 3, 14, 15, 16, 20), about configurations in
// validate_loss_test.cc (10), about the training step in train_step_test.cc (6, 8, 11, 12, 18).
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "learner/loss.h"
#include "tests/learner/loss_golden.h"

namespace wideberth::learner {
namespace {

using proto::LearnerConfig;

struct Tokens {
  std::vector<double> now, old, sampler;
};
LossInputs Inputs(const Tokens& tokens, std::vector<double> advantages,
                  std::vector<int64_t> lengths) {
  LossInputs inputs;
  inputs.new_logprobs = Leaf(tokens.now);
  inputs.old_logprobs = Constant(tokens.old);
  if (!tokens.sampler.empty()) inputs.sampler_logprobs = Constant(tokens.sampler);
  inputs.advantages = std::move(advantages);
  inputs.lengths = std::move(lengths);
  return inputs;
}

std::set<std::string> NamesOf(const LossConfig& config) {
  std::set<std::string> names;
  for (const auto& [name, value] : NamedMetrics({}, config)) names.insert(name);
  return names;
}

TEST(Trap01, TheDefaultsAreDapoAndAMaskOnTheProductOverTokens) {
  const LossConfig config = ConfigOf("vllm_importance_sampling_correction: true");
  EXPECT_EQ(config.type, LearnerConfig::DAPO);
  EXPECT_EQ(config.correction, LearnerConfig::SEQUENCE_MASK);
  EXPECT_EQ(config.correction_max, 3);
  EXPECT_FALSE(config.correction_min.has_value());
  // Drifts of 0.4 a token: two tokens give e^0.8, three e^1.2 > 3 and the completion goes;
  // downwards it only shrinks, with the length.
  for (const int length : {2, 3}) {
    for (const double drift : {0.4, -0.4}) {
      const std::vector<double> now(length, -1.0), sampler(length, -1.0 - drift);
      const LossInputs inputs = Inputs({now, now, sampler}, {1}, {length});
      const double weight = std::exp(drift * length);
      EXPECT_NEAR(WholeLoss(inputs, config).metrics.loss, weight > 3 ? 0 : -weight, 1e-15)
          << length << " tokens, drift " << drift;
    }
  }
}

TEST(Trap04, CisposDefaultCapClipsEveryToken) {
  const LossConfig narrow = ConfigOf("loss_type: CISPO");
  const LossConfig wide = ConfigOf("loss_type: CISPO epsilon_high: 5");
  const auto inputs = [] { return Inputs({{-1, -2}, {-1, -2}, {}}, {1}, {2}); };
  const LossInputs capped = inputs(), free = inputs();
  const LossResult narrow_loss = WholeLoss(capped, narrow);
  ExpectNear(GradientOf(capped, narrow_loss), {-0.1, -0.1}, 1e-15);
  EXPECT_EQ(narrow_loss.metrics.clipped_high, 2);
  const LossResult wide_loss = WholeLoss(free, wide);
  ExpectNear(GradientOf(free, wide_loss), {-0.5, -0.5}, 1e-15);
  EXPECT_EQ(wide_loss.metrics.clipped_high, 0);
}

TEST(Trap05, DeltaBindsOnlyForNegativeAdvantages) {
  const std::string delta = "delta: 2";
  for (const double advantage : {1.0, -1.0}) {
    const LossInputs with = Inputs({{0}, {-3}, {}}, {advantage}, {1});
    const LossInputs without = Inputs({{0}, {-3}, {}}, {advantage}, {1});
    const LossResult bounded = WholeLoss(with, ConfigOf(delta));
    const LossResult free = WholeLoss(without, ConfigOf(""));
    if (advantage > 0) {
      EXPECT_EQ(bounded.metrics.loss, free.metrics.loss);
      EXPECT_NEAR(free.metrics.loss, -1.2, 1e-15);
    } else {
      EXPECT_NEAR(bounded.metrics.loss, 2, 1e-15);
      EXPECT_NEAR(free.metrics.loss, std::exp(3), 1e-12) << "unbounded";
    }
    EXPECT_EQ(GradientOf(with, bounded)[0], 0);
    EXPECT_NEAR(GradientOf(without, free)[0], advantage > 0 ? 0 : std::exp(3), 1e-12);
  }
}

// Two ranks with a half each. A normaliser is what the caller says the whole is.
TEST(Trap07, DapoDoesNotDependOnShardingAndBnpoDoes) {
  for (const char* type : {"DAPO", "BNPO"}) {
    const LossConfig config = ConfigOf(std::string("loss_type: ") + type);
    LossInputs all = GoldenInputs(GroupScaled());
    const LossNormalizer whole = WholeBatch(config, &all);
    const double one = GrpoLoss(all, config, whole).metrics.loss;
    double mean = 0;
    for (size_t half = 0; half < 2; ++half) {
      LossInputs shard = SliceOf(all, 2 * half, 2 * half + 2);
      LossNormalizer local = WholeBatch(config, &shard);
      local.generation_tokens = whole.generation_tokens;
      // Gradients of two ranks are averaged, and dapo's normaliser is a rank's share.
      mean += GrpoLoss(shard, config, local).metrics.loss / (type[0] == 'B' ? 2 : 1);
    }
    if (type[0] == 'D') {
      EXPECT_NEAR(mean, one, 1e-14);
    } else {
      EXPECT_GT(std::abs(mean - one), 1e-3);
    }
  }
}

TEST(Trap08, AMaskedCompletionLeavesDapoButDilutesGrpo) {
  const std::pair<const char*, double> rows[] = {{"DAPO", 6. / 9}, {"GRPO", 1}};
  for (const auto& [type, share] : rows) {
    const LossConfig config = ConfigOf(std::string("loss_type: ") + type);
    LossInputs masked = GoldenInputs(GroupScaled()), zeroed = GoldenInputs(GroupScaled());
    masked.counted = {true, true, false, true};
    zeroed.advantages[2] = 0;
    EXPECT_NEAR(WholeLoss(masked, config).metrics.loss * share,
                WholeLoss(zeroed, config).metrics.loss, 1e-15)
        << type;
  }
}

TEST(Trap09, SequenceRatiosWeighByLengthExceptUnderGrpo) {
  for (const char* type : {"GRPO", "DAPO"}) {
    const LossConfig config =
        ConfigOf(std::string("importance_sampling_level: SEQUENCE loss_type: ") + type);
    const LossInputs inputs =
        Inputs({{-1, -1, -1, -1}, {-1.1, -1, -1.05, -1.1}, {}}, {1, 1}, {3, 1});
    const double first = -std::exp(0.05), second = -std::exp(0.1);
    const double expected = type[0] == 'G' ? (first + second) / 2 : (3 * first + second) / 4;
    EXPECT_NEAR(WholeLoss(inputs, config).metrics.loss, expected, 1e-15) << type;
  }
}

TEST(Trap12, WithoutBetaNoReferenceIsNeededAndNoKlReported) {
  LossInputs inputs = GoldenInputs(GroupScaled());
  inputs.reference_logprobs = at::Tensor();
  EXPECT_NO_THROW(WholeLoss(inputs, ConfigOf("")));
  EXPECT_EQ(NamesOf(ConfigOf("")).count("kl"), 0u);
  EXPECT_EQ(NamesOf(ConfigOf("beta: 0.001")).count("kl"), 1u);
}

TEST(Trap13, TheEntropyQuantileIsGlobalInterpolatedAndInclusive) {
  const auto of = [](const std::vector<double>& e, double q) {
    return EntropyThreshold(Constant(e), q);
  };
  EXPECT_EQ(of({1, 2, 3, 4, 5}, 0.5), 3);
  EXPECT_EQ(of({1, 2, 3, 4}, 0.5), 2.5) << "between two tokens";
  EXPECT_NEAR(of({1, 2, 4}, 0.25), 3, 1e-6);
  EXPECT_TRUE(HighEntropyMask(Constant({3}), 3).item<bool>()) << "at the threshold";
  // One threshold for the slice: the completion of low entropies has no token left.
  const LossConfig config = ConfigOf("top_entropy_quantile: 0.5");
  LossInputs inputs = Inputs({{-1, -1, -1, -1}, {-1, -1, -1, -1}, {}}, {1, 1}, {2, 2});
  inputs.entropies = Constant({0.1, 0.2, 1.1, 1.2});
  const LossResult result = WholeLoss(inputs, config);
  ExpectNear(GradientOf(inputs, result), {0, 0, -0.25, -0.25}, 1e-15);
}

TEST(Trap17, TheSamplersWeightComesFromTheOldPolicyNotTheCurrentOne) {
  const LossConfig config = ConfigOf("vllm_importance_sampling_mode: TOKEN_TRUNCATE");
  for (const double now : {-1.0, -0.9, -1.1}) {
    const LossMetrics metrics =
        WholeLoss(Inputs({{now}, {-1.0}, {-1.5}}, {1}, {1}), config).metrics;
    EXPECT_NEAR(metrics.weight_sum, std::exp(0.5), 1e-15);
    EXPECT_NEAR(metrics.loss, -std::exp(now + 1) * std::exp(0.5), 1e-14);
    EXPECT_NEAR(metrics.sampler_difference_max, 0.5, 1e-15);
  }
}

// Behaviour, proximal and current policy: the ratio is to the proximal one, the weight from it to
// the behaviour. With old := sampler, as asynchronous TRL has it, there is no weight.
TEST(Trap18, OldEqualToTheSamplerMakesTheCorrectionOne) {
  const LossConfig config = ConfigOf("vllm_importance_sampling_mode: SEQUENCE_MASK");
  LossInputs inputs = GoldenInputs(GroupScaled());
  inputs.old_logprobs = inputs.sampler_logprobs;
  const LossMetrics corrected = WholeLoss(inputs, config).metrics;
  EXPECT_EQ(corrected.weight_min, 1);
  EXPECT_EQ(corrected.weight_max, 1);
  EXPECT_EQ(corrected.loss, WholeLoss(inputs, ConfigOf("")).metrics.loss);
}

TEST(Trap19, VespoTakesTheLogOfAMaskedWeightAsTheLogOf1e8th) {
  const LossConfig config = ConfigOf("loss_type: VESPO vllm_importance_sampling_mode: TOKEN_MASK");
  // A ratio of e^20 on the first token and a masked weight on the second: log w = 20 + log 1e-8.
  const LossInputs inputs = Inputs({{0, -1}, {-20, -1}, {-20, -3}}, {1}, {2});
  const double log_w = 20 + std::log(1e-8);
  const double phi = std::exp(3 + 2 * log_w - 3 * std::exp(log_w));
  const LossResult result = WholeLoss(inputs, config);
  EXPECT_NEAR(result.metrics.phi_sum, phi, 1e-12);
  EXPECT_EQ(result.metrics.weight_min, 0);
  ExpectNear(GradientOf(inputs, result), {-phi / 2, -phi / 2}, 1e-12);
}

TEST(Trap20, AloneThereIsNoDivisionByAccumulationSteps) {
  const LossConfig config = ConfigOf("loss_type: GRPO");
  EXPECT_EQ(config.accumulation, 1);
  EXPECT_EQ(WholeLoss(Inputs({{-1}, {-1}, {}}, {2}, {1}), config).metrics.loss, -2);
}

TEST(Trap21, FractionsOfACompletionSkipTheFullyMaskedOnes) {
  const LossConfig config = ConfigOf("");
  // Clipped low everywhere: with a fraction of 0 for the masked completion the minimum would be 0.
  LossInputs inputs = Inputs({{-2, -2, -2}, {-1, -1, -1}, {}}, {-1, -1}, {2, 1});
  inputs.counted = {true, false};
  LossMetrics metrics = WholeLoss(inputs, config).metrics;
  EXPECT_EQ(metrics.clipped_low_min, 1);
  EXPECT_EQ(metrics.num_fractions, 1);
  inputs.counted = {false, false};
  metrics = WholeLoss(inputs, config).metrics;
  for (const auto& [name, value] : NamedMetrics(metrics, config)) {
    const bool per_completion = name == "clip_ratio/low_min" || name == "clip_ratio/high_max";
    EXPECT_EQ(std::isnan(value), per_completion) << name;
  }
  // A sequence-level ratio is there without tokens too, as 1.
  inputs.counted = {true, false};
  metrics = WholeLoss(inputs, ConfigOf("importance_sampling_level: SEQUENCE")).metrics;
  EXPECT_EQ(metrics.clipped_low_min, 0);
  inputs.advantages = {-1, 1};
  metrics =
      WholeLoss(inputs, ConfigOf("importance_sampling_level: SEQUENCE loss_type: CISPO")).metrics;
  EXPECT_EQ(metrics.clipped_high, 1) << "1 is above cispo's cap of 0.2";
}

}  // namespace
}  // namespace wideberth::learner
