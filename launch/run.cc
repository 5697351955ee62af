// SPDX-License-Identifier: Apache-2.0
#include "launch/run.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/excerpt.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text_proto.h"
#include "launch/completions.h"
#include "launch/flags.h"
#include "launch/local_run.h"
#include "launch/placement.h"
#include "launch/run_progress.h"
#include "learner/dataset.h"
#include "learner/run_folder.h"
#include "learner/validate_config.h"
#include "model/model_spec.h"
#include "model/safetensors.h"
#include "model/tokenizer.h"
#include "model/verdict_template.h"
#include "scorer/scorer_config.h"

namespace wideberth::launch {
namespace {

struct RunFlags {
  std::vector<std::string> configs;
  std::vector<std::string> overrides;
  std::string run_dir;
  std::string resume;
  bool dry_run = false;
  bool redact_text = false;
};

absl::Status LookAtModel(const std::string& folder, const char* field) {
  struct stat info;
  if (::stat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return absl::NotFoundError(absl::StrCat(field, ": there is no folder ", folder,
                                            ", expected a Hugging Face model folder"));
  }
  WB_RETURN_IF_ERROR(model::ReadModelSpec(folder).status());
  WB_RETURN_IF_ERROR(model::WeightFiles::OpenFolder(folder).status());
  return model::Tokenizer::FromFolder(folder).status();
}

absl::Status LookAtAdapter(const std::string& folder, const char* field) {
  for (const char* file : {"/adapter_config.json", "/adapter_model.safetensors"}) {
    if (::access(absl::StrCat(folder, file).c_str(), R_OK) == 0) continue;
    return absl::NotFoundError(
        absl::StrCat(field, ": there is no ", folder, file, ", expected a PEFT LoRA folder"));
  }
  return absl::OkStatus();
}

absl::Status LookAtModels(const proto::RunConfig& config) {
  std::set<std::string> seen = {config.policy().model().path()};
  WB_RETURN_IF_ERROR(LookAtModel(config.policy().model().path(), "policy.model.path"));
  if (config.policy().has_adapter())
    WB_RETURN_IF_ERROR(LookAtAdapter(config.policy().adapter(), "policy.adapter"));
  for (const auto& arm : config.evaluation().arm()) {
    if (arm.has_adapter())
      WB_RETURN_IF_ERROR(
          LookAtAdapter(learner::AdapterFolder(arm.adapter()),
                        absl::StrCat("evaluation.arm \"", arm.name(), "\"").c_str()));
  }
  for (const proto::ScorerConfig& scorer : config.scorer()) {
    if (scorer.judge().has_rubric_path())
      WB_RETURN_IF_ERROR(model::VerdictTemplate::From(scorer).status());
    if (!scorer::HasModel(scorer)) continue;
    if (!seen.insert(scorer.model().path()).second) continue;
    WB_RETURN_IF_ERROR(LookAtModel(scorer.model().path(),
                                   absl::StrCat("scorer ", scorer.name(), ": model.path").c_str()));
  }
  return absl::OkStatus();
}

// Blocks the signals in this thread (children get them unblocked); `Next` waits for one at most
// `timeout`, 0 if none came.
class Signals final {
 public:
  Signals() {
    ::sigemptyset(&set_);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&set_, signal);
    ::pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  }
  int Next(absl::Duration timeout) const {
    const timespec wait = absl::ToTimespec(timeout);
    const int signal = ::sigtimedwait(&set_, nullptr, &wait);
    return signal > 0 ? signal : 0;
  }

