// SPDX-License-Identifier: Apache-2.0
#include "launch/run_progress.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/testing/paths.h"

namespace wideberth::launch {
namespace {

TEST(ProgressLineTest, ShowsWhatIsThereAndLeavesOutWhatIsNot) {
  const auto full = ParseStepMetrics(
      R"({"step": 3, "reward_mean": 0.5, "t_mean": 0.25, "boundary_mass": 0.125, "kl": 0.003, "tokens_per_second": 812.4})");
  ASSERT_TRUE(full);
  EXPECT_EQ(ProgressLine(*full, 40, absl::Seconds(130.4)),
            "step 3/40  reward 0.500  t 0.250  near 0.5 12.5 %  KL 0.003  812 tok/s  ETA 2m10s");
  const auto unscored = ParseStepMetrics(R"({"step": 4, "t_mean": null})");
  ASSERT_TRUE(unscored);
  EXPECT_EQ(ProgressLine(*unscored, 40, absl::nullopt), "step 4/40");
  const auto supervised = ParseStepMetrics(R"({"step": 4, "max_steps": 9, "loss": 0.5})");
  ASSERT_TRUE(supervised);
  EXPECT_EQ(ProgressLine(*supervised, *supervised->max_steps, absl::nullopt),
            "step 4/9  loss 0.5000");
  EXPECT_FALSE(ParseStepMetrics("{\"step\": 3"));
  EXPECT_FALSE(ParseStepMetrics("{\"event\": \"end\"}"));
}

TEST(MetricsTailTest, ReadsWholeLinesOnceAndWaitsForTheRest) {
  testing::TempDir folder;
  const std::string path = folder.Join("metrics.jsonl");
  MetricsTail tail(path);
  EXPECT_FALSE(tail.Poll());
  std::ofstream file(path);
  file << "{\"step\": 1}\n{\"step\": 2}\n{\"st" << std::flush;
  auto step = tail.Poll();
  ASSERT_TRUE(step);
  EXPECT_EQ(step->step, 2);
  EXPECT_FALSE(tail.Poll());
  file << "ep\": 3}\n" << std::flush;
  step = tail.Poll();
  ASSERT_TRUE(step);
  EXPECT_EQ(step->step, 3);
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
