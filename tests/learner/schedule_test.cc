// SPDX-License-Identifier: Apache-2.0
// Against tests/golden/schedules.json: transformers' schedules.
#include "learner/schedule.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/testing/paths.h"

namespace wideberth::learner {
namespace {

TEST(ScheduleTest, EqualsTransformersAtEveryStep) {
  const auto text = ReadFile(wideberth::testing::GoldenPath("schedules.json"));
  ASSERT_TRUE(text.ok()) << text.status();
  const auto golden = nlohmann::json::parse(*text);
  int num_cases = 0;
  for (const auto& one : golden["cases"]) {
    proto::LearnerConfig config;
    config.set_learning_rate(golden["learning_rate"].get<double>());
    proto::LearnerConfig::Schedule schedule = proto::LearnerConfig::CONSTANT;
    ASSERT_TRUE(
        proto::LearnerConfig::Schedule_Parse(one["schedule"].get<std::string>(), &schedule));
    config.set_lr_scheduler_type(schedule);
    if (one.contains("warmup_ratio")) {
      config.set_warmup_ratio(one["warmup_ratio"].get<double>());
    } else {
      config.set_warmup_steps(one["warmup_steps"].get<int>());
    }
    if (one.contains("min_lr_rate")) config.set_min_lr_rate(one["min_lr_rate"].get<double>());
    const auto num_steps = one["num_steps"].get<int64_t>();
    for (int64_t step = 0; step < num_steps; ++step) {
      EXPECT_NEAR(LearningRate(config, step, num_steps), one["rates"][step].get<double>(), 1e-18)
          << one["schedule"] << " step " << step;
    }
    ++num_cases;
  }
  EXPECT_EQ(num_cases, 13);
}

}  // namespace
}  // namespace wideberth::learner
