// SPDX-License-Identifier: Apache-2.0
// Everything is one value a token: what belongs to a completion is spread over its tokens, and the
// normalisation is a weight of each token, so that one sum serves every loss type.
#include "learner/loss.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace wideberth::learner {
namespace {

using proto::LearnerConfig;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Bounds of vespo's log weights; the lower one is log(1e-8).
constexpr double kVespoUpper = 20.0;
const double kVespoLower = std::log(1e-8);

bool IsClipping(LearnerConfig::LossType type) {
  return type != LearnerConfig::CISPO && type != LearnerConfig::SAPO &&
         type != LearnerConfig::VESPO;
}

bool IsSequenceMode(LearnerConfig::SamplerCorrection mode) {
  return mode == LearnerConfig::SEQUENCE_TRUNCATE || mode == LearnerConfig::SEQUENCE_MASK;
}

bool IsTruncateMode(LearnerConfig::SamplerCorrection mode) {
  return mode == LearnerConfig::TOKEN_TRUNCATE || mode == LearnerConfig::SEQUENCE_TRUNCATE;
}

void CheckInputs(const LossInputs& inputs, const LossConfig& config) {
  const int64_t num_tokens = inputs.new_logprobs.numel();
  const auto fits = [&](const at::Tensor& other, const char* name, bool needed) {
    if (!other.defined()) {
      TORCH_CHECK(!needed, name, " are missing, expected ", num_tokens, " of them");
      return;
    }
    TORCH_CHECK(other.sizes() == inputs.new_logprobs.sizes(), name, " have shape ", other.sizes(),
                ", expected ", inputs.new_logprobs.sizes());
  };
  TORCH_CHECK(inputs.new_logprobs.dim() == 1, "log-probs have shape ", inputs.new_logprobs.sizes(),
              ", expected [M]");
  fits(inputs.old_logprobs, "old log-probs", false);
  fits(inputs.sampler_logprobs, "sampler log-probs", config.correction.has_value());
  fits(inputs.reference_logprobs, "reference log-probs", config.beta != 0);
  fits(inputs.entropies, "entropies", config.HasEntropyBonus());
  fits(inputs.entropy_mask, "entropy masks", config.UsesEntropyMask());
  TORCH_CHECK(inputs.lengths.size() == inputs.advantages.size(), inputs.lengths.size(),
              " completion lengths, expected ", inputs.advantages.size());
  TORCH_CHECK(inputs.counted.empty() || inputs.counted.size() == inputs.lengths.size(),
              inputs.counted.size(), " marks of completions that count, expected ",
              inputs.lengths.size());
  const int64_t total = std::accumulate(inputs.lengths.begin(), inputs.lengths.end(), int64_t{0});
  TORCH_CHECK(total == num_tokens, "completion lengths sum to ", total, ", expected ", num_tokens);
  TORCH_CHECK(config.type != LearnerConfig::DR_GRPO || config.max_completion_length > 0,
              "dr_grpo's max_completion_length is ", config.max_completion_length,
              ", expected at least 1");
  TORCH_CHECK(config.type != LearnerConfig::VESPO || !config.correction.has_value() ||
                  !IsSequenceMode(*config.correction),
              "vespo takes a sampler correction by token, expected token_truncate or token_mask");
}

// The counted tokens alone; completions that do not count keep their place with length 0. Tokens
// are picked, not multiplied by zero: whatever stands in the others, infinities included, reaches
// neither the sums nor the gradient.
LossInputs WithoutUncounted(const LossInputs& inputs) {
  LossInputs kept = inputs;
  kept.counted.clear();
  if (std::find(inputs.counted.begin(), inputs.counted.end(), false) == inputs.counted.end()) {
    return kept;
  }
  std::vector<int64_t> tokens;
  int64_t next = 0;
  for (size_t c = 0; c < inputs.lengths.size(); ++c) {
    for (int64_t i = 0; i < inputs.lengths[c]; ++i, ++next) {
      if (inputs.counted[c]) tokens.push_back(next);
    }
    if (!inputs.counted[c]) kept.lengths[c] = 0;
  }
  const at::Tensor index = at::tensor(tokens, at::kLong).to(inputs.new_logprobs.device());
  for (at::Tensor* tensor : {&kept.new_logprobs, &kept.old_logprobs, &kept.sampler_logprobs,
                             &kept.reference_logprobs, &kept.entropies, &kept.entropy_mask}) {
    if (tensor->defined()) *tensor = tensor->index_select(0, index);
  }
  return kept;
}

// The loss of one call, step by step. Holds what several steps need.
class Loss {
 public:
  Loss(const LossInputs& inputs, const LossConfig& config)
      : config_(config),
        lengths_(inputs.lengths),
        advantages_(inputs.advantages),
        new_M_(inputs.new_logprobs),
        now_M_(inputs.new_logprobs.detach()),
        old_M_(inputs.old_logprobs.defined() ? inputs.old_logprobs : now_M_),
        sampler_M_(inputs.sampler_logprobs.defined() ? inputs.sampler_logprobs : old_M_),
        reference_M_(inputs.reference_logprobs),
        entropy_M_(inputs.entropies),
        entropy_mask_M_(inputs.entropy_mask),
        constant_(new_M_.options().requires_grad(false)) {
    std::vector<int64_t> owners;
    for (size_t c = 0; c < lengths_.size(); ++c) {
      owners.insert(owners.end(), lengths_[c], static_cast<int64_t>(c));
    }
    owner_M_ = at::tensor(owners, at::kLong).to(new_M_.device());
    length_C_ = PerCompletion(
        [&](size_t c) { return static_cast<double>(std::max<int64_t>(1, lengths_[c])); });
    advantage_M_ = Spread(PerCompletion([&](size_t c) { return advantages_[c]; }));
  }