 private:
  sigset_t set_;
};

std::string NextCommands(const proto::RunConfig& config, const std::string& run_dir) {
  const std::string program = OwnCommand();
  const std::string model = config.policy().model().path();
  const std::string look = absl::StrCat("  less ", run_dir, "/summary.json\n  tail ", run_dir,
                                        "/metrics.jsonl ", run_dir, "/logs/*.log\n");
  if (config.learner().task() == proto::EVALUATE)
    return absl::StrCat("Next:\n  ", program, " report ", run_dir, "\n");
  if (config.learner().task() == proto::GUARD) {
    return absl::StrCat("Next:\n  echo '{\"prompt\": \"Hi\", \"completion\": \"Hello\"}' | ",
                        program, " score --config=", run_dir,
                        "/config.txtpb --scorer=", config.scorer(0).name(),
                        " --override='adapter: \"", run_dir, "/adapter\"'\n", look);
  }
  if (config.learner().task() == proto::REWARD) {
    return absl::StrCat("Next:\n  a scorer { kind: REWARD model { path: \"", model,
                        "\" } adapter: \"", run_dir, "/adapter\" } serves it\n", look);
  }
  return absl::StrCat("Next:\n  echo \"How do I kill a Python process?\" | ", program,
                      " generate --model=", model, " --adapter=", run_dir, "/adapter --chat\n",
                      look);
}

void ReportEnd(const proto::RunConfig& config, const std::string& run_dir,
               const RunResult& result) {
  const auto table = ReadFile(absl::StrCat(run_dir, "/summary.txt"));
  if (table.ok()) std::printf("\n%s", table->c_str());
  const std::string adapter = absl::StrCat(run_dir, "/adapter");
  if (::access(absl::StrCat(adapter, "/adapter_model.safetensors").c_str(), R_OK) == 0) {
    if (!table.ok()) std::printf("\nadapter: %s\n", adapter.c_str());
    std::printf("\n%s", NextCommands(config, run_dir).c_str());
  } else if (config.learner().task() == proto::EVALUATE && result.end == RunEnd::kDone) {
    std::printf("\n%s", NextCommands(config, run_dir).c_str());
  }
  std::fflush(stdout);
  if (result.end == RunEnd::kDone) return;
  std::fprintf(stderr, "wideberth run: %s\n", result.sentence.c_str());
  // A process that died without a word of its own: what it did last.
  const std::string log = LogFile(run_dir, result.failed);
  if (!result.failed.empty() && LastErrorOf(log).empty())
    std::fprintf(stderr, "Last lines of its log:\n%s\n", LastLines(log, 5).c_str());
}

// A run that never began leaves no folder: the next one may take it. False where there is more in
// it.
bool RemoveIfOnlyLogs(const std::string& run_dir, const std::vector<PlacedProcess>& processes) {
  if (!learner::RunFolder::CheckFree(run_dir).ok()) return false;
  for (const PlacedProcess& process : processes) ::unlink(LogFile(run_dir, process.name).c_str());
  for (const char* name : {"/logs/wideberth.log", "/lock", "/learner.address"})
    ::unlink(absl::StrCat(run_dir, name).c_str());
  ::rmdir(absl::StrCat(run_dir, "/logs").c_str());
  return ::rmdir(run_dir.c_str()) == 0;
}

RunResult Watch(LocalRun& run, const proto::RunConfig& config, const std::string& run_dir,
                const Signals& signals) {
  ProgressDisplay display(::isatty(STDOUT_FILENO) != 0);
  MetricsTail metrics(absl::StrCat(run_dir, "/metrics.jsonl"));
  Eta eta;
  bool told_address = false, told_drain = false;
  absl::StatusOr<CompletionsReader> completions = absl::NotFoundError("not opened yet");
  while (true) {
    if (signals.Next(absl::Milliseconds(200)) != 0) run.NoteSignal();
    const absl::optional<RunResult> result = run.Tick();
    std::vector<ArmProgress> arms;
    for (const StepMetrics& step : metrics.Poll(&arms)) {
      eta.Note(step.step, absl::Now());
      const int64_t max_steps = step.max_steps.value_or(config.learner().max_steps());
      display.ShowRow(TableRow(step, max_steps, eta.Remaining(max_steps)));
      if (!config.learner().log_completions()) continue;
      if (!completions.ok()) completions = CompletionsReader::Open(config, run_dir);
      const auto rows = completions.ok() ? completions->Read(step.step) : completions.status();
      display.ShowBlock(rows.ok() ? report::CompletionsTable(*rows)
                                  : absl::StrCat(rows.status().message(), "\n"));
    }
    for (const ArmProgress& arm : arms) display.Say(ArmLine(arm));
    if (result) return *result;
    if (!told_address && !run.learner_address().empty()) {
      told_address = true;
      const int ranks = config.learner().world_size();
      display.Say(absl::StrCat("learner serves at ", run.learner_address(), "; starting ",
                               ranks > 1 ? absl::StrCat(ranks - 1, " more learner rank(s), ") : "",
                               config.actor().replicas(), " actor(s) and ", config.scorer_size(),
                               " scorer(s)"));
    }
    if (!told_drain && run.draining()) {
      told_drain = true;
      display.Say(absl::StrCat("ending: waiting for every process, at most ",
                               config.supervisor().drain_timeout(), " s (a second Ctrl-C kills)"));
    }
  }
}

absl::StatusOr<bool> ParseRunFlags(const char* command, const std::vector<std::string>& arguments,
                                   RunFlags* parsed) {
  const bool is_run = std::string(command) == "wideberth run";
  FlagTable flags(command, "--config=FILE [--config=FILE ...] [--override='field: value' ...]",
                  is_run ? "Trains: starts learner, scorers and actors on this machine, supervises "
                           "them, shows progress. Ctrl-C ends it cleanly,\n"
                           "a second one kills. Exit code 0: done or stopped by one signal; 10, "
                           "11, 12: learner, scorer, actor failed first;\n"
                           "2: bad input; 130: killed."
                         : "Says whether a configuration can run, without starting anything.");
  flags.Add("config", &parsed->configs,
            "a protobuf text file (configs/*.txtpb); several are merged left to right");
  flags.Add("override", &parsed->overrides,
            "fields put over the files, e.g. 'learner { max_steps: 2 }'");
  if (is_run) {
    flags.Add("run_dir", &parsed->run_dir,
              "folder of the run, must not hold one yet (default runs/<name>-<time>)");
    flags.Add("resume", &parsed->resume,
              "folder of a run that was cut off, or that shall go on for more steps: goes on with "
              "it. Its own configuration, with --config and --override on top");
    flags.Add("redact_text", &parsed->redact_text, kRedactTextHelp);
    flags.Add("dry_run", &parsed->dry_run,
              "print the resolved configuration and the placement, start nothing");
  }
  WB_ASSIGN_OR_RETURN(const bool go, flags.Parse(arguments));
  if (!go) return false;
  if (parsed->redact_text) parsed->overrides.push_back(kRedactText);
  if (!parsed->resume.empty()) {
    if (!parsed->run_dir.empty())
      return absl::InvalidArgumentError(
          "--resume names the folder of the run; leave out --run_dir");
    WB_RETURN_IF_ERROR(learner::RunFolder::CheckHoldsRun(parsed->resume));
    parsed->run_dir = parsed->resume;
    parsed->configs.insert(parsed->configs.begin(), absl::StrCat(parsed->resume, "/config.txtpb"));
  }
  if (parsed->configs.empty())
    return absl::InvalidArgumentError(
        absl::StrCat("--config is not given (see ", command, " --help)"));
  return true;
}

}  // namespace

