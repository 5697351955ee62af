// SPDX-License-Identifier: Apache-2.0
// Resolved configuration and a number of nodes -> which process runs where: the `cluster {
// placement }` part of the configuration, applied. Used by `wideberth placement`, from which
// launch/cluster.sh renders its job.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launch/placement.h"
#include "proto/config.pb.h"

namespace wideberth::launch {

struct NodeProcess {
  PlacedProcess process;
  int node = 0;  // 0 .. num_nodes - 1
  std::optional<int>
      gpu;  // Of the node's; set for a process on "cuda" or "cuda:0", which then sees no other.
};

// The processes of PlaceLocally, in its order, each with a node. Placements take replicas in order;
// the learner (rank 0) defaults to node 0, and every other unplaced process goes to the node with
// the fewest processes (the lowest number among equals). With `cluster.gpus_per_node`, the
// processes of a node that use a GPU get its GPUs in turn; one that names a GPU above 0 sees all of
// them. InvalidArgument, one sentence naming the placement, for a node that is not there, more
// replicas placed than exist, or a GPU beyond the node's.
absl::StatusOr<std::vector<NodeProcess>> PlaceOnNodes(const proto::RunConfig& config,
                                                      const LaunchInputs& inputs, int num_nodes);

// A table of the above, a line a process, by node.
std::string NodePlacementTable(const std::vector<NodeProcess>& processes, int num_nodes);

}  // namespace wideberth::launch