  LossResult Compute(const LossNormalizer& normalizer) {
    const at::Tensor log_ratio_M = new_M_ - old_M_;
    ratio_M_ =
        (config_.sequence_level ? Spread(SumOf(log_ratio_M) / length_C_) : log_ratio_M).exp();
    at::Tensor kl_M;
    if (config_.beta != 0) kl_M = Kl();
    if (config_.correction.has_value()) WeighSampler();

    at::Tensor loss_M = PolicyLoss(log_ratio_M);
    const at::Tensor zero = at::zeros({}, constant_);
    if (config_.off_policy_threshold.has_value()) {
      loss_M = at::where(OnPolicyMask(), loss_M, zero);
    }
    if (config_.UsesEntropyMask()) loss_M = at::where(entropy_mask_M_, loss_M, zero);
    if (config_.correction.has_value() && config_.type != LearnerConfig::VESPO) {
      // A weight of 0 drops the token even where the loss is infinite.
      loss_M = at::where(weight_M_ == 0, zero, loss_M * weight_M_);
    }
    if (kl_M.defined()) loss_M = loss_M + config_.beta * kl_M;

    LossResult result;
    result.loss = (loss_M * TokenWeights(normalizer)).sum();
    Measure(kl_M, &result.metrics);
    result.metrics.policy_loss = result.loss.detach().item<double>();
    if (config_.HasEntropyBonus()) {
      const at::Tensor entropy_M =
          config_.UsesEntropyMask() ? at::where(entropy_mask_M_, entropy_M_, zero) : entropy_M_;
      const double tokens = static_cast<double>(std::max<int64_t>(1, normalizer.entropy_tokens));
      result.loss = result.loss -
                    config_.entropy_coefficient / (tokens * config_.accumulation) * entropy_M.sum();
    }
    result.metrics.loss = result.loss.detach().item<double>();
    return result;
  }

