// SPDX-License-Identifier: Apache-2.0
#include "scorer/batch_time.h"

#include <gtest/gtest.h>

#include <limits>

namespace wideberth::scorer {
namespace {

void Add(BatchTime& time, int64_t tokens, double constant_ms, double ms_per_token) {
  time.Add(tokens, absl::Milliseconds(constant_ms + ms_per_token * static_cast<double>(tokens)));
}
double Ms(const BatchTime& time, double tokens) {
  return absl::ToDoubleMilliseconds(time.Of(tokens));
}

TEST(BatchTimeTest, ALineThroughBatchesOfSeveralSizesIsFound) {
  BatchTime time;
  EXPECT_FALSE(time.known());
  EXPECT_EQ(time.Of(100), absl::ZeroDuration());
  for (int i = 0; i < 50; ++i) Add(time, 10 * (1 + i % 7), 4, 0.5);
  EXPECT_TRUE(time.known());
  EXPECT_NEAR(Ms(time, 1000), 504, 5);
  EXPECT_NEAR(Ms(time, 0), 4, 0.5);
  EXPECT_NEAR(time.TokensWithin(absl::Milliseconds(104)), 200, 2);
}

TEST(BatchTimeTest, BatchesOfOneSizeAreTakenForTheirTokens) {
  BatchTime time;
  for (int i = 0; i < 3; ++i) time.Add(10, absl::Milliseconds(20));
  EXPECT_NEAR(Ms(time, 10), 20, 1e-6);
  EXPECT_NEAR(Ms(time, 100), 200, 1e-6);
}

TEST(BatchTimeTest, ATimeThatDoesNotGrowIsAConstant) {
  BatchTime time;
  for (int i = 0; i < 20; ++i) time.Add(10 + i, absl::Milliseconds(40 - i));
  EXPECT_EQ(Ms(time, 10), Ms(time, 1e6));
  EXPECT_GT(time.TokensWithin(absl::Milliseconds(1)), int64_t{1} << 60);
}

TEST(BatchTimeTest, TheNewestBatchesCountMost) {
  BatchTime time;
  for (int i = 0; i < 200; ++i) Add(time, i % 20, 2, 0.1);
  for (int i = 0; i < 300; ++i) Add(time, i % 20, 20, 1);
  EXPECT_NEAR(Ms(time, 100), 120, 3);
}

TEST(BatchTimeTest, ABatchIsNotCutSoSmallThatItsConstantRules) {
  BatchTime time;
  for (int i = 0; i < 50; ++i) Add(time, i, 10, 1);
  EXPECT_NEAR(time.TokensWithin(absl::Milliseconds(11)), 10, 1);
  EXPECT_NEAR(time.TokensWithin(absl::Milliseconds(5)), 10, 1);
}

}  // namespace
}  // namespace wideberth::scorer
