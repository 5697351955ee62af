// SPDX-License-Identifier: Apache-2.0
#include "learner/validate_loss.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "base/text_proto.h"

namespace wideberth::learner {
namespace {

proto::LearnerConfig Learner(const std::string& text) {
  proto::LearnerConfig learner;
  const absl::Status parsed = MergeTextProto(text, "test", &learner);
  EXPECT_TRUE(parsed.ok()) << parsed;
  return learner;
}

TEST(ValidateLossConfig, NamesFieldValueAndWhatItMustBe) {
  EXPECT_TRUE(ValidateLossConfig({}).ok());
  const std::pair<const char*, const char*> cases[] = {
      {"beta: -1", "learner.beta is -1, must be a number of at least 0"},
      {"epsilon: nan", "learner.epsilon is nan, must be a number of at least 0"},
      {"epsilon_high: -0.1", "learner.epsilon_high is -0.1, must be a number of at least 0"},
      {"delta: 0", "learner.delta is 0, must be a positive number"},
      {"vllm_importance_sampling_clip_max: 0",
       "learner.vllm_importance_sampling_clip_max is 0, must be a positive number"},
      {"vllm_importance_sampling_clip_min: 4",
       "learner.vllm_importance_sampling_clip_min is 4, must be at most "
       "vllm_importance_sampling_clip_max, which is 3"},
      {"sapo_temperature_neg: -1", "learner.sapo_temperature_neg is -1, must be a positive number"},
      {"top_entropy_quantile: 1.5", "learner.top_entropy_quantile is 1.5, must be between 0 and 1"},
      {"entropy_coef: inf", "learner.entropy_coef is inf, must be a finite number"},
      {"num_iterations: 0", "learner.num_iterations is 0, must be at least 1"},
      {"gradient_accumulation_steps: 0",
       "learner.gradient_accumulation_steps is 0, must be at least 1"},
      {"gradient_accumulation_steps: 2 steps_per_generation: 3",
       "learner.steps_per_generation is 3, must be a multiple of gradient_accumulation_steps, "
       "which is 2"},
      {"micro_batch_tokens: 0", "learner.micro_batch_tokens is 0, must be at least 1"}};
  for (const auto& [text, sentence] : cases) {
    EXPECT_EQ(ValidateLossConfig(Learner(text)).message(), sentence);
  }
}

TEST(Trap10, LuspoNeedsSequenceRatiosAndVespoTokenRatiosAndTokenCorrections) {
  EXPECT_EQ(ValidateRatioLevel(Learner("loss_type: LUSPO")).message(),
            "learner.importance_sampling_level is TOKEN, must be SEQUENCE for loss_type LUSPO");
  EXPECT_TRUE(
      ValidateRatioLevel(Learner("loss_type: LUSPO importance_sampling_level: SEQUENCE")).ok());
  EXPECT_FALSE(
      ValidateRatioLevel(Learner("loss_type: VESPO importance_sampling_level: SEQUENCE")).ok());
  EXPECT_TRUE(ValidateRatioLevel(Learner("loss_type: VESPO")).ok());
  EXPECT_EQ(
      ValidateLossConfig(Learner("loss_type: VESPO vllm_importance_sampling_correction: true"))
          .message(),
      "learner.vllm_importance_sampling_mode is SEQUENCE_MASK, must be TOKEN_TRUNCATE or "
      "TOKEN_MASK for loss_type VESPO");
  EXPECT_TRUE(
      ValidateLossConfig(Learner("loss_type: VESPO vllm_importance_sampling_mode: TOKEN_MASK"))
          .ok());
}

}  // namespace
}  // namespace wideberth::learner
