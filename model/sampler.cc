// SPDX-License-Identifier: Apache-2.0
#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "absl/strings/str_cat.h"
#include "model/exp.h"

namespace wideberth::model {
namespace {

// Independent partial sums, so that the compiler can keep them in vector registers.
constexpr int kLanes = 16;

float Largest(const float* values, size_t n) {
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] = values[i + j] > lanes[j] ? values[i + j] : lanes[j];
  }
  float largest = *std::max_element(lanes, lanes + kLanes);
  for (; i < n; ++i) largest = std::max(largest, values[i]);
  return largest;
}

// exp(x) for x <= 0.
inline float ExpOfNegative(float x) {
  return x < -87.0f ? 0.0f : ExpInRange(x < -87.0f ? -87.0f : x);
}

__attribute__((target_clones("avx512f", "avx2", "default"))) double ExpAll(
    const float* values, float largest, float inverse_temperature, float* out, size_t n) {
  double sum = 0;
  for (size_t first = 0; first < n; first += 1024) {
    const size_t last = std::min(n, first + 1024);
    float lanes[kLanes] = {};
    size_t i = first;
    for (; i + kLanes <= last; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) {
        out[i + j] = ExpOfNegative((values[i + j] - largest) * inverse_temperature);
        lanes[j] += out[i + j];
      }
    }
    for (; i < last; ++i) {
      out[i] = ExpOfNegative((values[i] - largest) * inverse_temperature);
      lanes[0] += out[i];
    }
    for (float lane : lanes) sum += lane;
  }
  return sum;
}

int32_t FirstPast(const std::vector<float>& weights, double threshold) {
  double sum = 0;
  int32_t last = 0;
  size_t block = 0;
  for (; block + 256 <= weights.size(); block += 256) {
    double part = 0;
    for (size_t i = block; i < block + 256; ++i) part += weights[i];
    if (sum + part > threshold) break;
    sum += part;
  }
  for (size_t i = block; i < weights.size(); ++i) {
    if (weights[i] <= 0) continue;
    last = static_cast<int32_t>(i);
    sum += weights[i];
    if (sum > threshold) return last;
  }
  // Rounding left the sum a hair below the threshold: the last token that can be drawn.
  for (size_t i = weights.size(); last == 0 && i-- > 0;) {
    if (weights[i] > 0) last = static_cast<int32_t>(i);
  }
  return last;
}

}  // namespace

absl::Status Sampler::Validate(const proto::GenerationConfig& config) {
  auto bad = [](absl::string_view field, auto value, absl::string_view expected) {
    return absl::InvalidArgumentError(
        absl::StrCat("generation.", field, " is ", value, ", must be ", expected));
  };
  if (config.max_new_tokens() < 1)
    return bad("max_new_tokens", config.max_new_tokens(), "at least 1");
  if (!(config.temperature() >= 0)) return bad("temperature", config.temperature(), "at least 0");
  if (config.top_k() < 0) return bad("top_k", config.top_k(), "at least 0 (0 is off)");
  if (!(config.top_p() > 0 && config.top_p() <= 1))
    return bad("top_p", config.top_p(), "in (0, 1]");
  if (!(config.min_p() >= 0 && config.min_p() <= 1))
    return bad("min_p", config.min_p(), "in [0, 1]");
  if (!(config.repetition_penalty() > 0))
    return bad("repetition_penalty", config.repetition_penalty(), "above 0");
  return absl::OkStatus();
}

void Sampler::Penalize(absl::Span<const int32_t> seen) {
  const float penalty = static_cast<float>(config_.repetition_penalty());
  std::vector<int32_t> once(seen.begin(), seen.end());
  std::sort(once.begin(), once.end());
  once.erase(std::unique(once.begin(), once.end()), once.end());
  for (int32_t token : once)
    scores_[token] = scores_[token] < 0 ? scores_[token] * penalty : scores_[token] / penalty;
}

void Sampler::KeepTopK() {
  const size_t k = static_cast<size_t>(config_.top_k());
  if (k == 0 || k >= weights_.size()) return;
  sorted_ = scores_;
  std::nth_element(sorted_.begin(), sorted_.begin() + (k - 1), sorted_.end(),
                   std::greater<float>());
  const float threshold = sorted_[k - 1];
  for (size_t i = 0; i < scores_.size(); ++i) {
    if (scores_[i] < threshold) weights_[i] = 0;
  }
}

// Drops the least likely tokens whose summed probability stays within 1 - top_p; the most likely
// one always remains.
void Sampler::KeepTopP() {
  if (config_.top_p() >= 1) return;
  std::vector<int32_t> order;
  double total = 0;
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] <= 0) continue;
    order.push_back(static_cast<int32_t>(i));
    total += weights_[i];
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return weights_[a] < weights_[b]; });
  double sum = 0;
  for (size_t i = 0; i + 1 < order.size(); ++i) {
    sum += weights_[order[i]];
    if (sum > (1 - config_.top_p()) * total) break;
    weights_[order[i]] = 0;
  }
}

double Sampler::Weigh(absl::Span<const float> logits, absl::Span<const int32_t> seen) {
  scores_.assign(logits.begin(), logits.end());
  weights_.resize(scores_.size());
  if (config_.repetition_penalty() != 1.0) Penalize(seen);
  const float largest = Largest(scores_.data(), scores_.size());
  const double sum =
      ExpAll(scores_.data(), largest, static_cast<float>(1.0 / config_.temperature()),
             weights_.data(), weights_.size());
  log_total_ = largest * (1.0 / config_.temperature()) + std::log(sum);
  const bool truncated = config_.top_k() > 0 || config_.top_p() < 1 || config_.min_p() > 0;
  if (!truncated) return sum;
  KeepTopK();
  KeepTopP();
  const float floor = static_cast<float>(config_.min_p());  // The largest weight is 1.
  double kept = 0;
  for (float& weight : weights_) {
    if (weight < floor) weight = 0;
    kept += weight;
  }
  return kept;
}

Sampler::Choice Sampler::Sample(absl::Span<const float> logits, absl::Span<const int32_t> seen,
                                double uniform) {
  Choice choice;
  const bool greedy = config_.temperature() == 0;
  if (greedy) {
    scores_.assign(logits.begin(), logits.end());
    if (config_.repetition_penalty() != 1.0) Penalize(seen);
    choice.token =
        static_cast<int32_t>(std::max_element(scores_.begin(), scores_.end()) - scores_.begin());
  } else {
    const double sum = Weigh(logits, seen);
    choice.token = FirstPast(weights_, uniform * sum);
  }
  const double inverse_temperature = greedy ? 1.0 : 1.0 / config_.temperature();
  if (greedy ||
      config_.repetition_penalty() != 1.0) {  // Otherwise Weigh has met these very numbers.
    const float largest = Largest(logits.data(), logits.size());
    weights_.resize(logits.size());
    const double total = ExpAll(logits.data(), largest, static_cast<float>(inverse_temperature),
                                weights_.data(), logits.size());
    log_total_ = largest * inverse_temperature + std::log(total);
  }
  choice.logprob = logits[choice.token] * inverse_temperature - log_total_;
  return choice;
}

std::vector<double> Sampler::Distribution(absl::Span<const float> logits,
                                          absl::Span<const int32_t> seen) {
  const double sum = Weigh(logits, seen);
  std::vector<double> distribution(weights_.begin(), weights_.end());
  for (double& p : distribution) p /= sum;
  return distribution;
}

}  // namespace wideberth::model
