// SPDX-License-Identifier: Apache-2.0
#include "report/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace wideberth::report {
namespace {

constexpr double kNormalQuantile975 = 1.959963984540054;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Bits() {  // splitmix64
    uint64_t x = (state_ += 0x9e3779b97f4a7c15ULL);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
  }
  // In [0, n), n below 2^32: the upper half of a product, whose bias is below n / 2^32.
  size_t Below(size_t n) { return ((Bits() >> 32) * static_cast<uint64_t>(n)) >> 32; }

 private:
  uint64_t state_;
};

Interval MiddleOf(std::vector<double>* resampled) {
  std::sort(resampled->begin(), resampled->end());
  return {Percentile(*resampled, 0.025), Percentile(*resampled, 0.975)};
}

int64_t CountOf(const Strata& values) {
  return std::accumulate(values.begin(), values.end(), int64_t{0},
                         [](int64_t n, const std::vector<double>& stratum) {
                           return n + static_cast<int64_t>(stratum.size());
                         });
}

// How often |sum| with random signs reaches the observed |sum|.
int64_t CountFlipsThatReach(const std::vector<double>& differences, uint64_t seed, int num_flips) {
  const double observed = std::abs(std::accumulate(differences.begin(), differences.end(), 0.0));
  double largest = 0;
  for (double d : differences) largest += std::abs(d);
  // Sums of the same numbers in another order differ by rounding.
  const double reach = observed - 1e-12 * largest;
  Random random(seed ^ 0xa0761d6478bd642fULL);
  int64_t hits = 0;
  for (int flip = 0; flip < num_flips; ++flip) {
    double sum = 0;
    for (size_t i = 0; i < differences.size(); i += 64) {
      const uint64_t bits = random.Bits();
      const size_t end = std::min(i + 64, differences.size());
      for (size_t j = i; j < end; ++j)
        sum += differences[j] * (1.0 - 2.0 * static_cast<double>((bits >> (j - i)) & 1));
    }
    hits += std::abs(sum) >= reach;
  }
  return hits;
}

}  // namespace

double Percentile(absl::Span<const double> sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

absl::optional<Interval> BootstrapMean(const Strata& values, uint64_t seed, int num_resamples) {
  const int64_t count = CountOf(values);
  if (count == 0) return absl::nullopt;
  Random random(seed ^ 0x5bd1e995ULL);
  std::vector<double> means(num_resamples, 0.0);
  for (double& mean : means) {
    for (const std::vector<double>& stratum : values) {
      for (size_t i = 0; i < stratum.size(); ++i) mean += stratum[random.Below(stratum.size())];
    }
    mean /= static_cast<double>(count);
  }
  return MiddleOf(&means);
}

absl::optional<Interval> BootstrapRatio(
    const std::vector<std::vector<std::pair<double, double>>>& units, uint64_t seed,
    int num_resamples) {
  double whole = 0;
  for (const auto& stratum : units) {
    for (const auto& unit : stratum) whole += unit.second;
  }
  if (whole == 0) return absl::nullopt;
  Random random(seed ^ 0x5bd1e995ULL);
  std::vector<double> ratios;
  for (int resample = 0; resample < num_resamples; ++resample) {
    double above = 0, below = 0;
    for (const auto& stratum : units) {
      for (size_t i = 0; i < stratum.size(); ++i) {
        const auto& unit = stratum[random.Below(stratum.size())];
        above += unit.first;
        below += unit.second;
      }
    }
    if (below != 0) ratios.push_back(above / below);
  }
  if (ratios.empty()) return absl::nullopt;
  return MiddleOf(&ratios);
}

Interval WilsonInterval(double successes, double trials) {
  const double z2 = kNormalQuantile975 * kNormalQuantile975;
  const double rate = successes / trials;
  const double middle = (rate + z2 / (2 * trials)) / (1 + z2 / trials);
  const double half = kNormalQuantile975 / (1 + z2 / trials) *
                      std::sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials));
  return {std::max(0.0, middle - half), std::min(1.0, middle + half)};
}

absl::optional<PairedTest> TestPaired(const Strata& differences, uint64_t seed, int num_flips) {
  const absl::optional<Interval> interval = BootstrapMean(differences, seed);
  if (!interval.has_value()) return absl::nullopt;
  PairedTest test;
  test.interval = *interval;
  test.num_units = CountOf(differences);
  const double n = static_cast<double>(test.num_units);
  double sum = 0, squares = 0;
  std::vector<double> flippable;  // The sign of a zero changes nothing.
  for (const std::vector<double>& stratum : differences) {
    for (double d : stratum) {
      sum += d;
      if (d != 0) flippable.push_back(d);
    }
  }
  test.mean = sum / n;
  for (const std::vector<double>& stratum : differences) {
    for (double d : stratum) squares += (d - test.mean) * (d - test.mean);
  }
  if (squares > 0) test.effect_size = test.mean / std::sqrt(squares / (n - 1));
  const int64_t hits =
      flippable.empty() ? num_flips : CountFlipsThatReach(flippable, seed, num_flips);
  test.p = static_cast<double>(hits + 1) / (num_flips + 1);
  return test;
}

std::vector<double> HolmAdjusted(absl::Span<const double> p_values) {
  std::vector<size_t> order(p_values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return p_values[a] < p_values[b]; });
  std::vector<double> adjusted(p_values.size());
  double largest = 0;
  for (size_t rank = 0; rank < order.size(); ++rank) {
    const double factor = static_cast<double>(order.size() - rank);
    largest = std::max(largest, std::min(1.0, factor * p_values[order[rank]]));
    adjusted[order[rank]] = largest;
  }
  return adjusted;
}

}  // namespace wideberth::report
