// SPDX-License-Identifier: Apache-2.0
#include "learner/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace wideberth::learner {
namespace {

using ::testing::HasSubstr;

// Of every ten items with the probability p, 10 p are positive; the log-odds say `temperature`
// times too much.
std::vector<ScoredLabel> Overconfident(double temperature) {
  std::vector<ScoredLabel> scored;
  for (int tenths = 1; tenths <= 9; ++tenths) {
    const double p = tenths / 10.0;
    for (int i = 0; i < 10; ++i) {
      scored.push_back(
          {temperature * std::log(p / (1 - p)), i < tenths, tenths < 5 ? "low" : "high"});
    }
  }
  return scored;
}

TEST(CalibrationTest, FindsTheTemperatureThatLogOddsWereMultipliedBy) {
  for (const double temperature : {0.4, 1.0, 2.5, 7.0})
    EXPECT_NEAR(*FitTemperature(Overconfident(temperature)), temperature, 1e-9);
}

TEST(CalibrationTest, NoOtherTemperatureHasALowerLoss) {
  const std::vector<ScoredLabel> scored = {
      {3, true, ""}, {1, false, ""}, {-2, false, ""}, {-1, true, ""}, {5, true, ""}};
  const double best = *FitTemperature(scored);
  for (const double factor : {0.9, 0.99, 1.01, 1.1})
    EXPECT_GT(CalibrationLoss(scored, best * factor), CalibrationLoss(scored, best));
}

TEST(CalibrationTest, TheErrorGoesAndTheOrderStays) {
  const GuardFigures figures = FiguresOf(Overconfident(3), 3);
  EXPECT_GT(*figures.before.ece, 0.1);
  EXPECT_LT(*figures.after.ece, 1e-9);
  EXPECT_LT(figures.nll_after, figures.nll_before);
  EXPECT_EQ(*figures.before.auroc, *figures.after.auroc);
  ASSERT_EQ(figures.table.size(), 3u);
  EXPECT_EQ(figures.table[1].name, "high");
  EXPECT_EQ(figures.table[1].figures.num, 50);
}

TEST(CalibrationTest, LargeLogOddsDoNotOverflow) {
  const std::vector<ScoredLabel> scored = {
      {1e4, true, ""}, {-1e4, false, ""}, {900, false, ""}, {-800, true, ""}};
  const double temperature = *FitTemperature(scored);
  EXPECT_TRUE(std::isfinite(temperature));
  EXPECT_TRUE(std::isfinite(CalibrationLoss(scored, 0.01)));
}

TEST(CalibrationTest, SeparatedClassesStayWithinTheBounds) {
  EXPECT_NEAR(*FitTemperature({{2, true, ""}, {-1, false, ""}}), 0.01, 1e-9);
  EXPECT_NEAR(*FitTemperature({{-2, true, ""}, {1, false, ""}}), 100, 1e-6);
}

TEST(CalibrationTest, OneClassAloneIsRefused) {
  EXPECT_THAT(std::string(FitTemperature({{2, true, ""}, {1, true, ""}}).status().message()),
              HasSubstr("2 positive rows of 2, expected both classes"));
  EXPECT_FALSE(FitTemperature({}).ok());
}

TEST(CalibrationTest, TheFileSaysWhatTheScorerNeeds) {
  const auto json = nlohmann::json::parse(CalibrationJson(FiguresOf(Overconfident(2), 2)));
  EXPECT_EQ(json["temperature"], 2);
  EXPECT_EQ(json["num_rows"], 90);
  EXPECT_EQ(json["num_positive"], 45);
  EXPECT_GT(json["ece_before"], json["ece_after"]);
  EXPECT_EQ(json["by_source"]["low"]["num"], 40);
}

}  // namespace
}  // namespace wideberth::learner
