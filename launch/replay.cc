// SPDX-License-Identifier: Apache-2.0
#include "launch/replay.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "launch/flags.h"
#include "launch/json_lines.h"
#include "launch/run.h"
#include "learner/replay.h"
#include "model/runtime.h"

namespace wideberth::launch {
namespace {

using Json = nlohmann::ordered_json;

struct Verdict {
  int64_t num_steps = 0;
  int64_t num_same_adapter = 0;
  double largest_difference = 0;

  void Add(const learner::ReplayedStep& step) {
    ++num_steps;
    num_same_adapter += step.report.fingerprint == step.journal_fingerprint;
    if (step.journal_loss.has_value()) {
      largest_difference =
          std::max(largest_difference, std::abs(step.report.metrics.loss - *step.journal_loss));
    }
  }
};

Json StepObject(const learner::ReplayedStep& step) {
  const double loss = step.report.metrics.loss;
  Json json = {{"step", step.report.step}, {"loss", loss}};
  json["journal_loss"] = step.journal_loss.has_value() ? Json(*step.journal_loss) : Json(nullptr);
  json["difference"] =
      step.journal_loss.has_value() ? Json(loss - *step.journal_loss) : Json(nullptr);
  json["grad_norm"] = step.report.metrics.grad_norm;
  json["kl"] = step.report.metrics.kl;
  json["reward"] = step.report.metrics.reward_mean;
  json["fingerprint"] = step.report.fingerprint;
  json["same_adapter"] = step.report.fingerprint == step.journal_fingerprint;
  json["seconds"] = step.report.seconds.train;
  return json;
}

}  // namespace

absl::StatusOr<int> ReplayRun(const std::vector<std::string>& arguments) {
  std::string run_dir;
  std::vector<std::string> overrides;
  learner::ReplayOptions options;
  uint64_t steps = 0;
  double tolerance = 1e-9;
  FlagTable flags("wideberth replay", "--run=DIR [--override='field: value' ...]",
                  "Trains once more on the groups of a run's journal, without actors or scorers; "
                  "a JSON line a step, with the loss\n"
                  "and how far it is from the run's own. With --override it shows what other "
                  "settings learn from the same data.");
  flags.AddRequired("run", &run_dir, "folder of the run");
  flags.Add("override", &overrides,
            "fields put over the run's configuration, e.g. 'learner { beta: 0 }'");
  flags.Add("steps", &steps, "the first so many (default: all)");
  flags.Add("adapter", &options.adapter_folder, "save the last adapter in this folder");
  flags.Add("tolerance", &tolerance,
            "exit code 1 where a loss differs by more and nothing is overridden (default 1e-9)");
  WB_ASSIGN_OR_RETURN(const bool go, flags.Parse(arguments));
  if (!go) return 0;
  WB_ASSIGN_OR_RETURN(const proto::RunConfig config, ConfigOfRun(run_dir, overrides));
  if (config.learner().task() != proto::RL) {
    return absl::FailedPreconditionError(
        absl::StrCat(run_dir, ": is a run of task ", proto::Task_Name(config.learner().task()),
                     ", which has no journal to replay; run its configuration again instead"));
  }
  model::ConfigureRuntime(config.policy().model().num_threads());
  options.max_steps = static_cast<int64_t>(steps);
  Verdict verdict;
  WB_RETURN_IF_ERROR(
      learner::Replay(config, run_dir, options, [&](const learner::ReplayedStep& step) {
        verdict.Add(step);
        return PrintLine(StepObject(step));
      }));
  std::fprintf(stderr,
               "%lld steps replayed; losses differ by at most %.3g; the adapter is the run's, byte "
               "for byte, after %lld of them\n",
               static_cast<long long>(verdict.num_steps), verdict.largest_difference,
               static_cast<long long>(verdict.num_same_adapter));
  return overrides.empty() && verdict.largest_difference > tolerance ? 1 : 0;
}

}  // namespace wideberth::launch
