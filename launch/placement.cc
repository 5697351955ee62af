// SPDX-License-Identifier: Apache-2.0
#include "launch/placement.h"

#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/device.h"
#include "learner/run_folder.h"

namespace wideberth::launch {
namespace {

PlacedProcess Place(const std::string& role, const std::string& name,
                    const proto::ModelConfig& model, const LaunchInputs& inputs) {
  PlacedProcess placed;
  placed.role = role;
  placed.name = name;
  placed.model = model.path();
  placed.device = model.device();
  placed.num_threads = std::max(1, model.num_threads());
  ProcessSpec& spec = placed.spec;
  spec.name = name;
  spec.argv = {absl::StrCat(inputs.binary_dir, "/wideberth-", role)};
  spec.environment = {{"OMP_NUM_THREADS", absl::StrCat(placed.num_threads)},
                      {"OMP_WAIT_POLICY", "PASSIVE"},
                      {"GOMP_SPINCOUNT", "0"}};
  // Standard error is the log: what a process says while it dies is in it too.
  spec.output_path = LogFile(inputs.run_dir, name);
  return placed;
}

// "cuda:2" for rank 2 of a learner on "cuda" or "cuda:0".
std::string DeviceOfRank(const std::string& device, int rank) {
  const std::optional<int> first = GpuOf(device);
  return first ? absl::StrCat("cuda:", *first + rank) : device;
}

// Rank 0 tells it everything else, and it ends with rank 0: another start could not join again.
PlacedProcess PlaceRank(const proto::RunConfig& config, int rank, const LaunchInputs& inputs) {
  proto::ModelConfig model = config.policy().model();
  const std::string device = DeviceOfRank(model.device(), rank);
  const bool other_device = inputs.gpu_by_rank && device != model.device();
  if (other_device) model.set_device(device);
  PlacedProcess placed = Place("learner", absl::StrCat("learner-", rank), model, inputs);
  placed.spec.argv.push_back(absl::StrCat("--rank=", rank));
  if (other_device) placed.spec.argv.push_back(absl::StrCat("--device=", device));
  placed.spec.restart = false;
  return placed;
}

}  // namespace

std::vector<PlacedProcess> PlaceLocally(const proto::RunConfig& config,
                                        const LaunchInputs& inputs) {
  std::vector<PlacedProcess> processes;
  PlacedProcess learner = Place("learner", "learner-0", config.policy().model(), inputs);
  for (const std::string& file : inputs.config_files)
    learner.spec.argv.push_back(absl::StrCat("--config=", file));
  for (const std::string& text : inputs.overrides)
    learner.spec.argv.push_back(absl::StrCat("--override=", text));
  learner.spec.argv.push_back(absl::StrCat("--run_dir=", inputs.run_dir));
  learner.spec.argv.push_back(absl::StrCat("--address_file=", AddressFile(inputs.run_dir)));
  if (inputs.resume) learner.spec.argv.push_back("--resume");
  // What it ended with by itself would come again; a crash goes on from the journal.
  learner.spec.restart_after_exit = false;
  learner.spec.restart_arguments = {"--restarted"};
  processes.push_back(std::move(learner));
  if (!learner::HasMembers(config)) return processes;
  for (int rank = 1; rank < config.learner().world_size(); ++rank)
    processes.push_back(PlaceRank(config, rank, inputs));
  for (const proto::ScorerConfig& scorer : config.scorer()) {
    for (int replica = 0; replica < scorer.replicas(); ++replica) {
      PlacedProcess placed = Place("scorer", absl::StrCat("scorer-", scorer.name(), "-", replica),
                                   scorer.model(), inputs);
      placed.spec.argv.push_back(absl::StrCat("--scorer=", scorer.name()));
      placed.spec.argv.push_back(absl::StrCat("--index=", replica));
      processes.push_back(std::move(placed));
    }
  }
  proto::ModelConfig policy = config.policy().model();
  if (config.actor().has_device()) policy.set_device(config.actor().device());
  policy.set_num_threads(config.actor().num_threads());
  for (int replica = 0; replica < config.actor().replicas(); ++replica) {
    PlacedProcess placed = Place("actor", absl::StrCat("actor-", replica), policy, inputs);
    placed.spec.argv.push_back(absl::StrCat("--name=", placed.name));
    processes.push_back(std::move(placed));
  }
  if (inputs.gpu_by_rank) {
    std::set<std::pair<int, int>> taken;
    for (PlacedProcess& process : processes) {
      if (const std::optional<int> gpu = GpuOf(process.device); gpu)
        SeparateOnSharedGpu(0, *gpu, taken, process);
    }
  }
  return processes;
}

void SeparateOnSharedGpu(int node, int gpu, std::set<std::pair<int, int>>& taken,
                         PlacedProcess& process) {
  if (process.role == "scorer") return;
  if (!taken.emplace(node, gpu).second)
    process.spec.environment.emplace_back("NCCL_HOSTID", process.name);
}

std::string AddressFile(const std::string& run_dir) {
  return absl::StrCat(run_dir, "/learner.address");
}

std::string LogFile(const std::string& run_dir, const std::string& name) {
  return absl::StrCat(run_dir, "/logs/", name, ".log");
}

std::string OwnFolder() {
  char path[PATH_MAX] = {};
  if (::readlink("/proc/self/exe", path, sizeof(path) - 1) <= 0) return ".";
  const std::string program(path);
  return program.substr(0, program.rfind('/'));
}

std::string OwnCommand() {
  const char* const launcher = std::getenv("WIDEBERTH_LAUNCHER");
  return launcher != nullptr ? launcher : absl::StrCat(OwnFolder(), "/wideberth");
}

std::string PlacementTable(const std::vector<PlacedProcess>& processes) {
  size_t name_width = 4, device_width = 6;
  for (const PlacedProcess& process : processes) {
    name_width = std::max(name_width, process.name.size());
    device_width = std::max(device_width, process.device.size());
  }
  std::string table = absl::StrFormat("%-*s  %-9s  %-*s  %7s  %s\n", name_width, "name", "where",
                                      device_width, "device", "threads", "model");
  int threads = 0;
  for (const PlacedProcess& process : processes) {
    absl::StrAppendFormat(&table, "%-*s  %-9s  %-*s  %7d  %s\n", name_width, process.name,
                          "localhost", device_width, process.device, process.num_threads,
                          process.model);
    if (process.device == "cpu") threads += process.num_threads;
  }
  absl::StrAppendFormat(&table, "%d processes, %d CPU threads on %d cores\n", processes.size(),
                        threads, std::max(1u, std::thread::hardware_concurrency()));
  return table;
}

}  // namespace wideberth::launch
