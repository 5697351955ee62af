// SPDX-License-Identifier: Apache-2.0
// The phases of a run on the device thread: evaluation, optimiser steps, and what is written at the
// end. Further members of Learner.
#include <algorithm>
#include <cmath>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "base/status.h"
#include "learner/evaluation.h"
#include "learner/group_training.h"
#include "learner/learner.h"
#include "model/catch_torch.h"

namespace wideberth::learner {
namespace {

double Since(absl::Time began) { return absl::ToDoubleSeconds(absl::Now() - began); }

// Every result states which form and settings it was made with.
std::vector<std::pair<std::string, std::string>> Settings(const proto::RunConfig& config) {
  const proto::RewardConfig& reward = config.reward();
  const proto::LearnerConfig& learner = config.learner();
  return {{"reward.form", proto::RewardConfig::Form_Name(reward.form())},
          {"reward.utility_normalization",
           proto::RewardConfig::Normalization_Name(reward.utility_normalization())},
          {"reward.boundary_coefficient", absl::StrCat(reward.boundary_coefficient())},
          {"reward.utility_weight", absl::StrCat(reward.utility_weight())},
          {"reward.tau", absl::StrCat(reward.tau())},
          {"reward.lambda", absl::StrCat(reward.lambda())},
          {"learner.loss_type", proto::LearnerConfig::LossType_Name(learner.loss_type())},
          {"learner.beta", absl::StrCat(learner.beta())},
          {"learner.learning_rate", absl::StrCat(learner.learning_rate())},
          {"learner.group_size", absl::StrCat(learner.group_size())},
          {"learner.groups_per_step", absl::StrCat(learner.groups_per_step())},
          {"learner.max_staleness", absl::StrCat(learner.max_staleness())},
          {"generation.temperature", absl::StrCat(config.generation().temperature())},
          {"generation.max_new_tokens", absl::StrCat(config.generation().max_new_tokens())}};
}

}  // namespace

absl::Status Learner::Evaluate(Phase phase) {
  const bool before = phase == Phase::kEvaluateBefore;
  SetState(before ? "evaluating" : "evaluating again");
  const int n = config_.evaluation().num_prompts();
  WB_ASSIGN_OR_RETURN(RestoredPhase restored, RestorePhase(phase));
  leases_->BeginEvaluation({.phase = phase,
                            .num_groups = n,
                            .num_completions = config_.evaluation().num_completions(),
                            .adapter_off = before,
                            .version = policy_version()},
                           std::move(restored));
  WB_ASSIGN_OR_RETURN(const std::vector<AcceptedGroup> groups, CollectProbed(phase, n));
  // A resumed run has seen scores already; before training there were none.
  const RewardComposer fresh(config_.reward());
  if (before) evaluation_.resize(n);
  for (int i = 0; i < n; ++i) {
    report::PromptPair& pair = evaluation_[i];
    pair.prompt_id = groups[i].prompt.id();
    pair.prompt = ShownText(groups[i].prompt, config_.redact_text());
    WB_ASSIGN_OR_RETURN((before ? pair.before : pair.after),
                        EvaluateGroup(groups[i], config_.reward(), before ? fresh : composer_,
                                      *model_, !before, config_.generation().temperature()));
  }
  EraseTokens(phase, groups);
  WB_LOG(INFO) << "evaluated " << n << " held-out prompts "
               << (before ? "with the policy before training" : "with the trained policy");
  return absl::OkStatus();
}

absl::Status Learner::Train() {
  SetState("collecting");
  step_began_ = absl::Now();
  const absl::Time began = step_began_;
  const uint64_t first = policy_version();
  if (first > 0 && first >= static_cast<uint64_t>(config_.learner().max_steps()))
    return absl::OkStatus();
  WB_ASSIGN_OR_RETURN(RestoredPhase restored, RestorePhase(Phase::kTrain));
  leases_->BeginTraining(first, std::move(restored));
  WB_RETURN_IF_ERROR(AwaitRanks());
  for (int64_t step = static_cast<int64_t>(first); step < config_.learner().max_steps(); ++step) {
    WB_ASSIGN_OR_RETURN(const std::vector<AcceptedGroup> groups,
                        CollectProbed(Phase::kTrain, config_.learner().groups_per_step()));
    WB_RETURN_IF_ERROR(TakeStep(groups));
    training_time_ = absl::Now() - began;
    SetState("collecting");
    MutexLock lock(mutex_);
    if (!stop_reason_.empty()) return absl::CancelledError(stop_reason_);
  }
  return absl::OkStatus();
}

absl::Status Learner::TakeStep(const std::vector<AcceptedGroup>& groups) {
  const double waited = Since(step_began_);
  SetState("training");
  const absl::Time train_began = absl::Now();
  whole_ = false;
  WB_ASSIGN_OR_RETURN(StepReport report, TrainOnGroups(groups, policy_version(), &composer_,
                                                       trainer_.get(), config_.reward()));
  CrashPoint("step.trained");
  report.seconds.wait = waited;
  report.seconds.train = Since(train_began);
  WB_RETURN_IF_ERROR(PublishStep(groups, &report, absl::Now()));
  whole_ = true;
  const int every = config_.learner().checkpoint_every();
  if (every > 0 && report.step % every == 0) WB_RETURN_IF_ERROR(WriteCheckpoint());
  skipped_in_a_row_ = report.metrics.skipped ? skipped_in_a_row_ + 1 : 0;
  if (skipped_in_a_row_ == 0) return absl::OkStatus();
  WB_LOG(WARNING) << "step " << report.step << " skipped: " << report.metrics.skipped_why;
  if (skipped_in_a_row_ < config_.learner().max_skipped_steps()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(
      "steps ", report.step - skipped_in_a_row_ + 1, " to ", report.step, " were skipped, ",
      report.metrics.skipped_why, "; learner.max_skipped_steps is ",
      config_.learner().max_skipped_steps(), ", the adapter before them is in the checkpoint"));
}

absl::Status Learner::PublishStep(const std::vector<AcceptedGroup>& groups, StepReport* report,
                                  absl::Time began) {
  uint64_t version;
  {
    MutexLock lock(mutex_);
    version = ++version_;
  }
  WB_ASSIGN_OR_RETURN(const auto blob,
                      model::CatchTorch(absl::StrCat("version ", version), [&] { return Pack(); }));
  fingerprint_ = blob->manifest.fingerprint();
  report->step = static_cast<int64_t>(version);
  report->version = version;
  report->fingerprint = fingerprint_;
  // Version 0 lies on the shelf while members still start and the base is evaluated.
  if (const auto latency = service_->SyncLatency(version - 1); version > 1 && latency.has_value())
    report->sync_seconds = absl::ToDoubleSeconds(*latency);
  report->leases = leases_->counters();
  report->missing = service_->missing_scores();
  const absl::Time now = clock_->Now();
  report->unix_time = absl::ToDoubleSeconds(now - absl::UnixEpoch());
  num_tokens_ += report->lengths.num_tokens + report->lengths.num_prompt_tokens;
  report->num_tokens = num_tokens_;
  report->seconds.publish = Since(began);
  report->seconds.total = Since(step_began_);
  step_began_ = absl::Now();
  JournalStep step{report->step, version, fingerprint_, StepJson(*report), {}};
  for (const AcceptedGroup& group : groups) step.group_ids.push_back(group.request.group_id());
  // Before anybody can sample with it: whoever comes back after a crash finds every version that
  // was seen outside.
  WB_RETURN_IF_ERROR(journal_->AppendStep(step, TrainedCompletions(report->metrics), now));
  CrashPoint("publish.journaled");
  WB_RETURN_IF_ERROR(Publish(blob));
  leases_->StepDone(version, step.group_ids);
  CrashPoint("publish.done");
  // Actors are at work again; what follows costs them nothing.
  AddToTotals(report->metrics, version);
  WB_RETURN_IF_ERROR(folder_->AppendMetrics(step.metrics_json));
  tensorboard_->Add(step.step, report::ScalarsOf(step.metrics_json), now);
  history_.Add(*report);
  WB_LOG(INFO) << StepLine(*report, config_.learner().max_steps());
  return absl::OkStatus();
}

void Learner::AddToTotals(const StepMetrics& metrics, uint64_t version) {
  trained_tokens_ += metrics.num_completion_tokens;
  worst_logprob_difference_ = std::max(worst_logprob_difference_, metrics.logprob_difference_max);
  if (version == 1) first_step_kl_ = metrics.kl;
}

report::Summary Learner::MakeSummary(const absl::Status& ended) const {
  report::Summary summary;
  summary.name = config_.name();
  summary.run_id = run_id_;
  summary.run_dir = folder_->path();
  summary.ended = ended.ok() ? "completed" : absl::IsCancelled(ended) ? "stopped" : "failed";
  summary.message = std::string(ended.message());
  {
    MutexLock lock(mutex_);
    summary.policy_version = version_;
    if (absl::IsCancelled(ended) && !stop_reason_.empty()) summary.message = stop_reason_;
  }
  summary.steps = static_cast<int64_t>(summary.policy_version);
  summary.max_steps = config_.learner().max_steps();
  summary.seconds = Since(run_began_);
  summary.training_seconds = absl::ToDoubleSeconds(training_time_);
  summary.adapter_path = folder_->Join("adapter");
  summary.adapter_fingerprint = fingerprint_;
  summary.base_model = config_.policy().model().path();
  summary.base_fingerprint = model_->fingerprint();
  summary.evaluation = evaluation_;
  summary.seed = config_.seed();
  summary.num_examples = config_.evaluation().num_examples();
  summary.settings = Settings(config_);
  const LeaseTable::Counters counters = leases_->counters();
  const auto total = [&](const char* name, double value) {
    summary.totals.emplace_back(name, value);
  };
  total("trained_tokens", static_cast<double>(trained_tokens_));
  total("first_step_kl", first_step_kl_);
  total("worst_logprob_difference", worst_logprob_difference_);
  total("groups_accepted", static_cast<double>(counters.accepted));
  total("groups_duplicate", static_cast<double>(counters.duplicate));
  total("groups_stale", static_cast<double>(counters.stale));
  total("groups_refused", static_cast<double>(counters.refused));
  total("groups_retried", static_cast<double>(counters.retried));
  total("groups_dropped", static_cast<double>(counters.dropped));
  total("leases_expired", static_cast<double>(counters.expired));
  total("leases_returned", static_cast<double>(counters.returned));
  const MissingScores missing = service_->missing_scores();
  for (int status = 1; status < proto::ScoreStatus_ARRAYSIZE; ++status) {
    summary.totals.emplace_back(
        absl::StrCat("missing_", proto::ScoreStatus_Name(static_cast<proto::ScoreStatus>(status))),
        static_cast<double>(missing[status]));
  }
  return summary;
}

absl::Status Learner::WriteResults(const absl::Status& ended) {
  report::Summary summary = MakeSummary(ended);
  journal_->NoteEvent(
      "end", "learner",
      absl::StrCat(summary.ended, summary.message.empty() ? "" : ": ", summary.message),
      clock_->Now());
  absl::Status first = model::CatchTorch("saving the adapter", [&] {
    return adapter_->Save(summary.adapter_path, summary.base_model);
  });
  // A summary does not promise an adapter that is not there.
  if (!first.ok()) summary.adapter_path.clear();
  const absl::Status others[] = {folder_->Write("summary.json", report::SummaryJson(summary)),
                                 folder_->Write("summary.txt", report::SummaryTable(summary)),
                                 journal_->Flush()};
  for (const absl::Status& status : others) {
    if (first.ok()) first = status;
  }
  return first;
}

void Learner::TellEverybody() {
  constexpr absl::Duration kSilence = absl::Seconds(5);
  // Heartbeats come every second or so; whoever stays silent is the supervisor's to end.
  const absl::Duration patience = std::min(absl::Seconds(config_.supervisor().drain_timeout() / 3),
                                           absl::Seconds(config_.learner().member_timeout()));
  const absl::Time deadline = absl::Now() + patience;
  const auto all_told = [&] {
    return members_->NotTold(kSilence).empty() && (ranks_ == nullptr || ranks_->AllTold());
  };
  while (!all_told() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(20));
  if (all_told()) return;
  std::vector<std::string> left;
  for (const std::string& id : members_->NotTold(kSilence)) left.push_back(members_->Describe(id));
  if (left.empty()) left.push_back("a further rank of the learner");
  WB_LOG(WARNING) << absl::StrJoin(left, "; ") << ": did not ask within "
                  << absl::FormatDuration(patience)
                  << " whether the run goes on, which has ended; leaving without them";
}

}  // namespace wideberth::learner