 private:
  template <typename ValueOf>
  at::Tensor PerCompletion(const ValueOf& value_of) const {
    std::vector<double> values;
    for (size_t c = 0; c < lengths_.size(); ++c) values.push_back(value_of(c));
    return at::tensor(values, at::kDouble).to(constant_);
  }
  at::Tensor Spread(const at::Tensor& value_C) const { return value_C.index_select(0, owner_M_); }
  at::Tensor SumOf(const at::Tensor& value_M) const {
    return at::zeros({static_cast<int64_t>(lengths_.size())}, constant_)
        .index_add(0, owner_M_, value_M);
  }
  std::vector<double> Numbers(const at::Tensor& values) const {
    const at::Tensor doubles = values.detach().to(at::kCPU, at::kDouble).contiguous();
    return {doubles.data_ptr<double>(), doubles.data_ptr<double>() + doubles.numel()};
  }

  at::Tensor Kl() const {
    const at::Tensor difference_M = reference_M_ - new_M_;
    at::Tensor kl_M;
    switch (config_.kl_estimator) {
      case LearnerConfig::K3:
        kl_M = difference_M.exp() - difference_M - 1;
        break;
      case LearnerConfig::K1:
        kl_M = -difference_M;
        break;
      case LearnerConfig::K2:
        kl_M = difference_M * difference_M / 2;
        break;
    }
    return config_.bias_correction_kl ? kl_M * ratio_M_ : kl_M;
  }

  // exp(old - sampler), of the token or of the whole completion (a product, not a mean).
  void WeighSampler() {
    const bool sequence = IsSequenceMode(*config_.correction);
    const at::Tensor difference_M = old_M_ - sampler_M_;
    at::Tensor weight = (sequence ? SumOf(difference_M) : difference_M).exp();
    const double low = config_.correction_min.value_or(-kInfinity);
    if (IsTruncateMode(*config_.correction)) {
      weight = weight.clamp(low, config_.correction_max);
    } else {
      weight = weight.masked_fill((weight < low).logical_or(weight > config_.correction_max), 0.0);
    }
    weights_ = Numbers(weight);
    weight_M_ = sequence ? Spread(weight) : weight;
  }

  at::Tensor PolicyLoss(const at::Tensor& log_ratio_M) {
    switch (config_.type) {
      case LearnerConfig::CISPO:
        return -ratio_M_.detach().clamp_max(config_.epsilon_high) * advantage_M_ * new_M_;
      case LearnerConfig::SAPO: {
        const at::Tensor tau_M = Spread(PerCompletion([&](size_t c) {
          return advantages_[c] > 0 ? config_.sapo_temperature_positive
                                    : config_.sapo_temperature_negative;
        }));
        return -at::sigmoid(tau_M * (ratio_M_ - 1)) * 4 / tau_M * advantage_M_;
      }
      case LearnerConfig::VESPO:
        phi_C_ = Phi(log_ratio_M.detach());
        return -Spread(phi_C_) * advantage_M_ * new_M_;
      default:
        break;
    }
    const at::Tensor clipped_M = ratio_M_.clamp(1 - config_.epsilon, 1 + config_.epsilon_high);
    if (config_.delta.has_value()) ratio_M_ = ratio_M_.clamp_max(*config_.delta);
    return -at::minimum(ratio_M_ * advantage_M_, clipped_M * advantage_M_);
  }

  // phi(w) = e^lambda w^k e^(-lambda w) of the whole completion's ratio w to the sampler.
  at::Tensor Phi(const at::Tensor& log_ratio_M) const {
    at::Tensor log_w_C = SumOf(log_ratio_M.clamp(-kVespoUpper, kVespoUpper));
    if (config_.correction.has_value()) {
      log_w_C = log_w_C + SumOf(weight_M_.log().clamp(kVespoLower, kVespoUpper));
    }
    log_w_C = log_w_C.clamp(kVespoLower, kVespoUpper);
    const at::Tensor k_C = PerCompletion([&](size_t c) {
      return advantages_[c] >= 0 ? config_.vespo_k_positive : config_.vespo_k_negative;
    });
    const at::Tensor lambda_C = PerCompletion([&](size_t c) {
      return std::max(1e-4, advantages_[c] >= 0 ? config_.vespo_lambda_positive
                                                : config_.vespo_lambda_negative);
    });
    return (lambda_C + k_C * log_w_C - lambda_C * log_w_C.exp()).exp().nan_to_num(0.0, 0.0, 0.0);
  }

