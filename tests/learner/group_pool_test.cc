// SPDX-License-Identifier: Apache-2.0
// Accepted groups between the threads that store them and the one that trains.
#include "learner/group_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace wideberth::learner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

AcceptedGroup MakeGroup(uint64_t id, uint64_t version = 0, Phase phase = Phase::kTrain) {
  AcceptedGroup group;
  group.phase = phase;
  group.request.set_group_id(id);
  group.request.set_policy_version(version);
  return group;
}

std::vector<uint64_t> Ids(const std::vector<AcceptedGroup>& groups) {
  std::vector<uint64_t> ids;
  for (const AcceptedGroup& group : groups) ids.push_back(group.request.group_id());
  return ids;
}

constexpr absl::Duration kPatience = absl::Seconds(60);

TEST(GroupPoolTest, TheOrderOfArrivalDoesNotMatter) {
  GroupPool pool;
  for (uint64_t id : {7, 2, 9, 4}) pool.Push(MakeGroup(id));
  const auto taken = pool.Take(Phase::kTrain, 3, kPatience, nullptr);
  ASSERT_TRUE(taken.ok());
  EXPECT_THAT(Ids(*taken), ElementsAre(2, 4, 7));
  EXPECT_EQ(pool.size(), 1u);
}

TEST(GroupPoolTest, OlderVersionsGoFirst) {
  GroupPool pool;
  pool.Push(MakeGroup(1, 5));
  pool.Push(MakeGroup(8, 4));
  pool.Push(MakeGroup(6, 4));
  EXPECT_THAT(Ids(*pool.Take(Phase::kTrain, 2, kPatience, nullptr)), ElementsAre(6, 8));
}

TEST(GroupPoolTest, GroupsOfAnotherPartOfTheRunAreNotTaken) {
  GroupPool pool;
  pool.Push(MakeGroup(1, 0, Phase::kEvaluateBefore));
  pool.Push(MakeGroup(2));
  EXPECT_THAT(Ids(*pool.Take(Phase::kTrain, 1, kPatience, nullptr)), ElementsAre(2));
  EXPECT_EQ(pool.size(), 0u);
}

TEST(GroupPoolTest, AWaiterIsWokenByTheLastGroupItNeeds) {
  GroupPool pool;
  std::thread pusher([&] {
    pool.Push(MakeGroup(1));
    pool.Push(MakeGroup(2));
  });
  EXPECT_THAT(Ids(*pool.Take(Phase::kTrain, 2, kPatience, nullptr)), ElementsAre(1, 2));
  pusher.join();
}

TEST(GroupPoolTest, NoWaitIsForEver) {
  GroupPool pool;
  pool.Push(MakeGroup(1));
  const auto taken = pool.Take(Phase::kTrain, 2, absl::Milliseconds(20), nullptr);
  EXPECT_EQ(taken.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(taken.status().message()),
              HasSubstr("no group was accepted for 20ms; 1 of 2 groups are here"));
}

TEST(GroupPoolTest, InterruptAndFailureEndAWaitThatRuns) {
  GroupPool stopped;
  std::thread stopper([&] { stopped.Interrupt(); });
  EXPECT_EQ(stopped.Take(Phase::kTrain, 1, kPatience, nullptr).status().code(),
            absl::StatusCode::kCancelled);
  stopper.join();
  GroupPool broken;
  std::thread breaker([&] { broken.Fail(absl::ResourceExhaustedError("disk full")); });
  EXPECT_EQ(broken.Take(Phase::kTrain, 1, kPatience, nullptr).status().message(), "disk full");
  breaker.join();
}

}  // namespace
}  // namespace wideberth::learner
