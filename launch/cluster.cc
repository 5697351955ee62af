// SPDX-License-Identifier: Apache-2.0
#include "launch/cluster.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "launch/flags.h"
#include "launch/node_placement.h"
#include "launch/run.h"
#include "launch/supervisor.h"
#include "learner/run_folder.h"

namespace wideberth::launch {
namespace {

// A line of the job script: `start NODE NAME CPUS WORD...`. The job, which knows its nodes, fills
// in the learner's address.
std::string StartLine(const NodeProcess& placed, const proto::RunConfig& config,
                      const LaunchInputs& inputs) {
  const PlacedProcess& process = placed.process;
  const proto::SupervisorConfig& supervisor = config.supervisor();
  const int cpus = std::max(config.cluster().cpus_per_process(), process.num_threads);
  // Rank 0, which everybody else is told of.
  const bool serves = process.name == "learner-0";
  std::vector<std::string> words = {"env"};
  for (const auto& [name, value] : process.spec.environment)
    words.push_back(absl::StrCat(name, "=", value));
  words.insert(words.end(), {OwnCommand(), "supervise", absl::StrCat("--name=", process.name),
                             absl::StrCat("--log=", process.spec.output_path),
                             absl::StrCat("--drain_timeout=", supervisor.drain_timeout()),
                             absl::StrCat("--stop_file=", inputs.run_dir,
                                          serves ? "/stop-learner" : "/stop-members")});
  if (placed.gpu) words.push_back(absl::StrCat("--gpu=", *placed.gpu));
  // Further learner ranks are not started again: the run ends without one.
  if (process.spec.restart) {
    words.insert(words.end(), {absl::StrCat("--max_restarts=", supervisor.max_restarts()),
                               absl::StrCat("--restart_backoff=", supervisor.restart_backoff())});
  } else {
    words.push_back("--once");
  }
  if (!serves) words.push_back(absl::StrCat("--after=", AddressFile(inputs.run_dir)));
  if (!process.spec.restart_after_exit) words.push_back("--restart_crashes_only");
  for (const std::string& argument : process.spec.restart_arguments)
    words.push_back(absl::StrCat("--restart_argument=", argument));
  words.push_back("--");
  words.insert(words.end(), process.spec.argv.begin(), process.spec.argv.end());
  if (serves) {
    words.push_back(absl::StrCat("--address=0.0.0.0:", config.cluster().learner_port()));
  }
  if (process.role == "scorer" || process.role == "actor") words.push_back("--listen=0.0.0.0:0");
  std::string line = absl::StrCat("start ", placed.node, " ", ShellWord(process.name), " ", cpus);
  for (const std::string& word : words) absl::StrAppend(&line, " ", ShellWord(word));
  if (!serves) absl::StrAppend(&line, " --learner=\"$learner\"");
  return line;
}

std::string JobLines(const proto::RunConfig& config, const std::vector<NodeProcess>& processes,
                     const LaunchInputs& inputs, int num_nodes) {
  const proto::ClusterConfig& cluster = config.cluster();
  std::vector<int> load(num_nodes, 0);
  int cpus = cluster.cpus_per_process();
  for (const NodeProcess& placed : processes) {
    ++load[placed.node];
    cpus = std::max(cpus, placed.process.num_threads);
  }
  std::string text;
  for (const absl::string_view line :
       absl::StrSplit(NodePlacementTable(processes, num_nodes), '\n', absl::SkipEmpty())) {
    absl::StrAppend(&text, "# ", line, "\n");
  }
  const std::vector<std::pair<absl::string_view, std::string>> variables = {
      {"run_name", config.name()},
      {"run_dir", inputs.run_dir},
      {"partition", cluster.partition()},
      {"time_limit", cluster.time_limit()},
      {"gpus_per_node", absl::StrCat(cluster.gpus_per_node())},
      {"tasks_per_node", absl::StrCat(*std::max_element(load.begin(), load.end()))},
      {"cpus_per_task", absl::StrCat(cpus)},
      {"learner_node", absl::StrCat(processes[0].node)},
      {"learner_port", absl::StrCat(cluster.learner_port())},
      {"drain_seconds", absl::StrFormat("%.0f", config.supervisor().drain_timeout())},
      {"setup", cluster.setup()},
  };
  for (const auto& [name, value] : variables)
    absl::StrAppend(&text, name, "=", ShellWord(value), "\n");
  for (const NodeProcess& placed : processes)
    absl::StrAppend(&text, StartLine(placed, config, inputs), "\n");
  return text;
}

struct SuperviseFlags {
  std::string name;
  std::string log;
  std::string after;
  double after_timeout = 600;
  std::string stop_file;
  bool restart_crashes_only = false;
  std::vector<std::string> restart_arguments;
  int32_t max_restarts = 5;
  double restart_backoff = 1.0;
  double drain_timeout = 45;
  absl::optional<int32_t> gpu;
  std::vector<std::string> command;
};

absl::StatusOr<bool> ParseSuperviseFlags(const std::vector<std::string>& arguments,
                                         SuperviseFlags* parsed) {
  FlagTable flags(
      "wideberth supervise", "--name=TEXT --log=FILE [flags] -- COMMAND [ARGUMENTS]",
      "Runs one command and restarts it in place when it fails. A signal, or --stop_file, is "
      "passed on once as SIGTERM;\n"
      "then nothing is restarted. Exit code: the command's; 128 + N where signal N ended it.");
  flags.AddRequired("name", &parsed->name, "name of the process in messages");
  flags.AddRequired("log", &parsed->log, "its output is appended to this file");
  flags.Add("after", &parsed->after, "start once this file is there");
  flags.Add("after_timeout", &parsed->after_timeout, "seconds to wait for it (default 600)");
  flags.Add(
      "stop_file", &parsed->stop_file,
      "end the command once this file is there: signals do not always come through a scheduler");
  flags.Add("restart_crashes_only", &parsed->restart_crashes_only,
            "restart only when a signal killed it, not when it ended by itself");
  flags.Add("restart_argument", &parsed->restart_arguments,
            "given to the command when it is started again; may be repeated");
  flags.Add("max_restarts", &parsed->max_restarts,
            "restarts before it ends with an error (default 5)");
  flags.Add("restart_backoff", &parsed->restart_backoff,
            "first delay in seconds; doubles up to 30 (default 1)");
  flags.Add("drain_timeout", &parsed->drain_timeout,
            "seconds from a signal to the end; then it is killed (default 45)");
  flags.Add("gpu", &parsed->gpu, "the only one of this node's GPUs it shall see, counted from 0");
  WB_ASSIGN_OR_RETURN(const bool go, flags.Parse(arguments, &parsed->command));
  if (!go) return false;
  if (parsed->command.empty())
    return absl::InvalidArgumentError("no command is given (see wideberth supervise --help)");
  return true;
}

// CUDA_VISIBLE_DEVICES for the `index`-th of the GPUs this process was given.
std::string VisibleGpu(int index) {
  const char* const given = std::getenv("CUDA_VISIBLE_DEVICES");
  const std::vector<std::string> gpus =
      absl::StrSplit(given == nullptr ? "" : given, ',', absl::SkipEmpty());
  return index < static_cast<int>(gpus.size()) ? gpus[index] : absl::StrCat(index);
}

// One command, its start after a file, its restarts, its end.
class SupervisedCommand final {
 public:
  explicit SupervisedCommand(const SuperviseFlags& flags)
      : flags_(flags),
        supervisor_({.max_restarts = flags.max_restarts,
                     .first_backoff = absl::Seconds(flags.restart_backoff)},
                    Clock::Real()) {
    ::sigemptyset(&signals_);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&signals_, signal);
    ::pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  }

