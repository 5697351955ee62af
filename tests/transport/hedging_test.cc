// SPDX-License-Identifier: Apache-2.0
// When a slow call is worth another: by the recent latencies, within a budget.
#include "transport/hedging.h"

#include <gtest/gtest.h>

namespace wideberth::transport {
namespace {

Hedging::Options Small() {
  Hedging::Options options;
  options.window = 100;
  options.min_samples = 10;
  return options;
}

void Note(Hedging& hedging, int first, int last) {
  for (int ms = first; ms <= last; ++ms) hedging.NoteLatency(absl::Milliseconds(ms));
}

TEST(HedgingTest, TheDelayIsTheQuantileOfTheRecentLatencies) {
  Hedging hedging(Small());
  Note(hedging, 1, 100);
  EXPECT_EQ(hedging.Delay(), absl::Milliseconds(95));
  Note(hedging, 1001, 1100);
  EXPECT_EQ(hedging.Delay(), absl::Milliseconds(1095)) << "the old ones are forgotten";
}

TEST(HedgingTest, AFewLatenciesAreNotEnoughButAlreadyTypical) {
  Hedging hedging(Small());
  EXPECT_EQ(hedging.Typical(), absl::InfiniteDuration());
  Note(hedging, 101, 109);
  EXPECT_EQ(hedging.Delay(), absl::InfiniteDuration());
  EXPECT_EQ(hedging.Typical(), absl::Milliseconds(109));
  Note(hedging, 110, 110);
  EXPECT_EQ(hedging.Delay(), absl::Milliseconds(110));
}

TEST(HedgingTest, TheDelayHasAFloor) {
  Hedging hedging(Small());
  for (int i = 0; i < 50; ++i) hedging.NoteLatency(absl::Microseconds(10));
  EXPECT_EQ(hedging.Delay(), Small().floor);
}

TEST(HedgingTest, AQuantileOfOneIsNever) {
  Hedging::Options options = Small();
  options.quantile = 1;
  Hedging hedging(options);
  Note(hedging, 1, 100);
  EXPECT_EQ(hedging.Delay(), absl::InfiniteDuration());
  EXPECT_EQ(hedging.Typical(), absl::Milliseconds(100));
}

TEST(HedgingTest, OneCallInTenIsHedgedHoweverManyAreSlow) {
  Hedging hedging(Small());
  int hedges = 0;
  for (int call = 0; call < 1000; ++call) {
    hedging.NoteCall();
    hedges += hedging.Spend();
  }
  EXPECT_GE(hedges, 99);
  EXPECT_LE(hedges, 101);
  for (int call = 0; call < 1000; ++call) hedging.NoteCall();
  int at_once = 0;
  while (hedging.Spend()) ++at_once;
  EXPECT_EQ(at_once, 8) << "what was not used is not saved up";
}

TEST(HedgingTest, AFullPoolIsNotAskedTwice) {
  Hedging hedging(Small());
  for (int call = 0; call < 100; ++call) hedging.NoteCall();
  hedging.NoteFull();
  EXPECT_FALSE(hedging.Spend());
}

}  // namespace
}  // namespace wideberth::transport
