// SPDX-License-Identifier: Apache-2.0
// How sure a figure is: bootstrap intervals, paired tests, correction for many comparisons. Pure
// functions without a global random state; used by report/summary.* and report/comparison.*.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace wideberth::report {

// Values of independent units (prompts), grouped in runs. Units are resampled inside their run, so
// an interval speaks of other prompts in these very runs, not of other runs.
using Strata = std::vector<std::vector<double>>;

constexpr int kNumResamples = 2000;  // Of a bootstrap.
constexpr int kNumFlips = 9999;      // Of a permutation test.

struct Interval {
  double low = 0, high = 0;
};

// Mean of the values that are there, weighted.
class Mean {
 public:
  void Add(const absl::optional<double>& value, int64_t weight = 1) {
    if (!value.has_value()) return;
    sum_ += *value * static_cast<double>(weight);
    weight_ += weight;
  }
  absl::optional<double> value() const {  // Empty without any.
    if (weight_ == 0) return absl::nullopt;
    return sum_ / static_cast<double>(weight_);
  }

 private:
  double sum_ = 0;
  int64_t weight_ = 0;
};

// Linear between the sorted values, as numpy.percentile. `sorted` is not empty; share in [0, 1].
double Percentile(absl::Span<const double> sorted, double share);

// 95 % percentile interval of the mean over all units, as scipy.stats.bootstrap(method =
// "percentile"), from random numbers of `seed` alone. A single unit: an interval of no width. Empty
// without a unit.
absl::optional<Interval> BootstrapMean(const Strata& values, uint64_t seed,
                                       int num_resamples = kNumResamples);

// The same of sum(first) / sum(second) over all units: a rate over answers where prompts are the
// units, or one effect as a share of another. Resamples whose denominator is zero are left out;
// empty where the units' own is zero.
absl::optional<Interval> BootstrapRatio(
    const std::vector<std::vector<std::pair<double, double>>>& units, uint64_t seed,
    int num_resamples = kNumResamples);

// Wilson's 95 % score interval of a rate; for rates of 0 and 1, where a bootstrap has no width.
// `successes` and `trials` may be fractions; trials > 0.
Interval WilsonInterval(double successes, double trials);

// A mean difference of pairs and whether it could be chance.
struct PairedTest {
  double mean = 0;
  Interval interval;
  // Two-sided sign-flip permutation test, (hits + 1) / (flips + 1), as
  // scipy.stats.permutation_test(permutation_type = "samples").
  double p = 1;
  absl::optional<double> effect_size;  // Cohen's d_z: mean / deviation; empty: no deviation.
  int64_t num_units = 0;
};
// Of the differences of paired units. Empty without one.
absl::optional<PairedTest> TestPaired(const Strata& differences, uint64_t seed,
                                      int num_flips = kNumFlips);

// Holm's step-down correction: p-values, adjusted, in the order given.
std::vector<double> HolmAdjusted(absl::Span<const double> p_values);

}  // namespace wideberth::report
