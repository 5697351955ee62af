// SPDX-License-Identifier: Apache-2.0
// Which node and which GPU every process of a run gets.
#include "launch/node_placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/text_proto.h"

namespace wideberth::launch {
namespace {

using ::testing::HasSubstr;

constexpr char kConfig[] = R"(
  policy { model { path: "m" device: "cuda:0" } }
  scorer { name: "guard-2" model { path: "g" device: "cuda:0" } replicas: 2 }
  scorer { name: "help" model { path: "h" } }
  actor { replicas: 3 })";

proto::RunConfig Config(absl::string_view more) {
  proto::RunConfig config;
  EXPECT_TRUE(MergeTextProto(kConfig, "test", &config).ok());
  EXPECT_TRUE(MergeTextProto(more, "test", &config).ok());
  return config;
}

absl::StatusOr<std::vector<NodeProcess>> Placed(absl::string_view more, int num_nodes) {
  return PlaceOnNodes(Config(more), {"/bin", {"a.txtpb"}, {}, "/run"}, num_nodes);
}

// "learner-0@0 actor-0@1:0 ...": name@node, and :gpu where one is given.
std::string Summary(absl::string_view more, int num_nodes) {
  const auto placed = Placed(more, num_nodes);
  if (!placed.ok()) return std::string(placed.status().message());
  return absl::StrJoin(*placed, " ", [](std::string* out, const NodeProcess& process) {
    absl::StrAppend(out, process.process.name, "@", process.node,
                    process.gpu ? absl::StrCat(":", *process.gpu) : "");
  });
}

TEST(NodePlacementTest, WithoutPlacementsTheNodesShareTheLoadInTurn) {
  EXPECT_EQ(Summary("", 3),
            "learner-0@0 scorer-guard-2-0@1 scorer-guard-2-1@2 scorer-help-0@0 actor-0@1 actor-1@2 "
            "actor-2@0");
  EXPECT_EQ(Summary("", 1),
            "learner-0@0 scorer-guard-2-0@0 scorer-guard-2-1@0 scorer-help-0@0 actor-0@0 actor-1@0 "
            "actor-2@0");
}

TEST(NodePlacementTest, PlacedReplicasGoWhereTheyAreSentAndTheRestFillsTheEmptiestNodes) {
  EXPECT_EQ(Summary(R"(cluster {
                         placement { role: "learner" node: 2 }
                         placement { role: "scorer:guard-2" node: 1 count: 2 }
                         placement { role: "actor" node: 2 count: 1 }
                         placement { role: "actor" node: 0 count: 1 } })",
                    3),
            "learner-0@2 scorer-guard-2-0@1 scorer-guard-2-1@1 scorer-help-0@0 actor-0@2 actor-1@0 "
            "actor-2@0");
}

TEST(NodePlacementTest, GpusOfANodeAreGivenInTurnToTheProcessesThatUseOne) {
  EXPECT_EQ(Summary("cluster { gpus_per_node: 2 }", 2),
            "learner-0@0:0 scorer-guard-2-0@1:0 scorer-guard-2-1@0:1 scorer-help-0@1 actor-0@0:0 "
            "actor-1@1:1 actor-2@0:1");
  EXPECT_THAT(Summary("cluster { gpus_per_node: 2 } actor { device: \"cuda:1\" }", 1),
              HasSubstr("actor-0@0 actor-1@0"));
}

TEST(NodePlacementTest, FurtherRanksOfTheLearnerFollowItWithGpusOfTheirOwn) {
  EXPECT_EQ(Summary("learner { world_size: 3 } cluster { gpus_per_node: 2 }", 2),
            "learner-0@0:0 learner-1@1:0 learner-2@0:1 scorer-guard-2-0@1:1 scorer-guard-2-1@0:0 "
            "scorer-help-0@1 actor-0@0:1 actor-1@1:0 actor-2@0:0");
  EXPECT_THAT(Summary("learner { world_size: 3 } cluster { placement { role: \"learner\" node: 1 "
                      "count: 2 } }",
                      2),
              HasSubstr("learner-0@1 learner-1@1 learner-2@0"));
  const auto placed = Placed("learner { world_size: 2 }", 1);
  ASSERT_TRUE(placed.ok()) << placed.status();
  EXPECT_EQ(absl::StrJoin((*placed)[1].process.spec.argv, " "), "/bin/wideberth-learner --rank=1");
}

