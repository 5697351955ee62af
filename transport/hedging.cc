// SPDX-License-Identifier: Apache-2.0
#include "transport/hedging.h"

#include <algorithm>
#include <cmath>

namespace wideberth::transport {
namespace {

constexpr double kMostAtOnce = 8;

}  // namespace

void Hedging::NoteCall() { earned_ = std::min(earned_ + options_.share, kMostAtOnce); }

void Hedging::NoteLatency(absl::Duration latency) {
  if (latencies_.size() < options_.window) {
    latencies_.push_back(latency);
  } else {
    latencies_[oldest_] = latency;
    oldest_ = (oldest_ + 1) % options_.window;
  }
  std::vector<absl::Duration> sorted = latencies_;
  const double rank = std::ceil(options_.quantile * static_cast<double>(sorted.size()));
  const auto at =
      sorted.begin() + std::max<std::ptrdiff_t>(static_cast<std::ptrdiff_t>(rank), 1) - 1;
  std::nth_element(sorted.begin(), at, sorted.end());
  typical_ = *at;
  if (options_.quantile < 1 && latencies_.size() >= options_.min_samples)
    delay_ = std::max(typical_, options_.floor);
}

bool Hedging::Spend() {
  if (earned_ < 1) return false;
  earned_ -= 1;
  return true;
}

}  // namespace wideberth::transport