  absl::StatusOr<int> Run() {
    WB_ASSIGN_OR_RETURN(const bool go, WaitForFile());
    if (!go) return 128 + SIGTERM;
    ProcessSpec spec;
    spec.name = flags_.name;
    spec.argv = flags_.command;
    if (flags_.gpu) spec.environment.emplace_back("CUDA_VISIBLE_DEVICES", VisibleGpu(*flags_.gpu));
    spec.output_path = flags_.log;
    spec.restart_after_exit = !flags_.restart_crashes_only;
    spec.restart_arguments = flags_.restart_arguments;
    WB_RETURN_IF_ERROR(supervisor_.Start(std::move(spec)));
    absl::Time kill_at = absl::InfiniteFuture();
    while (supervisor_.Running(flags_.name)) {
      if (AskedToStop() && kill_at == absl::InfiniteFuture()) {
        supervisor_.StopRestarting();
        supervisor_.SignalAll(SIGTERM);
        kill_at = absl::Now() + absl::Seconds(flags_.drain_timeout);
      }
      if (absl::Now() >= kill_at) supervisor_.SignalAll(SIGKILL);
      const absl::Status polled = supervisor_.Poll();
      if (!polled.ok()) return polled;
    }
    const ProcessExit exit = supervisor_.last_exit(flags_.name).value_or(ProcessExit{});
    return exit.signal != 0 ? 128 + exit.signal : exit.code;
  }

 private:
  // False: a signal came first.
  absl::StatusOr<bool> WaitForFile() {
    const absl::Time deadline = absl::Now() + absl::Seconds(flags_.after_timeout);
    while (!flags_.after.empty() && ::access(flags_.after.c_str(), R_OK) != 0) {
      if (AskedToStop()) return false;
      if (absl::Now() < deadline) continue;
      return absl::DeadlineExceededError(
          absl::StrCat(flags_.name, ": ", flags_.after, " is not there after ",
                       flags_.after_timeout, " s, so the learner does not serve; see its log"));
    }
    return true;
  }

