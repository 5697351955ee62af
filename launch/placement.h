// SPDX-License-Identifier: Apache-2.0
// Resolved configuration -> the processes of a run on this machine: names, commands, devices,
// threads. Used by `wideberth run`.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "launch/supervisor.h"
#include "proto/config.pb.h"

namespace wideberth::launch {

struct PlacedProcess {
  std::string role;   // "learner", "scorer", "actor"
  std::string name;   // "scorer-safety-0"; "learner-1" and up are further ranks.
  std::string model;  // Folder.
  std::string device;
  int num_threads = 1;
  ProcessSpec spec;  // All but learner-0 lack their `--learner` yet.
};

// Where the command line of the roles comes from.
struct LaunchInputs {
  std::string binary_dir;  // Holds wideberth-learner and its siblings.
  std::vector<std::string> config_files;
  std::vector<std::string> overrides;
  std::string run_dir;
  bool resume = false;      // `run_dir` holds a run that goes on.
  bool gpu_by_rank = true;  // Learner rank K on a GPU takes the K-th after rank 0's.
};

// The learner first, its further ranks, then scorers, then actors. Every process gets one passive
// OpenMP thread unless the configuration says otherwise: spinning threads make a shared core many
// times slower. Unless PlaceOnNodes, which has gpu_by_rank off, gives the GPUs, those that share
// one are told apart for NCCL.
std::vector<PlacedProcess> PlaceLocally(const proto::RunConfig& config, const LaunchInputs& inputs);

// NCCL refuses a GPU that it meets twice on one host. Of the learners and actors that share one,
// all but the first therefore count as hosts of their own (NCCL_HOSTID) and reach the others
// through sockets. `taken` holds the node and GPU of those before; `process` is on `gpu` of `node`.
void SeparateOnSharedGpu(int node, int gpu, std::set<std::pair<int, int>>& taken,
                         PlacedProcess& process);

std::string AddressFile(const std::string& run_dir);
std::string LogFile(const std::string& run_dir, const std::string& name);

// The folder this program lies in, where the roles' programs lie too.
std::string OwnFolder();
// How to start the `wideberth` command: the program in OwnFolder, or, in a bundle, the script that
// finds libtorch and then starts it.
std::string OwnCommand();

// A table of the above, a line a process.
std::string PlacementTable(const std::vector<PlacedProcess>& processes);

}  // namespace wideberth::launch
