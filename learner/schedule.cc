// SPDX-License-Identifier: Apache-2.0
#include "learner/schedule.h"

#include <algorithm>
#include <cmath>

namespace wideberth::learner {

int64_t WarmupSteps(const proto::LearnerConfig& config, int64_t num_steps) {
  if (config.warmup_steps() > 0) return config.warmup_steps();
  return static_cast<int64_t>(
      std::ceil(config.warmup_ratio() * static_cast<double>(std::max<int64_t>(0, num_steps))));
}

double LearningRate(const proto::LearnerConfig& config, int64_t step, int64_t num_steps) {
  const double peak = config.learning_rate();
  const int64_t warmup = WarmupSteps(config, num_steps);
  if (step < warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
  const auto left = static_cast<double>(std::max<int64_t>(0, num_steps - step));
  const auto falling = static_cast<double>(std::max<int64_t>(1, num_steps - warmup));
  double share = 1;
  switch (config.lr_scheduler_type()) {
    case proto::LearnerConfig::CONSTANT:
      return peak;
    case proto::LearnerConfig::LINEAR:
      share = left / falling;
      break;
    case proto::LearnerConfig::COSINE:
      share = std::max(0.0, 0.5 * (1.0 + std::cos(M_PI * (1.0 - left / falling))));
      break;
  }
  const double least = config.min_lr_rate();
  return peak * (least > 0 ? least + (1 - least) * share : share);
}

}  // namespace wideberth::learner
