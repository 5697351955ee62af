// SPDX-License-Identifier: Apache-2.0
#include "learner/replay.h"

#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "learner/group_training.h"
#include "learner/journal.h"
#include "learner/policy.h"
#include "learner/prompts.h"
#include "learner/rewards.h"
#include "model/catch_torch.h"

namespace wideberth::learner {
namespace {

absl::optional<double> LossOf(const std::string& metrics_json) {
  const auto json = nlohmann::json::parse(metrics_json, nullptr, false);
  if (!json.is_object() || !json.contains("loss") || !json["loss"].is_number())
    return absl::nullopt;
  return json["loss"].get<double>();
}

}  // namespace

absl::Status Replay(const proto::RunConfig& config, const std::string& run_dir,
                    const ReplayOptions& options,
                    const std::function<absl::Status(const ReplayedStep&)>& take) {
  WB_ASSIGN_OR_RETURN(const std::unique_ptr<Journal> journal,
                      Journal::Open(absl::StrCat(run_dir, "/run.db")));
  WB_ASSIGN_OR_RETURN(const std::vector<JournalStep> steps, journal->ReadSteps());
  WB_ASSIGN_OR_RETURN(const PromptSet prompts, PromptSet::Load(config.prompts(), config.seed()));
  WB_ASSIGN_OR_RETURN(const Policy policy, Policy::Load(config));
  RewardComposer composer(config.reward());
  for (const JournalStep& step : steps) {
    if (options.max_steps > 0 && step.step > options.max_steps) break;
    WB_ASSIGN_OR_RETURN(const auto accepted, GroupsOfStep(step.step, *journal, prompts));
    const absl::Time began = absl::Now();
    ReplayedStep replayed;
    WB_ASSIGN_OR_RETURN(replayed.report, TrainOnGroups(accepted, step.version - 1, &composer,
                                                       policy.trainer.get(), config.reward()));
    replayed.report.seconds.train = absl::ToDoubleSeconds(absl::Now() - began);
    replayed.report.step = step.step;
    replayed.report.version = step.version;
    proto::AdapterManifest manifest;
    WB_RETURN_IF_ERROR(model::CatchTorch(absl::StrCat("version ", step.version), [&] {
      policy.adapter->Pack(policy.model->dtype(), &manifest);
    }));
    replayed.report.fingerprint = manifest.fingerprint();
    replayed.journal_loss = LossOf(step.metrics_json);
    replayed.journal_fingerprint = step.fingerprint;
    WB_RETURN_IF_ERROR(take(replayed));
  }
  if (options.adapter_folder.empty()) return absl::OkStatus();
  return model::CatchTorch("saving the adapter", [&] {
    return policy.adapter->Save(options.adapter_folder, config.policy().model().path());
  });
}

}  // namespace wideberth::learner