  // Waits a moment for a signal.
  bool AskedToStop() const {
    const timespec wait = absl::ToTimespec(absl::Milliseconds(200));
    return ::sigtimedwait(&signals_, nullptr, &wait) > 0 ||
           (!flags_.stop_file.empty() && ::access(flags_.stop_file.c_str(), F_OK) == 0);
  }

  const SuperviseFlags& flags_;
  Supervisor supervisor_;
  sigset_t signals_;
};

}  // namespace

std::string ShellWord(absl::string_view text) {
  const auto plain = [](char c) {
    return absl::ascii_isalnum(c) || absl::StrContains("_-./:=,+@%", absl::string_view(&c, 1));
  };
  if (!text.empty() && std::all_of(text.begin(), text.end(), plain)) return std::string(text);
  std::string word;
  const bool control =
      std::any_of(text.begin(), text.end(), [](char c) { return absl::ascii_iscntrl(c); });
  for (const char c : text) {
    if (control && absl::ascii_iscntrl(c)) {
      absl::StrAppendFormat(&word, "\\%03o", static_cast<unsigned char>(c));
    } else if (control && (c == '\'' || c == '\\')) {
      absl::StrAppend(&word, "\\", std::string(1, c));
    } else if (c == '\'') {
      word += "'\\''";
    } else {
      word += c;
    }
  }
  return absl::StrCat(control ? "$'" : "'", word, "'");
}

absl::StatusOr<int> Placement(const std::vector<std::string>& arguments) {
  LaunchInputs inputs;
  inputs.binary_dir = OwnFolder();
  int32_t num_nodes = 1;
  std::string resume;
  bool redact_text = false;
  FlagTable flags("wideberth placement",
                  "--config=FILE [--config=FILE ...] [--override='field: value' ...] --nodes=N",
                  "Prints which process of a run goes to which of N nodes, as comments, variables "
                  "and commands of a shell; launch/cluster.sh\n"
                  "makes a Slurm job of it. Starts nothing, writes nothing.");
  flags.Add("config", &inputs.config_files,
            "a protobuf text file (configs/*.txtpb); several are merged left to right");
  flags.Add("override", &inputs.overrides,
            "fields put over the files, e.g. 'learner { max_steps: 2 }'");
  flags.Add("run_dir", &inputs.run_dir,
            "folder of the run, on a disk that all nodes share (default runs/<name>-<time>)");
  flags.Add("resume", &resume,
            "folder of a run that goes on, with its own configuration and --override on top");
  flags.Add("nodes", &num_nodes, "number of nodes (default 1)");
  flags.Add("redact_text", &redact_text, kRedactTextHelp);
  WB_ASSIGN_OR_RETURN(const bool go, flags.Parse(arguments));
  if (!go) return 0;
  if (redact_text) inputs.overrides.push_back(kRedactText);
  if (!resume.empty()) {
    WB_RETURN_IF_ERROR(learner::RunFolder::CheckHoldsRun(resume));
    inputs.resume = true;
    inputs.run_dir = resume;
    inputs.config_files.insert(inputs.config_files.begin(), absl::StrCat(resume, "/config.txtpb"));
  }
  if (inputs.config_files.empty())
    return absl::InvalidArgumentError("--config is not given (see wideberth placement --help)");
  WB_ASSIGN_OR_RETURN(proto::RunConfig config, LoadRunConfig(inputs.config_files, inputs.overrides,
                                                             /*look_at_models=*/false));
  if (inputs.run_dir.empty()) inputs.run_dir = config.run_dir();
  if (inputs.run_dir.empty()) inputs.run_dir = learner::DefaultRunDir(config, absl::Now());
  if (!inputs.resume) WB_RETURN_IF_ERROR(learner::RunFolder::CheckFree(inputs.run_dir));
  WB_ASSIGN_OR_RETURN(const std::vector<NodeProcess> processes,
                      PlaceOnNodes(config, inputs, num_nodes));
  std::fputs(JobLines(config, processes, inputs, num_nodes).c_str(), stdout);
  return 0;
}

absl::StatusOr<int> Supervise(const std::vector<std::string>& arguments) {
  SuperviseFlags flags;
  WB_ASSIGN_OR_RETURN(const bool go, ParseSuperviseFlags(arguments, &flags));
  if (!go) return 0;
  WB_RETURN_IF_ERROR(OpenLog(absl::StrCat("supervisor of ", flags.name), ""));
  const std::string folder = flags.log.substr(0, flags.log.find_last_of('/') + 1);
  if (!folder.empty()) WB_RETURN_IF_ERROR(MakeDirectories(folder));
  return SupervisedCommand(flags).Run();
}

}  // namespace wideberth::launch