  // True where the completion's tokens stay: its advantage is not negative, or the policy has not
  // gone far from what sampled it.
  at::Tensor OnPolicyMask() const {
    const at::Tensor distance_C = SumOf(sampler_M_ - now_M_) / length_C_;
    const at::Tensor positive_C =
        PerCompletion([&](size_t c) { return advantages_[c] >= 0 ? 1.0 : 0.0; }) > 0;
    return Spread(positive_C.logical_or(distance_C <= *config_.off_policy_threshold));
  }

  at::Tensor TokenWeights(const LossNormalizer& normalizer) const {
    const auto count = [](int64_t n) { return static_cast<double>(std::max<int64_t>(1, n)); };
    const double slice = count(normalizer.slice_completions) * config_.accumulation;
    return Spread(PerCompletion([&](size_t c) {
      switch (config_.type) {
        case LearnerConfig::DAPO:
        case LearnerConfig::CISPO:
        case LearnerConfig::VESPO:
          return 1 / count(normalizer.generation_tokens);
        case LearnerConfig::BNPO:
          return 1 / (count(normalizer.slice_tokens) * config_.accumulation);
        case LearnerConfig::GRPO:
        case LearnerConfig::SAPO:
          return 1 / (count(lengths_[c]) * slice);
        case LearnerConfig::DR_GRPO:
          return 1 / (static_cast<double>(config_.max_completion_length) * slice);
        case LearnerConfig::LUSPO:
          return 1 / slice;
      }
      return kNan;
    }));
  }

  void Measure(const at::Tensor& kl_M, LossMetrics* metrics) const {
    const auto sum = [](const at::Tensor& t) { return t.sum(at::kDouble).item<double>(); };
    metrics->num_tokens = new_M_.numel();
    metrics->num_completions = static_cast<int64_t>(lengths_.size());
    if (kl_M.defined()) metrics->kl_sum = sum(kl_M.detach());
    if (entropy_M_.defined()) metrics->entropy_sum = sum(entropy_M_.detach());
    if (phi_C_.defined()) metrics->phi_sum = sum(phi_C_);
    MeasureRatios(metrics);
    if (!config_.correction.has_value()) return;
    const at::Tensor difference_M = (old_M_ - sampler_M_).abs();
    if (difference_M.numel() > 0) {
      metrics->sampler_difference_sum = sum(difference_M);
      metrics->sampler_difference_max = difference_M.max().item<double>();
    }
    for (const double weight : weights_) {
      const bool first = metrics->num_weights++ == 0;
      metrics->weight_sum += weight;
      metrics->weight_min = first ? weight : std::min(metrics->weight_min, weight);
      metrics->weight_max = first ? weight : std::max(metrics->weight_max, weight);
    }
  }

