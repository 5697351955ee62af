// SPDX-License-Identifier: Apache-2.0
// `wideberth report` as a command: where it writes, and what it says of a wrong command line.
#include "launch/report_look.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/report/evaluation_folder.h"

namespace wideberth::launch {
namespace {

using report::EvaluationFolder;
using ::testing::HasSubstr;

std::string Written(const std::string& name) {
  EvaluationFolder folder(name);
  report::AddFourAnswers(&folder);
  const std::string path = folder.Write();
  std::filesystem::remove(path + "/report.html");
  std::filesystem::remove(path + "/summary.json");
  return path;
}

TEST(ReportLookTest, OneRunGetsItsPageAndSummaryInItsFolder) {
  const std::string run = Written("look_one");
  ASSERT_TRUE(Report({run, "--png=false"}).ok());
  EXPECT_TRUE(std::filesystem::exists(run + "/report.html"));
  EXPECT_TRUE(std::filesystem::exists(run + "/summary.json"));
}

TEST(ReportLookTest, SeveralRunsGetOnePageBesideThemAndASummaryEach) {
  const std::string first = Written("look_first"), second = Written("look_second");
  const std::string page = absl::StrCat(::testing::TempDir(), "/report/report.html");
  std::filesystem::remove(page);
  ASSERT_TRUE(Report({first, second, "--png=false"}).ok());
  EXPECT_TRUE(std::filesystem::exists(page));
  EXPECT_FALSE(std::filesystem::exists(first + "/report.html"));
  EXPECT_TRUE(std::filesystem::exists(first + "/summary.json"));
  EXPECT_TRUE(std::filesystem::exists(second + "/summary.json"));
}

TEST(ReportLookTest, OutTakesEverythingAndLeavesTheRunsAlone) {
  const std::string first = Written("look_left"), second = Written("look_right");
  const std::string out = absl::StrCat(::testing::TempDir(), "/look_out");
  ASSERT_TRUE(Report({first, second, "--out", out, "--png=false"}).ok());
  EXPECT_TRUE(std::filesystem::exists(out + "/report.html"));
  EXPECT_FALSE(std::filesystem::exists(first + "/summary.json"));
}

TEST(ReportLookTest, AnExperimentsFolderStandsForItsEvaluation) {
  const std::string run = Written("look_within");
  const std::string experiment = absl::StrCat(::testing::TempDir(), "/look_experiment");
  std::filesystem::remove_all(experiment);
  std::filesystem::create_directories(experiment);
  std::filesystem::rename(run, experiment + "/evaluation");
  ASSERT_TRUE(Report({experiment, "--png=false"}).ok());
  EXPECT_TRUE(std::filesystem::exists(experiment + "/evaluation/report.html"));
}

TEST(ReportLookTest, WrongCommandLinesAreOneSentence) {
  EXPECT_THAT(Report({}).message(), HasSubstr("no folder is named"));
  EXPECT_THAT(Report({::testing::TempDir() + "nothing"}).message(),
              HasSubstr("nothing: has no evaluation.json, expected the folder of"));
  EXPECT_THAT(Report({"x", "--redcat"}).message(), HasSubstr("redact"));
}

}  // namespace
}  // namespace wideberth::launch
