// SPDX-License-Identifier: Apache-2.0
// The clipped losses on packed log-probs. Per-token weights carry the normalisation, so one
// expression serves `grpo` and `dapo`.
#include "learner/loss.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

namespace wideberth::learner {
namespace {

bool IsCounted(const LossInputs& inputs, size_t completion) {
  return inputs.counted.empty() || inputs.counted[completion];
}

void CheckShapes(const LossInputs& inputs, const LossConfig& config) {
  const int64_t num_tokens = inputs.new_logprobs.numel();
  const auto fits = [&](const at::Tensor& other) {
    return other.defined() && other.sizes() == inputs.new_logprobs.sizes();
  };
  TORCH_CHECK(inputs.new_logprobs.dim() == 1, "log-probs have shape ", inputs.new_logprobs.sizes(),
              ", expected [M]");
  TORCH_CHECK(fits(inputs.old_logprobs), "old log-probs, expected ", num_tokens, " of them");
  TORCH_CHECK(config.beta == 0 || fits(inputs.reference_logprobs), "reference log-probs, expected ",
              num_tokens, " of them as beta is ", config.beta);
  TORCH_CHECK(inputs.lengths.size() == inputs.advantages.size(), inputs.lengths.size(),
              " completion lengths, expected ", inputs.advantages.size());
  TORCH_CHECK(inputs.counted.empty() || inputs.counted.size() == inputs.lengths.size(),
              inputs.counted.size(), " marks of completions that count, expected ",
              inputs.lengths.size());
  const int64_t total = std::accumulate(inputs.lengths.begin(), inputs.lengths.end(), int64_t{0});
  TORCH_CHECK(total == num_tokens, "completion lengths sum to ", total, ", expected ", num_tokens);
}

// One value per token of each completion, on the device and in the dtype of the log-probs.
template <typename ValueOf>
at::Tensor PerToken(const LossInputs& inputs, const ValueOf& value_of) {
  at::Tensor values = at::empty({inputs.new_logprobs.numel()}, at::kDouble);
  double* next = values.data_ptr<double>();
  for (size_t c = 0; c < inputs.lengths.size(); ++c) {
    next = std::fill_n(next, inputs.lengths[c], value_of(c));
  }
  return values.to(inputs.new_logprobs.options().requires_grad(false));
}

at::Tensor TokenWeights(const LossInputs& inputs, const LossConfig& config,
                        const LossNormalizer& normalizer) {
  const auto num_tokens = static_cast<double>(std::max<int64_t>(1, normalizer.num_tokens));
  const auto num_completions =
      static_cast<double>(std::max<int64_t>(1, normalizer.num_completions));
  return PerToken(inputs, [&](size_t c) {
    if (!IsCounted(inputs, c)) return 0.0;
    if (config.type == proto::LearnerConfig::DAPO) return 1.0 / num_tokens;
    return 1.0 / (static_cast<double>(inputs.lengths[c]) * num_completions);
  });
}

void Measure(const LossInputs& inputs, const LossConfig& config, const at::Tensor& ratio,
             const at::Tensor& kl, LossMetrics* metrics) {
  const at::Tensor ratios = ratio.detach().to(at::kCPU, at::kDouble);
  const at::Tensor kls = kl.defined() ? kl.detach().to(at::kCPU, at::kDouble) : at::Tensor();
  const double* r = ratios.data_ptr<double>();
  int64_t token = 0;
  bool any = false;
  for (size_t c = 0; c < inputs.lengths.size(); ++c) {
    const int64_t length = inputs.lengths[c];
    if (!IsCounted(inputs, c) || length == 0) {
      token += length;
      continue;
    }
    const double advantage = inputs.advantages[c];
    int64_t low = 0, high = 0;
    for (const int64_t end = token + length; token < end; ++token) {
      low += r[token] < 1 - config.epsilon && advantage < 0;
      high += r[token] > 1 + config.epsilon_high && advantage > 0;
      if (kls.defined()) metrics->kl_sum += kls.data_ptr<double>()[token];
      metrics->ratio_sum += r[token];
      const bool first = metrics->num_tokens++ == 0;
      metrics->ratio_min = first ? r[token] : std::min(metrics->ratio_min, r[token]);
      metrics->ratio_max = first ? r[token] : std::max(metrics->ratio_max, r[token]);
    }
    metrics->clipped_low += low;
    metrics->clipped_high += high;
    const double low_fraction = static_cast<double>(low) / static_cast<double>(length);
    const double high_fraction = static_cast<double>(high) / static_cast<double>(length);
    metrics->clipped_low_min =
        any ? std::min(metrics->clipped_low_min, low_fraction) : low_fraction;
    metrics->clipped_high_max = std::max(metrics->clipped_high_max, high_fraction);
    any = true;
  }
}

}  // namespace

LossConfig LossConfigOf(const proto::LearnerConfig& config) {
  LossConfig loss;
  loss.type = config.loss_type();
  loss.epsilon = config.epsilon();
  loss.epsilon_high = config.has_epsilon_high() ? config.epsilon_high() : config.epsilon();
  loss.beta = config.beta();
  return loss;
}

void LossMetrics::Merge(const LossMetrics& other) {
  loss += other.loss;
  if (other.num_tokens == 0) return;
  if (num_tokens == 0) {
    const double sum = loss;
    *this = other;
    loss = sum;
    return;
  }
  num_tokens += other.num_tokens;
  kl_sum += other.kl_sum;
  ratio_sum += other.ratio_sum;
  ratio_min = std::min(ratio_min, other.ratio_min);
  ratio_max = std::max(ratio_max, other.ratio_max);
  clipped_low += other.clipped_low;
  clipped_high += other.clipped_high;
  clipped_low_min = std::min(clipped_low_min, other.clipped_low_min);
  clipped_high_max = std::max(clipped_high_max, other.clipped_high_max);
}

LossResult GrpoLoss(const LossInputs& inputs, const LossConfig& config,
                    const LossNormalizer& normalizer) {
  CheckShapes(inputs, config);
  const bool with_kl = inputs.reference_logprobs.defined();
  at::Tensor now = inputs.new_logprobs;
  at::Tensor old = inputs.old_logprobs;
  at::Tensor reference = inputs.reference_logprobs;
  if (std::find(inputs.counted.begin(), inputs.counted.end(), false) != inputs.counted.end()) {
    // Replaced, not multiplied by zero: whatever stands there, infinities included, must not reach
    // the sums or the gradient.
    const at::Tensor counts =
        PerToken(inputs, [&](size_t c) { return IsCounted(inputs, c) ? 1.0 : 0.0; }) > 0;
    const at::Tensor zero = at::zeros({}, now.options().requires_grad(false));
    now = at::where(counts, now, zero);
    old = at::where(counts, old, zero);
    if (with_kl) reference = at::where(counts, reference, zero);
  }

  const at::Tensor ratio = (now - old).exp();
  const at::Tensor advantage = PerToken(inputs, [&](size_t c) { return inputs.advantages[c]; });
  const at::Tensor clipped = ratio.clamp(1 - config.epsilon, 1 + config.epsilon_high);
  at::Tensor per_token = -at::minimum(ratio * advantage, clipped * advantage);
  at::Tensor kl;
  if (with_kl) {
    const at::Tensor difference = reference - now;
    kl = difference.exp() - difference - 1;
    if (config.beta != 0) per_token = per_token + config.beta * kl;
  }

  LossResult result;
  result.loss = (per_token * TokenWeights(inputs, config, normalizer)).sum();
  Measure(inputs, config, ratio, kl, &result.metrics);
  result.metrics.loss = result.loss.detach().item<double>();
  return result;
}

}  // namespace wideberth::learner
