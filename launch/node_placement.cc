// SPDX-License-Identifier: Apache-2.0
#include "launch/node_placement.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/device.h"
#include "base/status.h"

namespace wideberth::launch {
namespace {

constexpr int kUnplaced = -1;

// "actor", "learner" or "scorer:<name>", as placements spell it.
std::string RoleInPlacement(const PlacedProcess& process) {
  if (process.role != "scorer") return process.role;
  const size_t begin = process.name.find('-') + 1,
               end = process.name.rfind('-');  // scorer-<name>-<replica>
  return absl::StrCat("scorer:", process.name.substr(begin, end - begin));
}

absl::Status Apply(const proto::Placement& placement, int index, int num_nodes,
                   std::vector<NodeProcess>& processes) {
  if (placement.node() >= num_nodes) {
    return absl::InvalidArgumentError(absl::StrCat("cluster.placement[", index, "].node is ",
                                                   placement.node(), ", must be at most ",
                                                   num_nodes - 1, " with --nodes=", num_nodes));
  }
  int num_placed = 0, num_replicas = 0;
  for (NodeProcess& process : processes) {
    if (RoleInPlacement(process.process) != placement.role()) continue;
    ++num_replicas;
    if (process.node != kUnplaced || num_placed == placement.count()) continue;
    process.node = placement.node();
    ++num_placed;
  }
  if (num_placed == placement.count()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "cluster.placement[", index, "].count is ", placement.count(), " of ", placement.role(),
      ", but only ", num_placed, " of its ", num_replicas, " replica(s) are left to place"));
}

absl::Status GiveGpus(int gpus_per_node, int num_nodes, std::vector<NodeProcess>& processes) {
  if (gpus_per_node == 0) return absl::OkStatus();
  std::vector<int> next(num_nodes, 0);
  for (NodeProcess& process : processes) {
    const std::string& device = process.process.device;
    const std::optional<int> index = GpuOf(device);
    if (!index) continue;
    if (*index >= gpus_per_node) {
      return absl::InvalidArgumentError(absl::StrCat(process.process.name, " is to run on \"",
                                                     device, "\", but cluster.gpus_per_node is ",
                                                     gpus_per_node));
    }
    if (*index == 0) process.gpu = next[process.node]++ % gpus_per_node;
  }
  return absl::OkStatus();
}

void SeparateOnSharedGpus(std::vector<NodeProcess>& processes) {
  std::set<std::pair<int, int>> taken;
  for (NodeProcess& process : processes) {
    if (const std::optional<int> index = GpuOf(process.process.device); index)
      SeparateOnSharedGpu(process.node, process.gpu.value_or(*index), taken, process.process);
  }
}

}  // namespace

absl::StatusOr<std::vector<NodeProcess>> PlaceOnNodes(const proto::RunConfig& config,
                                                      const LaunchInputs& inputs, int num_nodes) {
  if (num_nodes < 1)
    return absl::InvalidArgumentError(
        absl::StrCat("--nodes is ", num_nodes, ", must be at least 1"));
  std::vector<NodeProcess> processes;
  LaunchInputs on_nodes = inputs;
  on_nodes.gpu_by_rank = false;  // Every process sees a GPU of its own as the first.
  for (PlacedProcess& process : PlaceLocally(config, on_nodes))
    processes.push_back({std::move(process), kUnplaced, std::nullopt});
  for (int i = 0; i < config.cluster().placement_size(); ++i) {
    WB_RETURN_IF_ERROR(Apply(config.cluster().placement(i), i, num_nodes, processes));
  }
  if (processes[0].node == kUnplaced) processes[0].node = 0;
  std::vector<int> load(num_nodes, 0);
  for (const NodeProcess& process : processes) {
    if (process.node != kUnplaced) ++load[process.node];
  }
  for (NodeProcess& process : processes) {
    if (process.node != kUnplaced) continue;
    process.node = static_cast<int>(std::min_element(load.begin(), load.end()) - load.begin());
    ++load[process.node];
  }
  WB_RETURN_IF_ERROR(GiveGpus(config.cluster().gpus_per_node(), num_nodes, processes));
  SeparateOnSharedGpus(processes);
  return processes;
}

std::string NodePlacementTable(const std::vector<NodeProcess>& processes, int num_nodes) {
  size_t name_width = 4, device_width = 6;
  for (const NodeProcess& placed : processes) {
    name_width = std::max(name_width, placed.process.name.size());
    device_width = std::max(device_width, placed.process.device.size());
  }
  std::string table = absl::StrFormat("node  %-*s  %-*s  gpu  threads  model\n", name_width, "name",
                                      device_width, "device");
  for (int node = 0; node < num_nodes; ++node) {
    for (const NodeProcess& placed : processes) {
      if (placed.node != node) continue;
      absl::StrAppendFormat(&table, "%4d  %-*s  %-*s  %3s  %7d  %s\n", node, name_width,
                            placed.process.name, device_width, placed.process.device,
                            placed.gpu ? absl::StrCat(*placed.gpu) : "-",
                            placed.process.num_threads, placed.process.model);
    }
  }
  return table;
}

}  // namespace wideberth::launch
