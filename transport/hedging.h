// SPDX-License-Identifier: Apache-2.0
// When a call that has no answer yet is worth making to another replica as well, by how long the
// recent ones took. Used by ScorerClient; knows neither clock nor network.
#pragma once

#include <cstddef>
#include <vector>

#include "absl/time/time.h"

namespace wideberth::transport {

// Not thread-safe.
class Hedging final {
 public:
  struct Options {
    double quantile = 0.95;  // Of the recent latencies; 1: never.
    size_t window = 256;     // Latencies remembered.
    size_t min_samples = 16;
    absl::Duration floor = absl::Milliseconds(5);
    // Hedges per call at most, so that overload is not doubled; a few may come at once.
    double share = 0.1;
  };
  explicit Hedging(const Options& options) : options_(options) {}

  // A call begins: its share of a hedge is earned.
  void NoteCall();
  // A call was answered well.
  void NoteLatency(absl::Duration latency);

  // A call in flight for longer may be hedged; infinite where hedging is off or too few latencies
  // are known.
  absl::Duration Delay() const { return delay_; }
  // No replica had room: what is earned is lost, since a pool that is full has no use for more.
  void NoteFull() { earned_ = 0; }

  // The `quantile` of the recent latencies as it is, from the first one on; infinite before.
  absl::Duration Typical() const { return typical_; }
  // Takes one hedge; false, and none may be made, where they are used up.
  bool Spend();

 private:
  const Options options_;
  double earned_ = 1;
  std::vector<absl::Duration> latencies_;
  size_t oldest_ = 0;
  absl::Duration delay_ = absl::InfiniteDuration();
  absl::Duration typical_ = absl::InfiniteDuration();
};

}  // namespace wideberth::transport
