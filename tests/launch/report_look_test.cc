// SPDX-License-Identifier: Apache-2.0
// `wideberth report` as a command: where it writes, and what it says of a wrong command line.
#include "launch/report_look.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "tests/report/evaluation_folder.h"
#include "tests/report/guard_table_folder.h"

namespace wideberth::launch {
namespace {

using report::EvaluationFolder;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string Written(const std::string& name) {
  EvaluationFolder folder(name);
  report::AddFourAnswers(&folder);
  const std::string path = folder.Write();
  std::filesystem::remove(path + "/report.html");
  std::filesystem::remove(path + "/summary.json");
  return path;
}

std::string WrittenGuard(const std::string& name) {
  report::GuardTableFolder folder(name);
  folder.AddSixRows();
  const std::string path = folder.Write();
  for (const char* file : {"/report.html", "/summary.json", "/config.txtpb"})
    std::filesystem::remove(path + file);
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

TEST(ReportLookTest, OneGuardGetsItsPageInItsFolderAndItsTableAsText) {
  const std::string guard = WrittenGuard("look_alone");
  ::testing::internal::CaptureStdout();
  const absl::Status done = Report({guard});
  const std::string text = ::testing::internal::GetCapturedStdout();
  ASSERT_TRUE(done.ok()) << done;
  EXPECT_THAT(text, StartsWith("Guard \"safety\" (VERDICT, models/tiny with runs/tiny/adapter)\n"));
  EXPECT_THAT(text, HasSubstr(absl::StrCat("page: ", guard, "/report.html ")));
  EXPECT_THAT(text, Not(HasSubstr("pictures")));
  EXPECT_TRUE(std::filesystem::exists(guard + "/report.html"));
  EXPECT_TRUE(std::filesystem::exists(guard + "/summary.json"));
  EXPECT_FALSE(std::filesystem::exists(guard + "/charts"));
}

TEST(ReportLookTest, GuardsAndEvaluationsGoOnOnePageBesideTheFirst) {
  const std::string guard = WrittenGuard("look_mixed"), run = Written("look_with_guard");
  const std::string page = absl::StrCat(::testing::TempDir(), "/report/report.html");
  std::filesystem::remove(page);
  ASSERT_TRUE(Report({guard, run, "--png=false", "--redact"}).ok());
  const auto html = ReadFile(page);
  ASSERT_TRUE(html.ok()) << html.status();
  EXPECT_THAT(*html, HasSubstr("class=\"claim\""));
  EXPECT_THAT(*html, HasSubstr("<section id=\"guards\">"));
  EXPECT_THAT(*html, Not(HasSubstr("surely")));
  EXPECT_THAT(ReadFile(guard + "/summary.json").value_or(""), StartsWith("{\n  \"guards\": ["));
  EXPECT_THAT(ReadFile(run + "/summary.json").value_or(""), Not(HasSubstr("\"guards\"")));
}

TEST(ReportLookTest, TheSummaryOfATrainingRunIsNotReplacedByItsGuardsTable) {
  const std::string guard = WrittenGuard("look_run");
  ASSERT_TRUE(WriteFileAtomically(guard + "/config.txtpb", "name: \"g\"\n").ok());
  ASSERT_TRUE(WriteFileAtomically(guard + "/summary.json", "of the training").ok());
  EXPECT_THAT(Report({guard}).message(),
              HasSubstr("holds a training run, whose summary.json stays, "
                        "expected --out=DIR"));
  const std::string out = absl::StrCat(::testing::TempDir(), "/look_run_out");
  ASSERT_TRUE(Report({guard, "--out", out}).ok());
  EXPECT_TRUE(std::filesystem::exists(out + "/report.html"));
  EXPECT_EQ(ReadFile(guard + "/summary.json").value_or(""), "of the training");
}

TEST(ReportLookTest, ABrokenGuardIsNamedAndNothingIsWritten) {
  const std::string guard = WrittenGuard("look_broken");
  std::filesystem::remove(guard + "/confusions.jsonl");
  EXPECT_THAT(Report({guard}).message(), HasSubstr("look_broken/confusions.jsonl"));
  EXPECT_FALSE(std::filesystem::exists(guard + "/report.html"));
}

TEST(ReportLookTest, WrongCommandLinesAreOneSentence) {
  EXPECT_THAT(Report({}).message(), HasSubstr("no folder is named"));
  EXPECT_THAT(Report({::testing::TempDir() + "nothing"}).message(),
              HasSubstr("nothing: has neither evaluation.json nor guard_table.json, expected the "
                        "folder of `wideberth evaluate` or of `wideberth evaluate --guard`"));
  EXPECT_THAT(Report({"x", "--redcat"}).message(), HasSubstr("redact"));
}

}  // namespace
}  // namespace wideberth::launch