  // Fractions of a completion divide by its tokens without a floor: without tokens there is none.
  void MeasureRatios(LossMetrics* metrics) const {
    const std::vector<double> ratios = Numbers(ratio_M_);
    const bool cispo = config_.type == LearnerConfig::CISPO;
    const double upper = cispo ? config_.epsilon_high : 1 + config_.epsilon_high;
    size_t token = 0;
    for (size_t c = 0; c < lengths_.size(); ++c) {
      int64_t low = 0, high = 0;
      const auto count = [&](double ratio) {
        low += ratio < 1 - config_.epsilon && advantages_[c] < 0 && !cispo;
        high += ratio > upper && advantages_[c] > 0;
      };
      // One ratio a completion counts once, and is there without tokens as well.
      if (config_.sequence_level) {
        count(lengths_[c] > 0 ? ratios[token] : std::min(1.0, config_.delta.value_or(1.0)));
      }
      for (int64_t i = 0; i < lengths_[c]; ++i, ++token) {
        const double ratio = ratios[token];
        if (!config_.sequence_level) count(ratio);
        metrics->ratio_sum += ratio;
        metrics->ratio_min = token == 0 ? ratio : std::min(metrics->ratio_min, ratio);
        metrics->ratio_max = token == 0 ? ratio : std::max(metrics->ratio_max, ratio);
      }
      const auto length = static_cast<double>(config_.sequence_level ? 1 : lengths_[c]);
      metrics->clipped_low += low;
      metrics->clipped_high += high;
      if (length == 0) continue;
      const double low_fraction = static_cast<double>(low) / length;
      const double high_fraction = static_cast<double>(high) / length;
      const bool first = metrics->num_fractions++ == 0;
      metrics->clipped_low_min =
          first ? low_fraction : std::min(metrics->clipped_low_min, low_fraction);
      metrics->clipped_high_max =
          first ? high_fraction : std::max(metrics->clipped_high_max, high_fraction);
    }
  }

  const LossConfig& config_;
  const std::vector<int64_t>& lengths_;
  const std::vector<double>& advantages_;
  const at::Tensor new_M_, now_M_, old_M_, sampler_M_, reference_M_, entropy_M_, entropy_mask_M_;
  const at::TensorOptions constant_;
  at::Tensor owner_M_;  // The completion of each token.
  at::Tensor length_C_, advantage_M_, ratio_M_, weight_M_, phi_C_;
  std::vector<double> weights_;  // Of tokens or completions, as the mode has it.
};

}  // namespace

LossConfig LossConfigOf(const proto::LearnerConfig& config, int64_t max_completion_length) {
  LossConfig loss;
  loss.type = config.loss_type();
  loss.epsilon = config.epsilon();
  loss.epsilon_high = config.has_epsilon_high() ? config.epsilon_high() : config.epsilon();
  if (config.has_delta()) loss.delta = config.delta();
  loss.sequence_level = config.importance_sampling_level() == LearnerConfig::SEQUENCE;
  loss.beta = config.beta();
  loss.kl_estimator = config.kl_estimator();
  loss.bias_correction_kl = config.use_bias_correction_kl();
  if (config.vllm_importance_sampling_correction() || config.has_vllm_importance_sampling_mode()) {
    loss.correction = config.vllm_importance_sampling_mode();
  }
  loss.correction_max = config.vllm_importance_sampling_clip_max();
  if (config.has_vllm_importance_sampling_clip_min()) {
    loss.correction_min = config.vllm_importance_sampling_clip_min();
  }
  if (config.has_off_policy_mask_threshold()) {
    loss.off_policy_threshold = config.off_policy_mask_threshold();
  }
  loss.top_entropy_quantile = config.top_entropy_quantile();
  loss.entropy_coefficient = config.entropy_coef();
  loss.sapo_temperature_positive = config.sapo_temperature_pos();
  loss.sapo_temperature_negative = config.sapo_temperature_neg();
  loss.vespo_k_positive = config.vespo_k_pos();
  loss.vespo_lambda_positive = config.vespo_lambda_pos();
  loss.vespo_k_negative = config.vespo_k_neg();
  loss.vespo_lambda_negative = config.vespo_lambda_neg();
  loss.max_completion_length = max_completion_length;
  loss.accumulation = config.gradient_accumulation_steps();
  return loss;
}

