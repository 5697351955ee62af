// SPDX-License-Identifier: Apache-2.0
// The relay tree under joins, losses and complaints: bounds, no cycle, short ways, few changes.
#include "learner/relay_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"

namespace wideberth::learner {
namespace {

std::vector<RelayTree::Actor> Actors(int n) {
  std::vector<RelayTree::Actor> actors;
  for (int i = 0; i < n; ++i)
    actors.push_back({absl::StrCat("actor-", i), absl::StrCat("host-", i, ":1")});
  return actors;
}

// Every actor is reached from the learner within the fan-out, nobody by a longer way than needed
// by one more step.
void ExpectSound(const RelayTree& tree, const std::vector<RelayTree::Actor>& actors) {
  EXPECT_LE(tree.NumChildren(""), tree.fan_out());
  int num_children = tree.NumChildren("");
  const int n = static_cast<int>(actors.size());
  int shortest = 0;
  for (int64_t room = 0, level = 1; room < n; ++shortest) room += level *= tree.fan_out();
  for (const RelayTree::Actor& actor : actors) {
    EXPECT_LE(tree.NumChildren(actor.name), tree.fan_out());
    num_children += tree.NumChildren(actor.name);
    const int depth = tree.Depth(actor.name);
    ASSERT_GE(depth, 1);
    ASSERT_LE(depth, shortest + 1) << actor.name;
  }
  EXPECT_EQ(num_children, n);
}

TEST(RelayTreeTest, FewActorsAreAllTheLearnersOwn) {
  RelayTree tree(0);
  const auto actors = Actors(RelayTree::kMaxDirect);
  tree.Update(actors);
  for (const auto& actor : actors) EXPECT_EQ(tree.ParentAddress(actor.name), "");
  EXPECT_EQ(tree.ParentAddress("scorer-0"), "");
  EXPECT_EQ(tree.Depth("scorer-0"), 0);
}

TEST(RelayTreeTest, ManyActorsMakeATreeOfTheFanOut) {
  for (const int n : {9, 64, 1000}) {
    for (const int fan_out : {0, 1, 2, 7, 2000}) {
      if (fan_out == 1 && n > 64) continue;
      RelayTree tree(fan_out);
      const auto actors = Actors(n);
      tree.Update(actors);
      ExpectSound(tree, actors);
      EXPECT_EQ(tree.num_placements(), n) << "nobody is placed twice";
      tree.Update(actors);
      EXPECT_EQ(tree.num_placements(), n);
    }
  }
}

TEST(RelayTreeTest, JoiningMovesNobodyWhileTheFanOutStays) {
  RelayTree tree(3);
  for (int n = 1; n <= 100; ++n) tree.Update(Actors(n));
  ExpectSound(tree, Actors(100));
  EXPECT_EQ(tree.num_placements(), 100);
}

TEST(RelayTreeTest, ALostRelaysChildrenGetOthersAndFewElseMove) {
  RelayTree tree(4);
  auto actors = Actors(500);
  tree.Update(actors);
  std::minstd_rand random(7);
  for (int round = 0; round < 200; ++round) {
    const size_t lost = random() % actors.size();
    const int num_children = tree.NumChildren(actors[lost].name);
    const std::string address = actors[lost].address;
    actors.erase(actors.begin() + lost);
    const int64_t before = tree.num_placements();
    tree.Update(actors);
    ExpectSound(tree, actors);
    for (const auto& actor : actors) ASSERT_NE(tree.ParentAddress(actor.name), address);
    EXPECT_LE(tree.num_placements() - before, num_children + 2);
  }
}

TEST(RelayTreeTest, RandomJoinsLossesAndComplaintsKeepItSound) {
  std::minstd_rand random(3);
  for (const int fan_out : {0, 2, 5}) {
    RelayTree tree(fan_out);
    std::vector<RelayTree::Actor> actors;
    int next = 0;
    for (int round = 0; round < 400; ++round) {
      for (int i = random() % 8; i > 0; --i, ++next)
        actors.push_back({absl::StrCat("a", next), absl::StrCat("h", next)});
      for (int i = random() % 7; i > 0 && !actors.empty(); --i)
        actors.erase(actors.begin() + random() % actors.size());
      std::string barred;
      if (!actors.empty()) {
        const auto& actor = actors[random() % actors.size()];
        tree.Bar(actor.address);
        EXPECT_EQ(tree.NumChildren(actor.name), 0);
        if (tree.Depth(actor.name) > 0) barred = actor.name;
      }
      tree.Update(actors);
      if (!barred.empty()) {
        EXPECT_EQ(tree.NumChildren(barred), 0);
      }
      tree.Readmit(barred);
      tree.Update(actors);
      ExpectSound(tree, actors);
    }
  }
}

TEST(RelayTreeTest, WhoServesNowherePassesNothingOn) {
  RelayTree tree(1);
  auto actors = Actors(3);
  actors[0].address = "";
  tree.Update(actors);
  EXPECT_EQ(tree.NumChildren("actor-0"), 0);
  EXPECT_GT(tree.NumChildren(""), 1) << "the learner, where nobody else can";
}

TEST(RelayTreeTest, ARelayThatIsStartedAgainKeepsItsChildrenAtItsNewAddress) {
  RelayTree tree(1);
  auto actors = Actors(2);
  tree.Update(actors);
  EXPECT_EQ(tree.ParentAddress("actor-1"), "host-0:1");
  actors[0].address = "host-0:2";
  tree.Update(actors);
  EXPECT_EQ(tree.ParentAddress("actor-1"), "host-0:2");
  EXPECT_EQ(tree.num_placements(), 2);
}

}  // namespace
}  // namespace wideberth::learner
