// SPDX-License-Identifier: Apache-2.0
#include "launch/run_progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "absl/strings/str_split.h"
#include "tests/testing/paths.h"

namespace wideberth::launch {
namespace {

TEST(TableTest, ShowsWhatIsThereUnderItsHeader) {
  const auto full = ParseStepMetrics(
      R"({"step": 3, "reward": 0.5, "t_mean": 0.25, "boundary_mass": 0.125, "u_mean": -1.75,
          "kl": 0.00312345, "loss": -0.0123456, "grad_norm": 12.3456, "completions/mean_length": 42.5,
          "tokens_per_second": 812.4, "step_time": 31.04})");
  ASSERT_TRUE(full);
  EXPECT_EQ(TableHeader(),
            "       step   reward       t   near       u       KL     loss    norm length tok/s"
            "    time    left");
  EXPECT_EQ(TableRow(*full, 40, absl::Seconds(1130.4)),
            "       3/40      0.5    0.25  0.125   -1.75 0.003123 -0.01235   12.35   42.5 812.4"
            "   31.0s  18m50s");
  const auto unscored = ParseStepMetrics(R"({"step": 4, "t_mean": null})");
  ASSERT_TRUE(unscored);
  EXPECT_EQ(TableRow(*unscored, 40, absl::nullopt),
            "       4/40        -       -      -       -        -        -       -      -     -"
            "       -       -");
  const auto supervised = ParseStepMetrics(R"({"step": 4, "max_steps": 9, "loss": 0.5})");
  ASSERT_TRUE(supervised);
  EXPECT_EQ(TableRow(*supervised, *supervised->max_steps, absl::nullopt),
            "        4/9        -       -      -       -        -      0.5       -      -     -"
            "       -       -");
  EXPECT_FALSE(ParseStepMetrics("{\"step\": 3"));
  EXPECT_FALSE(ParseStepMetrics("{\"event\": \"end\"}"));
}

TEST(TableTest, EveryNumberKeepsItsColumn) {
  for (const double value : {0.0, 1e-300, -1.23456789e-7, 123456789.0, -9999.5, 1e17}) {
    StepMetrics step;
    step.step = 99999;
    step.reward = step.t = step.boundary_mass = step.u = step.kl = value;
    step.loss = step.grad_norm = step.length = step.tokens_per_second = value;
    step.seconds = 1e7;
    const std::string row = TableRow(step, 99999, absl::Hours(2000));
    EXPECT_EQ(row.size(), TableHeader().size()) << row;
  }
  EXPECT_EQ(CompactNumber(123456, 8), "1.23e+05");
}

TEST(MetricsTailTest, ReadsWholeLinesOnceAndWaitsForTheRest) {
  testing::TempDir folder;
  const std::string path = folder.Join("metrics.jsonl");
  MetricsTail tail(path);
  EXPECT_TRUE(tail.Poll().empty());
  std::ofstream file(path);
  file << "{\"step\": 1}\n{\"step\": 2}\n{\"st" << std::flush;
  std::vector<StepMetrics> steps = tail.Poll();
  ASSERT_EQ(steps.size(), 2u);
  EXPECT_EQ(steps[0].step, 1);
  EXPECT_EQ(steps[1].step, 2);
  EXPECT_TRUE(tail.Poll().empty());
  file << "ep\": 3}\n" << std::flush;
  steps = tail.Poll();
  ASSERT_EQ(steps.size(), 1u);
  EXPECT_EQ(steps[0].step, 3);
}

TEST(ProgressDisplayTest, TheHeaderComesBackNowAndThenAndAfterABlock) {
  ::testing::internal::CaptureStdout();
  ProgressDisplay display(/*terminal=*/true);
  for (int i = 0; i < 41; ++i) display.ShowRow("row");
  display.ShowBlock("a block\n");
  display.ShowRow("row");
  const std::string shown = ::testing::internal::GetCapturedStdout();
  const std::vector<std::string> lines = absl::StrSplit(shown, '\n');
  std::vector<size_t> headers;
  for (size_t i = 0; i < lines.size(); ++i)
    if (lines[i] == TableHeader()) headers.push_back(i);
  EXPECT_THAT(headers, ::testing::ElementsAre(0, 21, 42, 45));
}

TEST(EtaTest, IsTheMeanOfTheStepsAfterTheFirst) {
  Eta eta;
  EXPECT_FALSE(eta.Remaining(10));
  eta.Note(1, absl::UnixEpoch() + absl::Seconds(100));
  EXPECT_FALSE(eta.Remaining(10));
  eta.Note(3, absl::UnixEpoch() + absl::Seconds(110));
  EXPECT_EQ(*eta.Remaining(10), absl::Seconds(35));
}

}  // namespace
}  // namespace wideberth::launch