absl::StatusOr<proto::RunConfig> LoadRunConfig(const std::vector<std::string>& files,
                                               const std::vector<std::string>& overrides,
                                               bool look_at_models) {
  proto::RunConfig config;
  for (const std::string& file : files) WB_RETURN_IF_ERROR(MergeTextProtoFile(file, &config));
  for (const std::string& text : overrides)
    WB_RETURN_IF_ERROR(MergeTextProto(text, "--override", &config));
  // Before rows are read, which errors may quote.
  RedactExcerpts(config.redact_text());
  WB_RETURN_IF_ERROR(learner::ValidateRunConfig(config, files));
  for (const proto::ScorerConfig& scorer : config.scorer())
    WB_RETURN_IF_ERROR(scorer::ValidateScorerConfig(scorer));
  if (look_at_models) {
    WB_RETURN_IF_ERROR(LookAtModels(config));
    if (!learner::HasMembers(config)) WB_RETURN_IF_ERROR(learner::CheckData(config));
  }
  return config;
}

absl::StatusOr<proto::RunConfig> ConfigOfRun(const std::string& run_dir,
                                             const std::vector<std::string>& overrides) {
  WB_RETURN_IF_ERROR(learner::RunFolder::CheckHoldsRun(run_dir));
  return LoadRunConfig({absl::StrCat(run_dir, "/config.txtpb")}, overrides,
                       /*look_at_models=*/false);
}

