// SPDX-License-Identifier: Apache-2.0
#include "launch/experiment.h"

#include <signal.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text_proto.h"
#include "launch/flags.h"
#include "launch/placement.h"
#include "launch/run.h"
#include "launch/supervisor.h"
#include "learner/run_folder.h"
#include "nlohmann/json.hpp"

namespace wideberth::launch {
namespace {

struct ExperimentFlags {
  std::vector<std::string> configs, overrides, arms;
  std::string out, evaluate_on;
  int32_t standardize = 0;
  bool redact_text = false;
};

const std::map<std::string, std::string>& Forms() {
  static const auto& forms = *new std::map<std::string, std::string>{
      {"boundary", "BOUNDARY"},     {"u_only", "U_ONLY"},     {"u_minus_t", "U_MINUS_T"},
      {"guard_only", "GUARD_ONLY"}, {"compound", "COMPOUND"}, {"prompt_aware", "PROMPT_AWARE"}};
  return forms;
}

absl::StatusOr<bool> ParseExperimentFlags(const std::vector<std::string>& arguments,
                                          ExperimentFlags* given) {
  FlagTable flags(
      "wideberth experiment", "--config=FILE --out=DIR --arm=NAME [--arm=NAME ...]",
      "Trains every arm from one configuration (the same base, prompts and seeds), then has the "
      "base and all arms answer the same prompts\n(wideberth evaluate) and writes the report. Each "
      "part has a folder in --out; the same command again does only what is left.\n"
      "Arms: boundary, u_only, u_minus_t, guard_only, prompt_aware and compound are the rewards of "
      "that form; NAME='FIELDS' changes\nanything else, e.g. weak='reward { form: BOUNDARY "
      "utility_weight: 0.3 }'.");
  flags.Add("config", &given->configs, "a protobuf text file; several are merged left to right");
  flags.Add("override", &given->overrides, "fields put over the files, for every part");
  flags.AddRequired("out", &given->out, "folder of the experiment, made if absent");
  flags.Add("arm", &given->arms, "what to train; may be repeated");
  flags.Add("evaluate_on", &given->evaluate_on,
            "prompt file that all arms answer in the end (default: the held-out prompts of the "
            "configuration)");
  flags.Add("standardize", &given->standardize,
            "N > 0: u is (score - mean) / deviation, cut to +-reward.utility_clip, by the base's "
            "answers to the first N training prompts");
  flags.Add("redact_text", &given->redact_text, kRedactTextHelp);
  WB_ASSIGN_OR_RETURN(const bool go, flags.Parse(arguments));
  if (!go) return false;
  if (given->redact_text) given->overrides.push_back(kRedactText);
  if (given->configs.empty())
    return absl::InvalidArgumentError("--config is not given (see wideberth experiment --help)");
  if (given->standardize < 0)
    return absl::InvalidArgumentError(
        absl::StrCat("--standardize is ", given->standardize, ", must be at least 0"));
  return true;
}

// "completed" where the file of a finished part says so.
bool Completed(const std::string& file) {
  const auto text = ReadFile(file);
  if (!text.ok()) return false;
  const auto json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  return json.is_object() && json.value("ended", std::string()) == "completed";
}

// One part as a child; signals are passed on to it.
absl::StatusOr<int> RunPart(const std::vector<std::string>& arguments) {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&set, signal);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  Supervisor supervisor({}, Clock::Real());
  supervisor.StopRestarting();
  ProcessSpec spec;
  spec.name = arguments[0];
  spec.argv = {absl::StrCat(OwnFolder(), "/wideberth")};
  spec.argv.insert(spec.argv.end(), arguments.begin(), arguments.end());
  spec.restart = false;
  WB_RETURN_IF_ERROR(supervisor.Start(spec));
  const timespec look = {0, 100'000'000};
  while (supervisor.Running(spec.name)) {
    if (const int signal = ::sigtimedwait(&set, nullptr, &look); signal > 0)
      supervisor.Signal(spec.name, signal);
    (void)supervisor.Poll();
  }
  const absl::optional<ProcessExit> exit = supervisor.last_exit(spec.name);
  if (!exit.has_value()) return 1;
  return exit->signal != 0 ? 128 + exit->signal : exit->code;
}

class Parts {
 public:
  explicit Parts(const ExperimentFlags& given) : given_(given) {}

