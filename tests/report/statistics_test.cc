// SPDX-License-Identifier: Apache-2.0
// Intervals and tests equal scipy's within Monte-Carlo error; Holm's correction is worked by hand.
#include "report/statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/file.h"
#include "nlohmann/json.hpp"
#include "tests/testing/paths.h"

namespace wideberth::report {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using Json = nlohmann::json;

Json Golden() {
  const auto text = ReadFile(testing::GoldenPath("statistics.json"));
  EXPECT_TRUE(text.ok()) << text.status();
  return Json::parse(*text);
}

TEST(StatisticsTest, PairedTestsEqualScipysWithinMonteCarloError) {
  const Json golden = Golden();
  ASSERT_EQ(golden["cases"].size(), 5);
  for (const Json& expected : golden["cases"]) {
    const auto values = expected["differences"].get<std::vector<double>>();
    const absl::optional<PairedTest> found = TestPaired({values}, 3);
    ASSERT_TRUE(found.has_value());
    const std::string name = expected["name"];
    EXPECT_EQ(found->num_units, values.size());
    EXPECT_NEAR(found->interval.low, expected["interval"][0].get<double>(),
                5 * expected["interval_error"][0].get<double>())
        << name;
    EXPECT_NEAR(found->interval.high, expected["interval"][1].get<double>(),
                5 * expected["interval_error"][1].get<double>())
        << name;
    const double p = expected["p"];
    EXPECT_NEAR(found->p, p, 5 * std::sqrt(p * (1 - p) / kNumFlips) + 1.0 / kNumFlips) << name;
    EXPECT_NEAR(found->effect_size.value(), expected["effect_size"].get<double>(), 1e-12) << name;
  }
}

TEST(StatisticsTest, WilsonsIntervalEqualsScipys) {
  const Json golden = Golden();
  ASSERT_EQ(golden["wilson"].size(), 4);
  for (const Json& expected : golden["wilson"]) {
    const Interval found = WilsonInterval(expected["successes"], expected["trials"]);
    EXPECT_NEAR(found.low, expected["interval"][0].get<double>(), 1e-12);
    EXPECT_NEAR(found.high, expected["interval"][1].get<double>(), 1e-12);
  }
}

TEST(StatisticsTest, HolmMultipliesStepByStepAndNeverFalls) {
  // By hand: sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04; the last may not fall.
  EXPECT_THAT(HolmAdjusted({0.01, 0.04, 0.03, 0.005}),
              ElementsAre(DoubleNear(0.03, 1e-12), DoubleNear(0.06, 1e-12), DoubleNear(0.06, 1e-12),
                          DoubleNear(0.02, 1e-12)));
  EXPECT_THAT(HolmAdjusted({0.6, 0.7}), ElementsAre(1.0, 1.0));
  EXPECT_TRUE(HolmAdjusted({}).empty());
}

TEST(StatisticsTest, UnitsAreResampledInsideTheirRun) {
  // Two runs, each without spread, far apart: other prompts of these runs change nothing.
  const auto interval = BootstrapMean({{1, 1, 1}, {3, 3, 3}}, 1);
  EXPECT_DOUBLE_EQ(interval->low, 2.0);
  EXPECT_DOUBLE_EQ(interval->high, 2.0);
  EXPECT_LT(BootstrapMean({{1, 1, 1, 3, 3, 3}}, 1)->low, 1.5);
}

TEST(StatisticsTest, ARatioIsOfSumsAndKeepsItsPairsTogether) {
  const auto constant = BootstrapRatio({{{1, 2}, {2, 4}, {4, 8}}}, 1);
  EXPECT_DOUBLE_EQ(constant->low, 0.5);
  EXPECT_DOUBLE_EQ(constant->high, 0.5);
  // Prompts with 0 of 1 and 30 of 30: the mean of rates would be one half, the rate is 30/31.
  const auto rate = BootstrapRatio({{{0, 1}, {30, 30}}}, 1);
  EXPECT_DOUBLE_EQ(rate->low, 0.0);
  EXPECT_DOUBLE_EQ(rate->high, 1.0);
  EXPECT_FALSE(BootstrapRatio({{{1, 0}}}, 1).has_value());
}

TEST(StatisticsTest, NoDifferenceAnywhereIsNoEvidence) {
  const auto test = TestPaired({{0, 0, 0, 0}}, 1);
  EXPECT_DOUBLE_EQ(test->p, 1.0);
  EXPECT_FALSE(test->effect_size.has_value());
  EXPECT_FALSE(TestPaired({{}, {}}, 1).has_value());
}

TEST(StatisticsTest, TheSeedDecidesAndZerosDoNotChangeThePValue) {
  const Strata noisy = {{0.3, -0.2, 0.5, 0.1, 0.4, -0.1, 0.2, 0.6}};
  EXPECT_EQ(TestPaired(noisy, 5)->p, TestPaired(noisy, 5)->p);
  EXPECT_EQ(TestPaired(noisy, 5)->interval.low, TestPaired(noisy, 5)->interval.low);
  EXPECT_NE(TestPaired(noisy, 5)->p, TestPaired(noisy, 6)->p);
  Strata with_zeros = noisy;
  with_zeros[0].insert(with_zeros[0].begin() + 3, 100, 0.0);
  EXPECT_EQ(TestPaired(with_zeros, 5)->p, TestPaired(noisy, 5)->p);
}

}  // namespace
}  // namespace wideberth::report
