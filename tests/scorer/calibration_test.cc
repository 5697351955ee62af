// SPDX-License-Identifier: Apache-2.0
// calibration.json: its temperature, or one sentence that says what is wrong with it.
#include "scorer/calibration.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/testing/paths.h"

namespace wideberth::scorer {
namespace {

std::string Error(absl::string_view text) {
  const auto calibration = ParseCalibration(text, "guard/calibration.json");
  EXPECT_FALSE(calibration.ok()) << text;
  EXPECT_EQ(calibration.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(calibration.status().message());
}

TEST(CalibrationTest, TheTemperatureIsReadAndOtherFieldsAreLeft) {
  const auto calibration = ParseCalibration("{\"temperature\": 1.5, \"ece\": [0.1]}", "x");
  ASSERT_TRUE(calibration.ok()) << calibration.status();
  EXPECT_EQ(calibration->temperature, 1.5);
  EXPECT_EQ(ParseCalibration("{\"temperature\": 2}", "x")->temperature, 2.0);
}

TEST(CalibrationTest, ABadFileGetsOneSentence) {
  const std::string expected = ", expected {\"temperature\": a positive number}";
  const std::string file = "guard/calibration.json: ";
  EXPECT_EQ(Error("{\"temperature\": "), absl::StrCat(file, "is not JSON", expected));
  EXPECT_EQ(Error("[1.5]"), absl::StrCat(file, "is array", expected));
  EXPECT_EQ(Error("{\"t\": 1}"), absl::StrCat(file, "has no field temperature", expected));
  EXPECT_EQ(Error("{\"temperature\": 0}"), absl::StrCat(file, "temperature is 0", expected));
  EXPECT_EQ(Error("{\"temperature\": -2.5}"), absl::StrCat(file, "temperature is -2.5", expected));
  EXPECT_EQ(Error("{\"temperature\": \"1\"}"),
            absl::StrCat(file, "temperature is \"1\"", expected));
  EXPECT_EQ(Error("{\"temperature\": null}"), absl::StrCat(file, "temperature is null", expected));
  Error("{\"temperature\": 1e999}");
}

TEST(CalibrationTest, WithoutAFileTheTemperatureIsOne) {
  testing::TempDir folder;
  const auto none = LoadCalibration(folder.path());
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ(none->temperature, 1.0);
  EXPECT_EQ(none->text, "");
  ASSERT_TRUE(WriteFileAtomically(folder.Join("calibration.json"), "{\"temperature\": 3}").ok());
  EXPECT_EQ(LoadCalibration(folder.path())->temperature, 3.0);
}

}  // namespace
}  // namespace wideberth::scorer
