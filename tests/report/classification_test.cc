// SPDX-License-Identifier: Apache-2.0
// A classifier's figures equal those of scikit-learn and torchmetrics, and are empty where they
// mean nothing.
#include "report/classification.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "nlohmann/json.hpp"
#include "tests/testing/paths.h"

namespace wideberth::report {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

TEST(ClassificationTest, FiguresEqualThoseOfScikitLearnAndTorchmetrics) {
  const auto text = ReadFile(testing::GoldenPath("classification.json"));
  ASSERT_TRUE(text.ok()) << text.status();
  const Json golden = Json::parse(*text);
  ASSERT_EQ(golden["cases"].size(), 4);
  for (const Json& expected : golden["cases"]) {
    std::vector<Judged> judged;
    for (size_t i = 0; i < expected["labels"].size(); ++i)
      judged.push_back({expected["probabilities"][i], expected["labels"][i] == 1});
    const Classification found = Classify(judged);
    const std::string name = expected["name"];
    EXPECT_NEAR(found.auroc.value(), expected["auroc"].get<double>(), 1e-12) << name;
    EXPECT_NEAR(found.auprc.value(), expected["auprc"].get<double>(), 1e-12) << name;
    EXPECT_NEAR(found.precision.value(), expected["precision"].get<double>(), 1e-12) << name;
    EXPECT_NEAR(found.recall.value(), expected["recall"].get<double>(), 1e-12) << name;
    EXPECT_NEAR(found.f1.value(), expected["f1"].get<double>(), 1e-12) << name;
    EXPECT_NEAR(found.accuracy.value(), expected["accuracy"].get<double>(), 1e-12) << name;
    EXPECT_NEAR(found.ece.value(), expected["ece"].get<double>(), 1e-12) << name;
  }
}

TEST(ClassificationTest, BinsHoldWhatTheCalibrationErrorIsMadeOf) {
  const std::vector<Judged> judged = {
      {0.1, false}, {0.2, true}, {0.5, true}, {0.9, true}, {1.0, false}};
  const auto bins = CalibrationBins(judged, 4);
  ASSERT_EQ(bins.size(), 4u);
  EXPECT_EQ(bins[0].num, 2);
  EXPECT_DOUBLE_EQ(bins[0].probability, 0.15);
  EXPECT_DOUBLE_EQ(bins[0].positives, 0.5);
  EXPECT_EQ(bins[1].num, 0);
  EXPECT_EQ(bins[2].num, 1);  // [0.5, 0.75)
  EXPECT_EQ(bins[3].num, 2);  // The last bin has its upper end.
  EXPECT_DOUBLE_EQ(bins[3].probability, 0.95);
  EXPECT_NEAR(*ExpectedCalibrationError(judged, 4), (2 * 0.35 + 0.5 + 2 * 0.45) / 5, 1e-12);
}

TEST(ClassificationTest, WhatOneClassCannotSayIsEmpty) {
  const std::vector<Judged> negatives = {{0.2, false}, {0.9, false}};
  EXPECT_FALSE(Auroc(negatives).has_value());
  EXPECT_FALSE(AveragePrecision(negatives).has_value());
  const Classification one_class = Classify(negatives);
  EXPECT_EQ(one_class.f1, 0.0);
  EXPECT_EQ(one_class.accuracy, 0.5);
  EXPECT_FALSE(Auroc(std::vector<Judged>{{0.3, true}}).has_value());
  EXPECT_EQ(AveragePrecision(std::vector<Judged>{{0.3, true}}), 1.0);
  const Classification nothing = Classify({});
  EXPECT_EQ(nothing.num, 0);
  EXPECT_FALSE(nothing.f1.has_value() || nothing.accuracy.has_value() || nothing.ece.has_value());
}

TEST(ClassificationTest, TheEndsOfTheScaleHaveABin) {
  EXPECT_EQ(ExpectedCalibrationError(std::vector<Judged>{{1.0, true}, {0.0, false}}), 0.0);
  // Both in the last bin, where their errors of opposite sign cancel.
  EXPECT_NEAR(*ExpectedCalibrationError(std::vector<Judged>{{1.0, false}, {0.95, true}}), 0.475,
              1e-12);
}

TEST(ClassificationTest, TableAndJsonSayTheSame) {
  const std::vector<Judged> judged = {{0.9, true}, {0.6, false}, {0.7, true}, {0.1, false}};
  const std::vector<ClassificationRow> rows = {{"all", Classify(judged), 2},
                                               {"xs\xFFtest", Classify({}), 1}};
  EXPECT_THAT(ClassificationTable(rows),
              HasSubstr("all                             4      2      2  1.0000  1.0000  0.8000"));
  const Json json = Json::parse(ClassificationJson(rows));
  EXPECT_EQ(json["all"]["num"], 4);
  EXPECT_EQ(json["all"]["num_unscored"], 2);
  EXPECT_NEAR(json["all"]["f1"].get<double>(), 0.8, 1e-12);
  EXPECT_EQ(json["all"]["accuracy"], 0.75);
  EXPECT_TRUE(json["xs\xEF\xBF\xBDtest"]["auroc"].is_null());
}

}  // namespace
}  // namespace wideberth::report
