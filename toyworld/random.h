// SPDX-License-Identifier: Apache-2.0
// The toy world's random numbers: one stream for each purpose, the same bits on every platform
// (the standard fixes std::mt19937_64, but not what its distributions do with it).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace wideberth::toyworld {

// Not thread-safe.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  // In [0, 1), with 53 bits.
  double Uniform() { return static_cast<double>(engine_() >> 11) * 0x1.0p-53; }

  // In 0 .. n-1; n at least 1.
  size_t Below(size_t n) { return static_cast<size_t>(Uniform() * static_cast<double>(n)); }

  bool Happens(double probability) { return Uniform() < probability; }

  template <typename T>
  const T& Choice(const std::vector<T>& choices) {
    return choices[Below(choices.size())];
  }

  // An index of `weights` (any container of numbers, not all 0) by their shares.
  template <typename Weights>
  size_t Weighted(const Weights& weights) {
    double total = 0;
    for (double weight : weights) total += weight;
    double left = Uniform() * total;
    size_t last = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      if (!(weights[i] > 0)) continue;
      last = i;
      if (left < weights[i]) return i;
      left -= weights[i];
    }
    return last;  // Rounding.
  }

  // `n` different ones of `choices`, in random order; all of them where there are fewer.
  template <typename T>
  std::vector<T> Sample(std::vector<T> choices, size_t n) {
    for (size_t i = 0; i + 1 < choices.size() && i < n; ++i)
      std::swap(choices[i], choices[i + Below(choices.size() - i)]);
    if (choices.size() > n) choices.resize(n);
    return choices;
  }

  // Standard normal (Marsaglia's polar method, one of the pair). The one number whose last bit may
  // follow the platform's logarithm.
  double Normal() {
    while (true) {
      const double x = 2 * Uniform() - 1, y = 2 * Uniform() - 1;
      const double square = x * x + y * y;
      if (square < 1 && square > 0) return x * std::sqrt(-2 * std::log(square) / square);
    }
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace wideberth::toyworld
