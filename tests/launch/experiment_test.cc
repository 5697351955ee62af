// SPDX-License-Identifier: Apache-2.0
#include "launch/experiment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/file.h"
#include "launch/run_progress.h"
#include "tests/testing/paths.h"

namespace wideberth::launch {
namespace {

using ::testing::HasSubstr;

TEST(ParseArms, KnowsTheFormsAndTakesAnyOtherChange) {
  const auto arms = ParseArms({"boundary", "u_minus_t", "weak=reward { utility_weight: 0.3 }"});
  ASSERT_TRUE(arms.ok()) << arms.status();
  ASSERT_EQ(arms->size(), 3u);
  EXPECT_EQ((*arms)[0].changes, "reward { form: BOUNDARY }");
  EXPECT_EQ((*arms)[1].changes, "reward { form: U_MINUS_T }");
  EXPECT_EQ((*arms)[2].name, "weak");
  EXPECT_EQ((*arms)[2].changes, "reward { utility_weight: 0.3 }");
}

TEST(ParseArms, RefusesUnknownFormsAndNamesThatAreTaken) {
  EXPECT_THAT(std::string(ParseArms({"bondary"}).status().message()),
              HasSubstr("--arm is \"bondary\", must be boundary, u_only, "));
  for (const char* taken : {"base=x", "evaluation=x", "standardize=x", "a/b=x", "=x"}) {
    EXPECT_THAT(std::string(ParseArms({taken}).status().message()),
                HasSubstr("must have a name of its own"))
        << taken;
  }
  EXPECT_FALSE(ParseArms({"boundary", "boundary"}).ok());
  EXPECT_FALSE(ParseArms({}).ok());
}

TEST(MomentsOfScores, AreThoseOfTheBaseAlone) {
  const wideberth::testing::TempDir temp;
  const std::string path = temp.Join("answers.jsonl");
  ASSERT_TRUE(
      WriteFileAtomically(path,
                          R"({"arm":"base","answers":[{"scores":{"u":1.0}},{"scores":{"u":3.0}}]}
{"arm":"trained","answers":[{"scores":{"u":100.0}}]}
{"arm":"base","answers":[{"scores":{"u":5.0}},{"scores":{},"failures":{"u":"TIMED_OUT"}}]}
)")
          .ok());
  const auto moments = MomentsOfScores(path, "u");
  ASSERT_TRUE(moments.ok()) << moments.status();
  EXPECT_EQ(moments->count, 3) << "a missing score is no zero";
  EXPECT_DOUBLE_EQ(moments->mean, 3);
  EXPECT_DOUBLE_EQ(moments->deviation, 2);
  EXPECT_THAT(std::string(MomentsOfScores(path, "v").status().message()),
              HasSubstr("has 0 scores of \"v\" for the base, expected at least two"));
}

TEST(ArmLine, TellsRateAndTimeLeft) {
  const auto progress = ParseArmProgress(
      R"({"arm":"boundary","arm_index":1,"num_arms":3,"answered":300,"of":600,"seconds":10})");
  ASSERT_TRUE(progress.has_value());
  EXPECT_EQ(ArmLine(*progress), "arm boundary (2 of 3): 300 of 600 prompts, 30.0/s, 10.0s left");
  EXPECT_FALSE(ParseArmProgress(R"({"step":1})").has_value());
  EXPECT_FALSE(ParseArmProgress("{").has_value());
}

}  // namespace
}  // namespace wideberth::launch