  // 0, or the exit code of the part that failed.
  absl::StatusOr<int> Standardize() {
    const std::string folder = Join("standardize");
    WB_ASSIGN_OR_RETURN(const proto::RunConfig config,
                        LoadRunConfig(given_.configs, given_.overrides, /*look_at_models=*/false));
    if (config.evaluation().path_size() > 0) {
      return absl::InvalidArgumentError(
          "evaluation.path is set, where --standardize needs the training prompts: leave it out "
          "and "
          "give --evaluate_on");
    }
    WB_ASSIGN_OR_RETURN(
        const int code,
        Do("evaluate", folder, folder + "/evaluation.json",
           "the base's answers to training prompts",
           {absl::StrCat(
               "--override=name: \"standardize\" evaluation { num_prompts: ", given_.standardize,
               " allow_trained_prompts: true } prompts { num_held_out: 0 }")}));
    if (code != 0) return code;
    WB_ASSIGN_OR_RETURN(const ScoreMoments u,
                        MomentsOfScores(folder + "/answers.jsonl", config.reward().utility()));
    standard_ = absl::StrFormat(
        "--override=reward { utility_normalization: STANDARD utility_mu: %.17g utility_scale: "
        "%.17g }",
        u.mean, u.deviation);
    std::printf("u: %s of %d answers of the base, mean %.4g, deviation %.4g\n",
                config.reward().utility().c_str(), static_cast<int>(u.count), u.mean, u.deviation);
    return 0;
  }

  absl::StatusOr<int> Train(const ExperimentArm& arm) {
    return Do("run", Join(arm.name), Join(arm.name) + "/summary.json", "training " + arm.name,
              {absl::StrCat("--override=name: \"", arm.name, "\""),
               absl::StrCat("--override=", arm.changes)});
  }

  absl::StatusOr<int> Evaluate(const std::vector<ExperimentArm>& arms) {
    const std::string folder = Join("evaluation");
    std::vector<std::string> more;
    if (!given_.evaluate_on.empty()) {
      proto::RunConfig files;
      files.mutable_evaluation()->add_path(given_.evaluate_on);
      more.push_back(absl::StrCat("--override=", TextProto(files)));
    }
    for (const ExperimentArm& arm : arms)
      more.push_back(absl::StrCat("--arm=", arm.name, "=", Join(arm.name)));
    return Do("evaluate", folder, folder + "/evaluation.json", "evaluation", more);
  }

  std::string Join(const std::string& name) const { return absl::StrCat(given_.out, "/", name); }

 private:
  // `finished` says "completed" once the part is done; a folder with less is gone on with.
  absl::StatusOr<int> Do(const std::string& command, const std::string& folder,
                         const std::string& finished, const std::string& what,
                         const std::vector<std::string>& more) {
    if (Completed(finished)) {
      std::printf("== %s: done before (%s)\n", what.c_str(), folder.c_str());
      return 0;
    }
    const bool resume = learner::RunFolder::CheckHoldsRun(folder).ok();
    std::printf("== %s%s (%s)\n", resume ? "goes on with " : "", what.c_str(), folder.c_str());
    std::fflush(stdout);
    std::vector<std::string> arguments = {command};
    if (resume) {
      arguments.push_back(absl::StrCat("--resume=", folder));
    } else {
      for (const std::string& file : given_.configs)
        arguments.push_back(absl::StrCat("--config=", file));
      for (const std::string& text : given_.overrides)
        arguments.push_back(absl::StrCat("--override=", text));
      if (!standard_.empty()) arguments.push_back(standard_);
      arguments.push_back(absl::StrCat("--run_dir=", folder));
      arguments.insert(arguments.end(), more.begin(), more.end());
    }
    WB_ASSIGN_OR_RETURN(const int code, RunPart(arguments));
    if (code == 0 && !Completed(finished)) {
      return absl::CancelledError(
          absl::StrCat(what, " was stopped; the same command again goes on with it"));
    }
    return code;
  }

