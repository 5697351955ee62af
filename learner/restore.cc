// SPDX-License-Identifier: Apache-2.0
// How a run is taken up again, and the checkpoints it is taken up from. Further members of Learner.
#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/redact.h"
#include "base/status.h"
#include "base/text_proto.h"
#include "learner/group_training.h"
#include "learner/learner.h"
#include "model/catch_torch.h"
#include "report/system_answers.h"

namespace wideberth::learner {

absl::Status Learner::ReopenFolder() {
  WB_RETURN_IF_ERROR(RunFolder::CheckHoldsRun(config_.run_dir()));
  // The lock first: nobody else writes to the journal while it is read.
  WB_ASSIGN_OR_RETURN(RunFolder folder, RunFolder::Reopen(config_.run_dir()));
  folder_ = std::make_unique<RunFolder>(std::move(folder));
  WB_ASSIGN_OR_RETURN(journal_, Journal::Open(folder_->Join("run.db")));
  WB_ASSIGN_OR_RETURN(run_id_, journal_->RunId());
  checkpoints_ = std::make_unique<CheckpointStore>(folder_->Join("checkpoints"),
                                                   config_.learner().keep_last());
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Learner::RestoreCheckpoint() {
  WB_ASSIGN_OR_RETURN(const absl::optional<CheckpointStore::Loaded> loaded,
                      checkpoints_->LoadNewest(
                          *model_, {config_.policy().lora(), config_.seed(), start_fingerprint_}));
  if (!loaded.has_value()) return 0;
  WB_RETURN_IF_ERROR(
      Annotate(trainer_->optimizer().Restore(loaded->optimizer, loaded->state.optimizer_updates()),
               loaded->path));
  WB_RETURN_IF_ERROR(Annotate(composer_.Restore(loaded->state.reward_statistics()), loaded->path));
  skipped_in_a_row_ = loaded->state.skipped_in_a_row();
  WB_RETURN_IF_ERROR(Annotate(trainer_->adapter().Overwrite(*loaded->adapter), loaded->path));
  checkpointed_ = loaded->state.step();
  WB_LOG(INFO) << "resumes from " << loaded->path;
  return static_cast<uint64_t>(loaded->state.step());
}

absl::Status Learner::CheckRedacted() const {
  if (!config_.redact_text()) return absl::OkStatus();
  for (const JournalGroup& group : stored_) {
    for (const proto::Completion& completion : group.request.completion()) {
      const std::string& text = completion.text();
      if (text.empty() || IsRedacted(text) || IsRedacted(text, report::kRefusalMark)) continue;
      return absl::FailedPreconditionError(
          absl::StrCat(folder_->path(),
                       ": the run began without redact_text and its files hold texts; resume "
                       "it without, or begin a new one"));
    }
  }
  return absl::OkStatus();
}

void Learner::EraseTokens(Phase phase, const std::vector<AcceptedGroup>& read) {
  if (!config_.redact_text()) return;
  std::vector<uint64_t> ids;
  for (const AcceptedGroup& group : read) ids.push_back(group.request.group_id());
  const absl::Status erased = journal_->EraseTokens(checkpointed_, phase, ids);
  if (!erased.ok()) WB_LOG(WARNING) << erased.message();
}

absl::Status Learner::Restore() {
  if (evaluates_arms()) {
    WB_ASSIGN_OR_RETURN(stored_, journal_->ReadGroups());
    WB_RETURN_IF_ERROR(CheckRedacted());
    WB_RETURN_IF_ERROR(folder_->Write("config.txtpb", TextProto(config_)));
    WB_ASSIGN_OR_RETURN(incarnation_, journal_->Resume());
    journal_->NoteEvent("resume", "learner", "evaluation goes on", clock_->Now());
    return absl::OkStatus();
  }
  WB_ASSIGN_OR_RETURN(const auto first, model::CatchTorch("version 0", [&] { return Pack(); }));
  service_->NoteVersion(0, first->manifest.fingerprint());
  WB_ASSIGN_OR_RETURN(stored_, journal_->ReadGroups());
  WB_RETURN_IF_ERROR(CheckRedacted());
  WB_ASSIGN_OR_RETURN(const std::vector<JournalStep> steps, journal_->ReadSteps());
  WB_ASSIGN_OR_RETURN(const uint64_t from, RestoreCheckpoint());
  if (from > steps.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat(folder_->path(), ": the newest checkpoint is of step ", from,
                     ", run.db knows only ", steps.size(), " steps"));
  }
  {
    MutexLock lock(mutex_);
    version_ = from;
  }
  if (from < steps.size()) {
    WB_LOG(INFO) << "trains steps " << from + 1 << " to " << steps.size()
                 << " again from the journal";
  }
  for (const JournalStep& step : steps) {
    if (step.version > from) WB_RETURN_IF_ERROR(CatchUp(step));
    if (step.version < from) service_->NoteVersion(step.version, step.fingerprint);
  }
  WB_ASSIGN_OR_RETURN(const std::vector<JournalStep> known, journal_->ReadSteps());
  std::vector<std::string> lines;
  for (const JournalStep& step : known) {
    lines.push_back(step.metrics_json);
    const auto json = nlohmann::json::parse(step.metrics_json, nullptr, false);
    if (!json.is_object()) continue;
    StepMetrics metrics;
    metrics.num_completion_tokens = json.value("completion_tokens", int64_t{0});
    num_tokens_ = json.value("num_tokens", num_tokens_);
    if (json.contains("kl") && json["kl"].is_number()) metrics.kl = json["kl"].get<double>();
    if (json.contains("logprob_difference_max") && json["logprob_difference_max"].is_number())
      metrics.logprob_difference_max = json["logprob_difference_max"].get<double>();
    AddToTotals(metrics, step.version);
  }
  // Only now is it sure that the run goes on, and with this configuration.
  WB_RETURN_IF_ERROR(folder_->Write("config.txtpb", TextProto(config_)));
  WB_ASSIGN_OR_RETURN(incarnation_, journal_->Resume());
  journal_->NoteEvent("resume", "learner", absl::StrCat("from step ", policy_version()),
                      clock_->Now());
  if (!known.empty()) last_step_ = known.back();
  return folder_->RewriteMetrics(lines);
}

absl::Status Learner::CatchUp(const JournalStep& step) {
  const absl::StatusOr<std::vector<AcceptedGroup>> groups =
      GroupsOfStep(step.step, *journal_, prompts_);
  if (absl::IsFailedPrecondition(groups.status())) {
    return Annotate(groups.status(),
                    absl::StrCat(folder_->path(), ": no later checkpoint than of step ",
                                 step.step - 1, " is whole"));
  }
  WB_RETURN_IF_ERROR(groups.status());
  WB_ASSIGN_OR_RETURN(StepReport report, TrainOnGroups(*groups, step.version - 1, &composer_,
                                                       trainer_.get(), config_.reward()));
  skipped_in_a_row_ = report.metrics.skipped ? skipped_in_a_row_ + 1 : 0;
  {
    MutexLock lock(mutex_);
    version_ = step.version;
  }
  WB_ASSIGN_OR_RETURN(const auto blob, model::CatchTorch(absl::StrCat("version ", step.version),
                                                         [&] { return Pack(); }));
  const std::string& fingerprint = blob->manifest.fingerprint();
  service_->NoteVersion(step.version, fingerprint);
  if (fingerprint == step.fingerprint) return absl::OkStatus();
  // Devices whose arithmetic is not deterministic: the run goes on with what was computed now.
  WB_LOG(WARNING) << "step " << step.step << " trained again gives adapter " << fingerprint
                  << ", the journal has " << step.fingerprint
                  << "; what was sampled with the former is not used";
  JournalStep again = step;
  again.fingerprint = fingerprint;
  return journal_->AppendStep(again, TrainedCompletions(report.metrics), clock_->Now());
}

absl::StatusOr<RestoredPhase> Learner::RestorePhase(Phase phase) {
  RestoredPhase restored;
  restored.incarnation = incarnation_;
  const uint64_t version = policy_version();
  for (const JournalGroup& stored : stored_) {
    if (stored.phase != phase) continue;
    const uint64_t id = stored.request.group_id();
    RestoredPhase::Group& group = restored.groups[id];
    // Attempts are in order; the last one decides.
    group.attempt = stored.attempt + 1;
    group.accepted = false;
    group.stored_leases.insert(stored.request.lease_id());
    if (stored.disposition == Disposition::kRetry) continue;
    if (stored.disposition == Disposition::kDrop || stored.step >= 0) {
      restored.done.insert(id);
      continue;
    }
    const bool fresh =
        phase != Phase::kTrain ||
        stored.request.policy_version() + config_.learner().max_staleness() >= version;
    // What the trained policy answered is measured by its tokens.
    const bool gone = stored.erased && phase == Phase::kEvaluateAfter;
    if (!fresh || gone || !service_->Published(stored.request, phase)) {
      // Another group takes a training group's place; an evaluation group is answered again.
      if (phase == Phase::kTrain) {
        restored.done.insert(id);
        WB_RETURN_IF_ERROR(journal_->ChangeDisposition(phase, id, Disposition::kDrop));
      }
      continue;
    }
    group.accepted = true;
    group.attempt = stored.attempt;
    pool_.Push(AcceptedFrom(stored, prompts_));
  }
  // Once only: later phases of this process are in the lease table.
  stored_.erase(std::remove_if(stored_.begin(), stored_.end(),
                               [&](const JournalGroup& stored) { return stored.phase == phase; }),
                stored_.end());
  return restored;
}

absl::Status Learner::WriteCheckpoint() {
  proto::TrainingState state;
  state.mutable_fingerprints()->set_base(model_->fingerprint());
  state.mutable_fingerprints()->set_adapter(fingerprint_);
  if (!start_fingerprint_.empty()) state.mutable_fingerprints()->set_start(start_fingerprint_);
  state.set_run_id(run_id_);
  state.set_seed(config_.seed());
  state.set_step(static_cast<int64_t>(policy_version()));
  state.set_optimizer_updates(trainer_->optimizer().num_steps());
  state.set_skipped_in_a_row(skipped_in_a_row_);
  state.set_reward_statistics(composer_.Serialize());
  for (proto::OpenGroup& group : leases_->OpenGroups()) *state.add_open_group() = std::move(group);
  state.set_next_group(leases_->next_group());
  WB_RETURN_IF_ERROR(checkpoints_->Write(state, *adapter_, trainer_->optimizer(), config_));
  checkpointed_ = state.step();
  WB_LOG(INFO) << "checkpoint of step " << state.step() << " written";
  EraseTokens(Phase::kTrain, {});
  return absl::OkStatus();
}

}  // namespace wideberth::learner
