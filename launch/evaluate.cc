// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluate.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "base/text_proto.h"
#include "launch/flags.h"
#include "launch/run.h"
#include "proto/config.pb.h"

namespace wideberth::launch {
namespace {

struct EvaluateFlags {
  std::vector<std::string> configs, overrides, arms;
  std::string run_dir, resume;
  bool redact_text = false;
};

absl::StatusOr<bool> ParseEvaluateFlags(const std::vector<std::string>& arguments,
                                        EvaluateFlags* given) {
  FlagTable flags(
      "wideberth evaluate", "--config=FILE [--arm=NAME=FOLDER ...] [--run_dir=DIR]",
      "Compares policies: the base and every arm answer the same prompts with the same seeds, all "
      "scorers of the configuration score the\nanswers. Actors and scorers do the work, as in "
      "training. Leaves evaluation.json and answers.jsonl, which `wideberth report` reads.\n"
      "The prompts are the held-out ones of the configuration, or all of them where none are "
      "held out. Exit codes as of `wideberth run`. A guard's own table: `wideberth evaluate "
      "--guard "
      "--help`.");
  flags.Add("config", &given->configs,
            "a protobuf text file, of a training run for example; several are merged");
  flags.Add("override", &given->overrides, "fields put over the files");
  flags.Add("arm", &given->arms,
            "a policy to compare: NAME=FOLDER of a run or of a PEFT adapter; may be repeated");
  flags.Add("run_dir", &given->run_dir, "folder of the evaluation (default runs/<name>-<time>)");
  flags.Add("resume", &given->resume, "folder of an evaluation that was cut off: goes on with it");
  flags.Add("redact_text", &given->redact_text, kRedactTextHelp);
  return flags.Parse(arguments);
}

absl::StatusOr<std::string> ArmsAsText(const std::vector<std::string>& arms) {
  proto::RunConfig config;
  config.mutable_learner()->set_task(proto::EVALUATE);
  for (const std::string& text : arms) {
    const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits('=', 1));
    if (parts.size() != 2 || parts[0].empty() || parts[1].empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--arm is \"", text, "\", must be NAME=FOLDER"));
    }
    auto* arm = config.mutable_evaluation()->add_arm();
    arm->set_name(parts[0]);
    arm->set_adapter(parts[1]);
  }
  return TextProto(config);
}

}  // namespace

absl::StatusOr<int> Evaluate(const std::vector<std::string>& arguments) {
  EvaluateFlags given;
  WB_ASSIGN_OR_RETURN(const bool go, ParseEvaluateFlags(arguments, &given));
  if (!go) return 0;
  WB_ASSIGN_OR_RETURN(const std::string arms, ArmsAsText(given.arms));
  std::vector<std::string> run = {absl::StrCat("--override=", arms)};
  for (const std::string& file : given.configs) run.push_back(absl::StrCat("--config=", file));
  for (const std::string& text : given.overrides) run.push_back(absl::StrCat("--override=", text));
  if (given.redact_text) run.push_back("--redact_text");
  if (!given.run_dir.empty()) run.push_back(absl::StrCat("--run_dir=", given.run_dir));
  if (!given.resume.empty()) run.push_back(absl::StrCat("--resume=", given.resume));
  return Run(run);
}

}  // namespace wideberth::launch