  const ExperimentFlags& given_;
  std::string standard_;  // --override, once u's mean and deviation are known.
};

}  // namespace

absl::StatusOr<std::vector<ExperimentArm>> ParseArms(const std::vector<std::string>& arms) {
  std::vector<ExperimentArm> parsed;
  std::set<std::string> seen = {"base", "evaluation", "standardize"};
  for (const std::string& text : arms) {
    const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits('=', 1));
    ExperimentArm arm{parts[0], parts.size() > 1 ? parts[1] : ""};
    if (parts.size() == 1) {
      const auto form = Forms().find(arm.name);
      if (form == Forms().end()) {
        return absl::InvalidArgumentError(absl::StrCat(
            "--arm is \"", text,
            "\", must be boundary, u_only, u_minus_t, guard_only, prompt_aware, compound or "
            "NAME='FIELDS'"));
      }
      arm.changes = absl::StrCat("reward { form: ", form->second, " }");
    }
    if (arm.name.empty() || arm.name.find('/') != std::string::npos ||
        !seen.insert(arm.name).second)
      return absl::InvalidArgumentError(absl::StrCat(
          "--arm is \"", text,
          "\", must have a name of its own without /, not base, evaluation or standardize"));
    parsed.push_back(std::move(arm));
  }
  if (parsed.empty())
    return absl::InvalidArgumentError("--arm is not given, expected at least one");
  return parsed;
}

absl::StatusOr<ScoreMoments> MomentsOfScores(const std::string& answers_jsonl,
                                             const std::string& scorer) {
  std::ifstream file(answers_jsonl);
  ScoreMoments moments;
  double squares = 0;
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || json.value("arm", std::string()) != "base") continue;
    for (const auto& answer : json.value("answers", nlohmann::json::array())) {
      const auto scores = answer.find("scores");
      if (scores == answer.end() || !scores->contains(scorer)) continue;
      const double score = (*scores)[scorer].get<double>();
      const double distance = score - moments.mean;
      moments.mean += distance / static_cast<double>(++moments.count);
      squares += distance * (score - moments.mean);
    }
  }
  if (moments.count > 1)
    moments.deviation = std::sqrt(squares / static_cast<double>(moments.count - 1));
  if (!(moments.deviation > 0)) {
    return absl::FailedPreconditionError(
        absl::StrCat(answers_jsonl, ": has ", moments.count, " scores of \"", scorer,
                     "\" for the base, expected at least two different ones"));
  }
  return moments;
}

absl::StatusOr<int> Experiment(const std::vector<std::string>& arguments) {
  ExperimentFlags given;
  WB_ASSIGN_OR_RETURN(const bool go, ParseExperimentFlags(arguments, &given));
  if (!go) return 0;
  WB_ASSIGN_OR_RETURN(const std::vector<ExperimentArm> arms, ParseArms(given.arms));
  for (const ExperimentArm& arm : arms) {
    std::vector<std::string> overrides = given.overrides;
    overrides.push_back(arm.changes);
    WB_RETURN_IF_ERROR(
        Annotate(LoadRunConfig(given.configs, overrides, /*look_at_models=*/true).status(),
                 absl::StrCat("arm ", arm.name)));
  }
  WB_RETURN_IF_ERROR(MakeDirectories(given.out));
  SetLogToStderr(false);
  Parts parts(given);
  if (given.standardize > 0) {
    WB_ASSIGN_OR_RETURN(const int code, parts.Standardize());
    if (code != 0) return code;
  }
  for (const ExperimentArm& arm : arms) {
    WB_ASSIGN_OR_RETURN(const int code, parts.Train(arm));
    if (code != 0) return code;
  }
  WB_ASSIGN_OR_RETURN(const int evaluated, parts.Evaluate(arms));
  if (evaluated != 0) return evaluated;
  return RunPart({"report", parts.Join("evaluation")});
}

}  // namespace wideberth::launch
