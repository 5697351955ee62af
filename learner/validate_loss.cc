// SPDX-License-Identifier: Apache-2.0
#include "learner/validate_loss.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace wideberth::learner {
namespace {

using proto::LearnerConfig;

template <typename T>
absl::Status Wrong(absl::string_view field, T found, absl::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("learner.", field, " is ", found, ", must be ", expected));
}

absl::Status CheckNumbers(const LearnerConfig& config) {
  const std::pair<const char*, double> at_least_zero[] = {
      {"beta", config.beta()},
      {"epsilon", config.epsilon()},
      {"epsilon_high", config.epsilon_high()},
      {"vllm_importance_sampling_clip_min", config.vllm_importance_sampling_clip_min()}};
  for (const auto& [field, value] : at_least_zero) {
    if (!(std::isfinite(value) && value >= 0)) {
      return Wrong(field, value, "a number of at least 0");
    }
  }
  const std::pair<const char*, double> positive[] = {
      {"delta", config.has_delta() ? config.delta() : 1.0},
      {"vllm_importance_sampling_clip_max", config.vllm_importance_sampling_clip_max()},
      {"sapo_temperature_pos", config.sapo_temperature_pos()},
      {"sapo_temperature_neg", config.sapo_temperature_neg()}};
  for (const auto& [field, value] : positive) {
    if (!(std::isfinite(value) && value > 0)) return Wrong(field, value, "a positive number");
  }
  const std::pair<const char*, double> finite[] = {
      {"off_policy_mask_threshold", config.off_policy_mask_threshold()},
      {"entropy_coef", config.entropy_coef()},
      {"vespo_k_pos", config.vespo_k_pos()},
      {"vespo_lambda_pos", config.vespo_lambda_pos()},
      {"vespo_k_neg", config.vespo_k_neg()},
      {"vespo_lambda_neg", config.vespo_lambda_neg()}};
  for (const auto& [field, value] : finite) {
    if (!std::isfinite(value)) return Wrong(field, value, "a finite number");
  }
  if (!(config.top_entropy_quantile() >= 0 && config.top_entropy_quantile() <= 1)) {
    return Wrong("top_entropy_quantile", config.top_entropy_quantile(), "between 0 and 1");
  }
  if (config.vllm_importance_sampling_clip_min() > config.vllm_importance_sampling_clip_max()) {
    return Wrong("vllm_importance_sampling_clip_min", config.vllm_importance_sampling_clip_min(),
                 absl::StrCat("at most vllm_importance_sampling_clip_max, which is ",
                              config.vllm_importance_sampling_clip_max()));
  }
  return absl::OkStatus();
}

absl::Status CheckCounts(const LearnerConfig& config) {
  const std::pair<const char*, int32_t> at_least_one[] = {
      {"num_iterations", config.num_iterations()},
      {"gradient_accumulation_steps", config.gradient_accumulation_steps()},
      {"steps_per_generation",
       config.has_steps_per_generation() ? config.steps_per_generation() : 1},
      {"micro_batch_tokens", config.micro_batch_tokens()}};
  for (const auto& [field, value] : at_least_one) {
    if (value < 1) return Wrong(field, value, "at least 1");
  }
  if (config.has_steps_per_generation() &&
      config.steps_per_generation() % config.gradient_accumulation_steps() != 0) {
    return Wrong("steps_per_generation", config.steps_per_generation(),
                 absl::StrCat("a multiple of gradient_accumulation_steps, which is ",
                              config.gradient_accumulation_steps()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateLossConfig(const LearnerConfig& config) {
  if (const absl::Status status = CheckNumbers(config); !status.ok()) return status;
  if (const absl::Status status = CheckCounts(config); !status.ok()) return status;
  const bool corrected =
      config.vllm_importance_sampling_correction() || config.has_vllm_importance_sampling_mode();
  const LearnerConfig::SamplerCorrection mode = config.vllm_importance_sampling_mode();
  if (config.loss_type() == LearnerConfig::VESPO && corrected &&
      mode != LearnerConfig::TOKEN_TRUNCATE && mode != LearnerConfig::TOKEN_MASK) {
    return Wrong("vllm_importance_sampling_mode", LearnerConfig::SamplerCorrection_Name(mode),
                 "TOKEN_TRUNCATE or TOKEN_MASK for loss_type VESPO");
  }
  return absl::OkStatus();
}

absl::Status ValidateRatioLevel(const LearnerConfig& config) {
  const bool sequence = config.importance_sampling_level() == LearnerConfig::SEQUENCE;
  if (config.loss_type() == LearnerConfig::LUSPO && !sequence) {
    return Wrong("importance_sampling_level", "TOKEN", "SEQUENCE for loss_type LUSPO");
  }
  if (config.loss_type() == LearnerConfig::VESPO && sequence) {
    return Wrong("importance_sampling_level", "SEQUENCE", "TOKEN for loss_type VESPO");
  }
  return absl::OkStatus();
}

}  // namespace wideberth::learner
