// SPDX-License-Identifier: Apache-2.0
// The `wideberth` command: a table of subcommands. `run` is one thread that supervises child
// processes (local_run.h); the others are one-off looks that read lines and print JSON lines.
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "launch/cluster.h"
#include "launch/completions.h"
#include "launch/data.h"
#include "launch/evaluate.h"
#include "launch/experiment.h"
#include "launch/flags.h"
#include "launch/guard_table.h"
#include "launch/looks.h"
#include "launch/loss_look.h"
#include "launch/merge.h"
#include "launch/mine.h"
#include "launch/replay.h"
#include "launch/report_look.h"
#include "launch/run.h"
#include "launch/toyworld.h"

namespace wideberth::launch {
namespace {

using Arguments = std::vector<std::string>;

struct Subcommand {
  const char* name;
  const char* about;
  std::function<absl::StatusOr<int>(const Arguments&)> run;
};

std::function<absl::StatusOr<int>(const Arguments&)> Look(absl::Status (*look)(const Arguments&)) {
  return [look](const Arguments& arguments) -> absl::StatusOr<int> {
    const absl::Status status = look(arguments);
    if (!status.ok()) return status;
    return 0;
  };
}

absl::StatusOr<int> EvaluateOrGuard(const Arguments& arguments) {
  const bool guard = std::any_of(
      arguments.begin(), arguments.end(),
      [](const std::string& argument) { return argument == "--guard" || argument == "-guard"; });
  return guard ? Look(GuardTable)(arguments) : Evaluate(arguments);
}

const std::vector<Subcommand>& Subcommands() {
  static const auto& subcommands = *new std::vector<Subcommand>{
      {"run", "train: learner, scorers and actors on this machine", Run},
      {"evaluate",
       "compare the base and trained adapters on the same prompts; --guard: a guard's own table",
       EvaluateOrGuard},
      {"experiment", "train several arms from one configuration and compare them", Experiment},
      {"check", "say whether a configuration can run", Check},
      {"placement", "which process of a run goes to which node, as launch/cluster.sh needs it",
       Placement},
      {"supervise", "one command, restarted in place; what a cluster's nodes run", Supervise},
      {"completions", "what a step of a run was trained on, with rewards and advantages",
       ShowCompletions},
      {"replay", "a run's training once more from its journal", ReplayRun},
      {"mine", "a run's answers and their labels -> preference pairs for DPO", Look(Mine)},
      {"data", "files of prompts and a recipe -> training and test prompts without duplicates",
       Look(Data)},
      {"toyworld", "a small world with exact ground truth: prompts, training data, a model",
       Look(ToyWorld)},
      {"merge", "a model and a trained adapter -> a model folder", Look(Merge)},
      {"report", "evaluations and guards -> a page, a summary and the claim in words",
       Look(Report)},
      {"tokenize", "text -> token ids", Look(Tokenize)},
      {"generate", "prompts -> completions with their log-probs", Look(Generate)},
      {"logprobs", "prompt and completion ids -> log-probs", Look(LogProbs)},
      {"loss", "log-probs and rewards -> advantages, loss and its gradient", Look(Loss)},
      {"score", "prompt and completion -> a scorer's typed result", Look(Score)},
  };
  return subcommands;
}

std::string Help() {
  std::string text =
      "Usage: wideberth SUBCOMMAND [flags]      (wideberth SUBCOMMAND --help tells its flags)\n\n";
  for (const Subcommand& subcommand : Subcommands()) {
    absl::StrAppend(&text, "  ", subcommand.name,
                    std::string(13 - std::string(subcommand.name).size(), ' '), subcommand.about,
                    "\n");
  }
  return text;
}

int Main(const Arguments& arguments) {
  if (arguments.empty()) {
    std::fputs(Help().c_str(), stderr);
    return 2;
  }
  const std::string& name = arguments[0];
  if (name == "--help" || name == "-h" || name == "help") {
    std::fputs(Help().c_str(), stdout);
    return 0;
  }
  if (name == "--version") {
    std::printf("wideberth %s\n", WIDEBERTH_VERSION);
    return 0;
  }
  std::vector<std::string> names;
  for (const Subcommand& subcommand : Subcommands()) {
    names.push_back(subcommand.name);
    if (name != subcommand.name) continue;
    const absl::StatusOr<int> code =
        subcommand.run(Arguments(arguments.begin() + 1, arguments.end()));
    if (code.ok()) return *code;
    std::fprintf(stderr, "wideberth %s: %s\n", subcommand.name,
                 std::string(code.status().message()).c_str());
    const bool bad_input =
        absl::IsInvalidArgument(code.status()) || absl::IsNotFound(code.status()) ||
        absl::IsAlreadyExists(code.status()) || absl::IsFailedPrecondition(code.status());
    return bad_input ? 2 : 1;
  }
  const std::string nearest = NearestName(name, names);
  std::fprintf(stderr, "wideberth: no subcommand \"%s\"%s (see wideberth --help)\n", name.c_str(),
               nearest.empty() ? "" : absl::StrCat("; the nearest is \"", nearest, "\"").c_str());
  return 2;
}

}  // namespace
}  // namespace wideberth::launch

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);  // A closed pipe is an error of write, told in a sentence.
  return wideberth::launch::Main(std::vector<std::string>(argv + 1, argv + argc));
}