void LossMetrics::Merge(const LossMetrics& other) {
  const auto merge_range = [](int64_t mine, int64_t others, double other_min, double other_max,
                              double* min, double* max) {
    if (others == 0) return;
    *min = mine == 0 ? other_min : std::min(*min, other_min);
    *max = mine == 0 ? other_max : std::max(*max, other_max);
  };
  merge_range(num_tokens, other.num_tokens, other.ratio_min, other.ratio_max, &ratio_min,
              &ratio_max);
  merge_range(num_fractions, other.num_fractions, other.clipped_low_min, other.clipped_high_max,
              &clipped_low_min, &clipped_high_max);
  merge_range(num_weights, other.num_weights, other.weight_min, other.weight_max, &weight_min,
              &weight_max);
  num_tokens += other.num_tokens;
  num_completions += other.num_completions;
  loss += other.loss;
  policy_loss += other.policy_loss;
  entropy_sum += other.entropy_sum;
  kl_sum += other.kl_sum;
  ratio_sum += other.ratio_sum;
  clipped_low += other.clipped_low;
  clipped_high += other.clipped_high;
  num_fractions += other.num_fractions;
  phi_sum += other.phi_sum;
  sampler_difference_sum += other.sampler_difference_sum;
  sampler_difference_max = std::max(sampler_difference_max, other.sampler_difference_max);
  num_weights += other.num_weights;
  weight_sum += other.weight_sum;
}

LossResult GrpoLoss(const LossInputs& inputs, const LossConfig& config,
                    const LossNormalizer& normalizer) {
  CheckInputs(inputs, config);
  const LossInputs counted = WithoutUncounted(inputs);
  return Loss(counted, config).Compute(normalizer);
}

std::vector<std::pair<std::string, double>> NamedMetrics(const LossMetrics& m,
                                                         const LossConfig& config) {
  std::vector<std::pair<std::string, double>> named;
  const auto over = [](double sum, int64_t count) {
    return sum / static_cast<double>(std::max<int64_t>(1, count));
  };
  if (config.HasEntropyBonus()) {
    named.emplace_back("policy_loss", m.policy_loss);
    named.emplace_back("entropy_coef", config.entropy_coefficient);
  }
  if (config.beta != 0) named.emplace_back("kl", over(m.kl_sum, m.num_tokens));
  named.emplace_back("entropy", over(m.entropy_sum, m.num_tokens));
  const int64_t ratios = config.sequence_level ? m.num_completions : m.num_tokens;
  const auto low = static_cast<double>(m.clipped_low), high = static_cast<double>(m.clipped_high);
  if (IsClipping(config.type)) {
    named.emplace_back("clip_ratio/low_mean", over(low, ratios));
    named.emplace_back("clip_ratio/low_min", m.num_fractions > 0 ? m.clipped_low_min : kNan);
    named.emplace_back("clip_ratio/high_mean", over(high, ratios));
    named.emplace_back("clip_ratio/high_max", m.num_fractions > 0 ? m.clipped_high_max : kNan);
    named.emplace_back("clip_ratio/region_mean", over(low + high, ratios));
  } else if (config.type == LearnerConfig::CISPO) {
    named.emplace_back("cispo_clip_ratio", over(high, ratios));
  } else if (config.type == LearnerConfig::VESPO) {
    named.emplace_back("vespo/phi_seq_mean", over(m.phi_sum, m.num_completions));
  }
  if (config.correction.has_value()) {
    named.emplace_back("sampling/sampling_logp_difference/mean",
                       over(m.sampler_difference_sum, m.num_tokens));
    named.emplace_back("sampling/sampling_logp_difference/max", m.sampler_difference_max);
    named.emplace_back("sampling/importance_sampling_ratio/min", m.weight_min);
    named.emplace_back("sampling/importance_sampling_ratio/mean",
                       over(m.weight_sum, m.num_weights));
    named.emplace_back("sampling/importance_sampling_ratio/max", m.weight_max);
  }
  return named;
}

double EntropyThreshold(const at::Tensor& entropies_M, double top_quantile) {
  if (entropies_M.numel() == 0) return kInfinity;
  return at::quantile(entropies_M.detach().to(at::kFloat), 1 - top_quantile).item<double>();
}

at::Tensor HighEntropyMask(const at::Tensor& entropies_M, double threshold) {
  return entropies_M.detach().to(at::kDouble) >= threshold;
}

}  // namespace wideberth::learner
