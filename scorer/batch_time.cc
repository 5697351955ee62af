// SPDX-License-Identifier: Apache-2.0
#include "scorer/batch_time.h"

#include <algorithm>
#include <limits>

namespace wideberth::scorer {
namespace {

constexpr double kFading = 0.98;  // About the last 50 batches count.

}  // namespace

void BatchTime::Add(int64_t num_tokens, absl::Duration took) {
  const double x = static_cast<double>(std::max<int64_t>(num_tokens, 1));
  const double y = absl::ToDoubleSeconds(took);
  weight_ = kFading * weight_ + 1;
  x_ = kFading * x_ + x;
  y_ = kFading * y_ + y;
  xx_ = kFading * xx_ + x * x;
  xy_ = kFading * xy_ + x * y;
  Fit();
}

void BatchTime::Fit() {
  const double spread = weight_ * xx_ - x_ * x_;
  // Batches of one size say nothing about a constant: then all is per token, as is all where the
  // line would begin below zero.
  per_token_ = xy_ / xx_;
  constant_ = 0;
  if (spread <= 1e-6 * weight_ * xx_) return;
  const double slope = (weight_ * xy_ - x_ * y_) / spread;
  const double begin = (y_ - slope * x_) / weight_;
  if (slope < 0) {
    per_token_ = 0;
    constant_ = y_ / weight_;
  } else if (begin >= 0) {
    per_token_ = slope;
    constant_ = begin;
  }
}

absl::Duration BatchTime::Of(double num_tokens) const {
  return absl::Seconds(constant_ + per_token_ * num_tokens);
}

int64_t BatchTime::TokensWithin(absl::Duration limit) const {
  const double left = std::max(absl::ToDoubleSeconds(limit) - constant_, constant_);
  const double most = static_cast<double>(std::numeric_limits<int64_t>::max() / 2);
  if (left >= per_token_ * most) return static_cast<int64_t>(most);
  return std::max<int64_t>(1, static_cast<int64_t>(left / per_token_));
}

}  // namespace wideberth::scorer
