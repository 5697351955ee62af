// SPDX-License-Identifier: Apache-2.0
// How long the device takes for a batch, learnt from those it has done. Used by the batcher to keep
// its latency cap.
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace wideberth::scorer {

// A straight line through recent batches: a constant and a time per token, neither below zero; old
// batches fade. Not thread-safe.
class BatchTime final {
 public:
  void Add(int64_t num_tokens, absl::Duration took);
  bool known() const { return weight_ > 0; }

  // Zero while nothing is known.
  absl::Duration Of(double num_tokens) const;
  // The most tokens of a batch that takes no longer than `limit`; but as many as take the constant
  // once more, since smaller batches only waste it, and at least 1.
  int64_t TokensWithin(absl::Duration limit) const;

 private:
  void Fit();

  // Sums over the batches, x tokens and y seconds each.
  double weight_ = 0, x_ = 0, y_ = 0, xx_ = 0, xy_ = 0;
  double constant_ = 0, per_token_ = 0;  // Seconds.
};

}  // namespace wideberth::scorer