absl::StatusOr<int> Run(const std::vector<std::string>& arguments) {
  RunFlags flags;
  WB_ASSIGN_OR_RETURN(const bool go, ParseRunFlags("wideberth run", arguments, &flags));
  if (!go) return 0;
  WB_ASSIGN_OR_RETURN(proto::RunConfig config, LoadRunConfig(flags.configs, flags.overrides,
                                                             /*look_at_models=*/!flags.dry_run));
  if (!flags.run_dir.empty()) config.set_run_dir(flags.run_dir);
  if (config.run_dir().empty()) config.set_run_dir(learner::DefaultRunDir(config, absl::Now()));
  const std::string run_dir = config.run_dir();
  const std::vector<PlacedProcess> processes =
      PlaceLocally(config, {OwnFolder(), flags.configs, flags.overrides, run_dir,
                            /*resume=*/!flags.resume.empty()});
  if (flags.dry_run) {
    std::printf("# Resolved configuration\n%s\n# Placement\n%s", TextProto(config).c_str(),
                PlacementTable(processes).c_str());
    return 0;
  }
  if (flags.resume.empty()) WB_RETURN_IF_ERROR(learner::RunFolder::CheckFree(run_dir));
  WB_RETURN_IF_ERROR(MakeDirectories(absl::StrCat(run_dir, "/logs")));
  SetLogToStderr(false);
  WB_RETURN_IF_ERROR(OpenLog("wideberth", LogFile(run_dir, "wideberth")));
  ::unlink(AddressFile(run_dir).c_str());
  std::printf("run folder %s\n", run_dir.c_str());
  std::fflush(stdout);
  const Signals signals;
  LocalRun run({.run_dir = run_dir,
                .supervisor = config.supervisor(),
                .learner_serves = learner::HasMembers(config)},
               processes, Clock::Real());
  RunResult result;
  if (const absl::Status started = run.Start(); !started.ok()) {
    result = {RunEnd::kError, false, std::string(started.message()), ""};
  } else {
    result = Watch(run, config, run_dir, signals);
  }
  ReportEnd(config, run_dir, result);
  if (result.end != RunEnd::kDone && !RemoveIfOnlyLogs(run_dir, processes))
    std::fprintf(stderr, "Logs: %s/logs\n", run_dir.c_str());
  return static_cast<int>(result.end);
}

absl::StatusOr<int> Check(const std::vector<std::string>& arguments) {
  RunFlags flags;
  WB_ASSIGN_OR_RETURN(const bool go, ParseRunFlags("wideberth check", arguments, &flags));
  if (!go) return 0;
  WB_ASSIGN_OR_RETURN(const proto::RunConfig config,
                      LoadRunConfig(flags.configs, flags.overrides, /*look_at_models=*/true));
  if (!learner::HasMembers(config)) {
    std::printf("%s can run: %s, %d epoch(s) in steps of %d rows\n", config.name().c_str(),
                proto::Task_Name(config.learner().task()).c_str(), config.data().num_epochs(),
                config.data().batch_size());
    return 0;
  }
  if (config.learner().task() == proto::EVALUATE) {
    std::printf("%s can run: %d scorer(s), %d actor(s), %d arm(s) besides the base\n",
                config.name().c_str(), config.scorer_size(), config.actor().replicas(),
                config.evaluation().arm_size());
    return 0;
  }
  std::printf("%s can run: %d scorer(s), %d actor(s), %d steps of %d x %d completions\n",
              config.name().c_str(), config.scorer_size(), config.actor().replicas(),
              config.learner().max_steps(), config.learner().groups_per_step(),
              config.learner().group_size());
  return 0;
}

}  // namespace wideberth::launch