TEST(PlacementTest, OnOneMachineEveryRankTakesTheNextGpu) {
  const auto processes = PlaceLocally(Config("learner { world_size: 3 }"), {"/bin", {}, {}, "/r"});
  EXPECT_EQ(processes[0].device, "cuda:0");
  EXPECT_EQ(processes[2].name, "learner-2");
  EXPECT_EQ(processes[2].device, "cuda:2");
  EXPECT_EQ(absl::StrJoin(processes[2].spec.argv, " "),
            "/bin/wideberth-learner --rank=2 --device=cuda:2");
  EXPECT_FALSE(processes[2].spec.restart);
  EXPECT_EQ(processes[3].role, "scorer");
  const auto on_cpu =
      PlaceLocally(Config("policy { model { device: \"cpu\" } } learner { world_size: 2 }"),
                   {"/b", {}, {}, "/r"});
  EXPECT_EQ(absl::StrJoin(on_cpu[1].spec.argv, " "), "/b/wideberth-learner --rank=1");
}

// The names of those that are hosts of their own to NCCL.
std::string Separated(const std::vector<NodeProcess>& placed) {
  std::string names;
  for (const NodeProcess& process : placed) {
    for (const auto& [variable, value] : process.process.spec.environment) {
      if (variable == "NCCL_HOSTID") absl::StrAppend(&names, names.empty() ? "" : " ", value);
    }
  }
  return names;
}

TEST(NodePlacementTest, LearnersAndActorsThatShareAGpuAreHostsOfTheirOwnToNccl) {
  const auto two_nodes = Placed("cluster { gpus_per_node: 2 }", 2);
  ASSERT_TRUE(two_nodes.ok());
  EXPECT_EQ(Separated(*two_nodes), "actor-0");  // On the learner's; the others are alone.
  const auto no_counts = Placed("", 1);
  ASSERT_TRUE(no_counts.ok());
  EXPECT_EQ(Separated(*no_counts), "actor-0 actor-1 actor-2");
  std::vector<NodeProcess> local;
  for (const PlacedProcess& process :
       PlaceLocally(Config("learner { world_size: 2 } actor { device: \"cuda:1\" replicas: 2 }"),
                    {"/bin", {}, {}, "/r"})) {
    local.push_back({process, 0, std::nullopt});
  }
  EXPECT_EQ(Separated(local), "actor-0 actor-1");  // Rank 1 of the learner has GPU 1.
}

TEST(NodePlacementTest, WhatCannotBePlacedIsNamed) {
  EXPECT_EQ(Summary("cluster { placement { role: \"actor\" node: 2 } }", 2),
            "cluster.placement[0].node is 2, must be at most 1 with --nodes=2");
  EXPECT_EQ(
      Summary("cluster { placement { role: \"actor\" node: 1 count: 2 } placement { role: "
              "\"actor\" node: 0 count: 2 } }",
              2),
      "cluster.placement[1].count is 2 of actor, but only 1 of its 3 replica(s) are left to place");
  EXPECT_EQ(Summary("cluster { gpus_per_node: 1 } actor { device: \"cuda:1\" }", 1),
            "actor-0 is to run on \"cuda:1\", but cluster.gpus_per_node is 1");
  EXPECT_EQ(Summary("", 0), "--nodes is 0, must be at least 1");
}

TEST(NodePlacementTest, TheTableListsEveryProcessByNode) {
  const auto placed = Placed("cluster { gpus_per_node: 1 }", 2);
  ASSERT_TRUE(placed.ok());
  const std::string table = NodePlacementTable(*placed, 2);
  EXPECT_THAT(table, HasSubstr("node  name              device  gpu  threads  model\n"
                               "   0  learner-0         cuda:0    0        1  m\n"));
  EXPECT_LT(table.find("actor-2"), table.find("scorer-guard-2-0")) << table;
}

}  // namespace
}  // namespace wideberth::launch
