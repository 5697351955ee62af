// SPDX-License-Identifier: Apache-2.0
#include "learner/supervised_run.h"

#include <ATen/ATen.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/crash_point.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text_proto.h"
#include "learner/reward_model.h"
#include "learner/supervised_task.h"
#include "learner/validate_config.h"
#include "model/catch_torch.h"
#include "report/json_text.h"

namespace wideberth::learner {
namespace {

using nlohmann::ordered_json;

std::string Ended(const absl::Status& ended) {
  return ended.ok() ? "completed" : absl::IsCancelled(ended) ? "stopped" : "failed";
}

std::string Describe(const std::map<std::string, double>& metrics) {
  std::string text;
  for (const auto& [name, value] : metrics)
    absl::StrAppend(&text, "  ", name, " ", absl::StrFormat("%.4f", value));
  return text;
}

// Lines of steps that a checkpoint does not know yet come again.
std::vector<std::string> LinesUpTo(const std::string& text, int64_t step, int64_t* num_tokens,
                                   int64_t* num_skipped) {
  std::vector<std::string> lines;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const ordered_json json = ordered_json::parse(line.begin(), line.end(), nullptr, false);
    if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer() ||
        json["step"].get<int64_t>() > step)
      continue;
    lines.emplace_back(line);
    *num_tokens = json.value("num_tokens", *num_tokens);
    *num_skipped += json.contains("skipped");
  }
  return lines;
}

}  // namespace

SupervisedRun::SupervisedRun(const proto::RunConfig& config, const Clock* clock)
    : config_(config),
      clock_(clock),
      run_id_(absl::StrCat(config.name(), "-",
                           absl::FormatTime("%Y%m%dT%H%M%SZ", clock->Now(), absl::UTCTimeZone()),
                           "-", ::getpid())) {}

absl::StatusOr<std::unique_ptr<SupervisedRun>> SupervisedRun::Create(const proto::RunConfig& config,
                                                                     const Clock* clock,
                                                                     bool resume) {
  WB_RETURN_IF_ERROR(ValidateRunConfig(config));
  WB_RETURN_IF_ERROR(resume ? RunFolder::CheckHoldsRun(config.run_dir())
                            : RunFolder::CheckFree(config.run_dir()));
  std::unique_ptr<SupervisedRun> run(new SupervisedRun(config, clock));
  run->resumed_ = resume;
  WB_RETURN_IF_ERROR(run->LoadEverything());
  WB_RETURN_IF_ERROR(run->OpenFolder(resume));
  if (resume) WB_RETURN_IF_ERROR(run->Restore());
  return run;
}

absl::Status SupervisedRun::LoadEverything() {
  WB_ASSIGN_OR_RETURN(model_, model::CausalLm::Load(config_.policy().model()));
  WB_ASSIGN_OR_RETURN(StartingPoint start,
                      MakeStartingPoint(*model_, config_.policy(), config_.seed()));
  adapter_ = std::move(start.adapter);
  start_fingerprint_ = std::move(start.fingerprint);
  const bool headless = !adapter_->score_head().defined();
  if (config_.learner().task() == proto::REWARD && headless) {
    WB_RETURN_IF_ERROR(AddScoreHead(*model_, config_.seed(), adapter_.get()));
  } else if (config_.learner().task() != proto::REWARD && !headless) {
    return HasAScoreHead(config_);
  }
  WB_ASSIGN_OR_RETURN(task_, MakeSupervisedTask(config_, *model_, start.reference.get()));
  const int64_t num_rows = task_->num_rows(Split::kTrain);
  order_ = std::make_unique<RowOrder>(num_rows, config_.data(), config_.seed());
  num_steps_ = order_->steps_per_epoch() * config_.data().num_epochs();
  if (config_.learner().has_max_steps())
    num_steps_ = std::min<int64_t>(num_steps_, config_.learner().max_steps());
  WB_ASSIGN_OR_RETURN(trainer_,
                      SupervisedTrainer::Create(model_.get(), adapter_, std::move(start.reference),
                                                config_, num_steps_));
  WB_LOG(INFO) << proto::Task_Name(config_.learner().task()) << " of "
               << config_.policy().model().path() << " (weights " << model_->fingerprint()
               << ") on " << num_rows << " rows, " << num_steps_ << " steps of "
               << config_.data().batch_size() << "; " << task_->num_rows(Split::kValidation)
               << " validation rows";
  return absl::OkStatus();
}

absl::Status SupervisedRun::OpenFolder(bool resume) {
  absl::StatusOr<RunFolder> folder =
      resume ? RunFolder::Reopen(config_.run_dir()) : RunFolder::Claim(config_.run_dir(), config_);
  WB_RETURN_IF_ERROR(folder.status());
  folder_ = std::make_unique<RunFolder>(*std::move(folder));
  checkpoints_ = std::make_unique<CheckpointStore>(folder_->Join("checkpoints"),
                                                   config_.learner().keep_last());
  return absl::OkStatus();
}

absl::Status SupervisedRun::Restore() {
  WB_ASSIGN_OR_RETURN(
      const absl::optional<CheckpointStore::Loaded> loaded,
      checkpoints_->LoadNewest(*model_, {config_.policy().lora(), config_.seed(),
                                         start_fingerprint_, config_.policy().all_weights()}));
  int64_t step = 0;
  if (loaded.has_value()) {
    const proto::TrainingState& state = loaded->state;
    step = state.step();
    if (state.next_row() != order_->RowsBefore(step)) {
      return absl::FailedPreconditionError(absl::StrCat(
          loaded->path, ": step ", step, " stood before row ", state.next_row(),
          ", with this data and batch_size it stands before row ", order_->RowsBefore(step),
          "; the run can only go on with the data it began with"));
    }
    WB_RETURN_IF_ERROR(Annotate(
        trainer_->optimizer().Restore(loaded->optimizer, state.optimizer_updates()), loaded->path));
    WB_RETURN_IF_ERROR(Annotate(trainer_->adapter().Overwrite(*loaded->adapter), loaded->path));
    skipped_in_a_row_ = state.skipped_in_a_row();
    run_id_ = state.run_id();
    checkpointed_ = step;
    WB_LOG(INFO) << "resumes from " << loaded->path;
  }
  {
    MutexLock lock(mutex_);
    step_ = step;
  }
  WB_ASSIGN_OR_RETURN(const std::string metrics, ReadFile(folder_->Join("metrics.jsonl")));
  WB_RETURN_IF_ERROR(
      folder_->RewriteMetrics(LinesUpTo(metrics, step, &num_tokens_, &num_skipped_)));
  return folder_->Write("config.txtpb", TextProto(config_));
}

absl::Status SupervisedRun::Run() {
  began_ = absl::Now();
  absl::Status ended = Train();
  if (ended.ok() && validated_ < 0) ended = Validate();
  const absl::Status saved = WriteCheckpoint();
  if (!saved.ok() && (ended.ok() || absl::IsCancelled(ended))) ended = saved;
  SetState("ending");
  const absl::Status written = WriteResults(ended);
  if (!written.ok()) {
    if (!ended.ok()) WB_LOG(WARNING) << written.message();
    if (ended.ok() || absl::IsCancelled(ended)) ended = written;
  }
  SetState("ended");
  if (ended.ok() || absl::IsCancelled(ended)) return absl::OkStatus();
  // The one error line of a run, and its last: the launcher shows it.
  WB_LOG(ERROR) << ended.message();
  MutexLock lock(mutex_);
  last_error_ = std::string(ended.message());
  return ended;
}

absl::Status SupervisedRun::Train() {
  const proto::LearnerConfig& learner = config_.learner();
  SetState("training");
  for (int64_t done = 0; (done = steps_done()) < num_steps_;) {
    WB_RETURN_IF_ERROR(TakeStep());
    ++done;
    validated_ = -1;
    const int validate_every = config_.data().validate_every();
    const bool validates = validate_every > 0 && done % validate_every == 0;
    if (validates) WB_RETURN_IF_ERROR(Validate());
    if (learner.checkpoint_every() > 0 && done % learner.checkpoint_every() == 0)
      WB_RETURN_IF_ERROR(WriteCheckpoint());
    if (skipped_in_a_row_ > 0 && skipped_in_a_row_ >= learner.max_skipped_steps()) {
      return absl::InternalError(
          absl::StrCat("steps ", done - skipped_in_a_row_ + 1, " to ", done, " were skipped, ",
                       last_skip_, "; learner.max_skipped_steps is ", learner.max_skipped_steps(),
                       ", the adapter before them is in the checkpoint"));
    }
    if (const std::string why = StopReason(); !why.empty()) return absl::CancelledError(why);
  }
  return absl::OkStatus();
}

absl::Status SupervisedRun::TakeStep() {
  const absl::Time began = absl::Now();
  const int64_t step = steps_done();
  const std::vector<int64_t> rows = order_->Batch(step);
  const std::vector<Pass> passes =
      task_->Plan(Split::kTrain, rows, config_.learner().micro_batch_tokens());
  WB_ASSIGN_OR_RETURN(const SupervisedStep result, trainer_->Step(*task_, passes, step));
  CrashPoint("step.trained");
  skipped_in_a_row_ = result.skipped.empty() ? 0 : skipped_in_a_row_ + 1;
  num_skipped_ += !result.skipped.empty();
  if (!result.skipped.empty()) {
    last_skip_ = result.skipped;
    WB_LOG(WARNING) << "step " << step + 1 << " skipped: " << result.skipped;
  }
  return Note(result, absl::ToDoubleSeconds(absl::Now() - began));
}

absl::Status SupervisedRun::Note(const SupervisedStep& result, double seconds) {
  num_tokens_ += result.num_tokens;
  tokens_here_ += result.num_tokens;
  seconds_here_ += seconds;
  ++steps_here_;
  last_loss_ = result.loss;
  const double rate = static_cast<double>(result.num_tokens) / std::max(seconds, 1e-9);
  int64_t step = 0;
  {
    MutexLock lock(mutex_);
    step = ++step_;
    tokens_per_second_ = rate;
    rows_seen_ = order_->RowsBefore(step);
  }
  ordered_json line = {{"step", step},
                       {"max_steps", num_steps_},
                       {"loss", result.loss},
                       {"grad_norm", result.grad_norm},
                       {"learning_rate", result.learning_rate},
                       {"epoch", order_->Epochs(step)},
                       {"num_tokens", num_tokens_},
                       {"tokens_per_second", rate},
                       {"seconds", seconds}};
  for (const auto& [name, value] : result.metrics) line[name] = value;
  if (!result.skipped.empty()) line["skipped"] = result.skipped;
  WB_RETURN_IF_ERROR(folder_->AppendMetrics(report::JsonText(line)));
  metrics_.NewGauge("wideberth_step", "Optimiser steps done.")->Set(static_cast<double>(step));
  metrics_.NewGauge("wideberth_loss", "Loss of the last step.")->Set(result.loss);
  const double left = static_cast<double>(num_steps_ - step) * seconds_here_ /
                      static_cast<double>(std::max<int64_t>(1, steps_here_));
  WB_LOG(INFO) << absl::StrFormat(
      "step %d/%d  loss %.4f  grad %.3f  lr %.3g%s  %.0f tok/s  ETA %s", step, num_steps_,
      result.loss, result.grad_norm, result.learning_rate, Describe(result.metrics), rate,
      absl::FormatDuration(absl::Trunc(absl::Seconds(left), absl::Seconds(1))));
  return absl::OkStatus();
}

absl::Status SupervisedRun::Validate() {
  int64_t num_rows = task_->num_rows(Split::kValidation);
  if (num_rows == 0) return absl::OkStatus();
  if (config_.data().has_max_validation_rows())
    num_rows = std::min<int64_t>(num_rows, config_.data().max_validation_rows());
  SetState("validating");
  const absl::Time began = absl::Now();
  std::vector<int64_t> rows(num_rows);
  std::iota(rows.begin(), rows.end(), 0);
  const std::vector<Pass> passes =
      task_->Plan(Split::kValidation, rows, config_.learner().micro_batch_tokens());
  absl::StatusOr<Validation> validation =
      trainer_->Validate(*task_, passes, [this] { return !StopReason().empty(); });
  if (absl::IsCancelled(validation.status())) return absl::CancelledError(StopReason());
  WB_RETURN_IF_ERROR(validation.status());
  const int64_t step = steps_done();
  ordered_json line = {{"step", step}, {"max_steps", num_steps_}, {"eval_loss", validation->loss}};
  for (const auto& [name, value] : validation->metrics) line[absl::StrCat("eval_", name)] = value;
  line["eval_rows"] = num_rows;
  line["eval_seconds"] = absl::ToDoubleSeconds(absl::Now() - began);
  WB_RETURN_IF_ERROR(folder_->AppendMetrics(report::JsonText(line)));
  WB_LOG(INFO) << absl::StrFormat("validation after step %d  loss %.4f%s  %d rows in %s", step,
                                  validation->loss, Describe(validation->metrics), num_rows,
                                  absl::FormatDuration(absl::Now() - began));
  validation_ = *std::move(validation);
  validated_ = step;
  SetState("training");
  return absl::OkStatus();
}

absl::Status SupervisedRun::WriteCheckpoint() {
  const int64_t step = steps_done();
  if (checkpointed_ == step) return absl::OkStatus();
  proto::TrainingState state;
  state.mutable_fingerprints()->set_base(model_->fingerprint());
  state.mutable_fingerprints()->set_adapter(Fingerprint());
  if (!start_fingerprint_.empty()) state.mutable_fingerprints()->set_start(start_fingerprint_);
  state.set_run_id(run_id_);
  state.set_seed(config_.seed());
  state.set_step(step);
  state.set_optimizer_updates(trainer_->optimizer().num_steps());
  state.set_skipped_in_a_row(skipped_in_a_row_);
  state.set_next_row(order_->RowsBefore(step));
  WB_RETURN_IF_ERROR(checkpoints_->Write(state, *adapter_, trainer_->optimizer(), config_));
  checkpointed_ = step;
  WB_LOG(INFO) << "checkpoint of step " << step << " written";
  return absl::OkStatus();
}

absl::Status SupervisedRun::WriteResults(const absl::Status& ended) {
  const std::string adapter = folder_->Join("adapter");
  absl::Status first = model::CatchTorch("saving the adapter", [&] {
    return adapter_->Save(adapter, config_.policy().model().path());
  });
  TaskResults results;
  if (first.ok() && ended.ok() && validation_.has_value()) {
    absl::StatusOr<TaskResults> finished = task_->Finish(*validation_, adapter, folder_->path());
    if (finished.ok()) results = *std::move(finished);
    if (!finished.ok()) first = finished.status();
  }
  for (const absl::Status& status :
       {folder_->Write("summary.json", SummaryJson(ended, results.json)),
        folder_->Write("summary.txt", SummaryText(ended, results.table))}) {
    if (first.ok()) first = status;
  }
  return first;
}

std::string SupervisedRun::SummaryJson(const absl::Status& ended,
                                       const std::string& results) const {
  const double seconds = absl::ToDoubleSeconds(absl::Now() - began_);
  ordered_json json = {
      {"name", config_.name()},
      {"run_id", run_id_},
      {"run_dir", folder_->path()},
      {"task", proto::Task_Name(config_.learner().task())},
      {"ended", Ended(ended)},
      {"message", std::string(ended.message())},
      {"steps", steps_done()},
      {"max_steps", num_steps_},
      {"epochs", order_->Epochs(steps_done())},
      {"rows", order_->RowsBefore(steps_done())},
      {"num_tokens", num_tokens_},
      {"skipped_steps", num_skipped_},
      {"seconds", seconds},
      {"training_seconds", seconds_here_},
      {"tokens_per_second", static_cast<double>(tokens_here_) / std::max(seconds_here_, 1e-9)},
      {"loss", last_loss_},
      {"adapter_path", folder_->Join("adapter")},
      {"adapter_fingerprint", Fingerprint()},
      {"base_model", config_.policy().model().path()},
      {"base_fingerprint", model_->fingerprint()},
      {"seed", config_.seed()}};
  if (validation_.has_value()) {
    ordered_json validation = {{"step", validated_}, {"loss", validation_->loss}};
    for (const auto& [name, value] : validation_->metrics) validation[name] = value;
    json["validation"] = std::move(validation);
  }
  if (!results.empty()) json["results"] = ordered_json::parse(results, nullptr, false);
  return report::JsonText(json, 2) + "\n";
}

std::string SupervisedRun::SummaryText(const absl::Status& ended,
                                       const std::string& results) const {
  const int64_t step = steps_done();
  std::string text = absl::StrFormat(
      "Run %s (%s): %s%s\n"
      "  %d of %d steps, %.2f epochs, %d rows, %d tokens, %d steps skipped\n"
      "  %s of training here, %.0f tokens/s, last loss %.4f\n",
      config_.name(), proto::Task_Name(config_.learner().task()), Ended(ended),
      ended.ok() ? "" : absl::StrCat(", ", ended.message()), step, num_steps_, order_->Epochs(step),
      order_->RowsBefore(step), num_tokens_, num_skipped_,
      absl::FormatDuration(absl::Trunc(absl::Seconds(seconds_here_), absl::Milliseconds(100))),
      static_cast<double>(tokens_here_) / std::max(seconds_here_, 1e-9), last_loss_);
  if (validation_.has_value()) {
    absl::StrAppendFormat(&text, "  validation after step %d: loss %.4f%s\n", validated_,
                          validation_->loss, Describe(validation_->metrics));
  }
  if (!results.empty()) absl::StrAppend(&text, "\n", results);
  return text;
}

std::string SupervisedRun::Fingerprint() const {
  proto::AdapterManifest manifest;
  (void)adapter_->Pack(MasterType(*model_), &manifest);
  return manifest.fingerprint();
}

int64_t SupervisedRun::steps_done() const {
  MutexLock lock(mutex_);
  return step_;
}

std::string SupervisedRun::StopReason() const {
  MutexLock lock(mutex_);
  return stop_reason_;
}

void SupervisedRun::Stop(absl::string_view why) {
  MutexLock lock(mutex_);
  if (stop_reason_.empty()) stop_reason_ = why.empty() ? "asked to stop" : std::string(why);
}

void SupervisedRun::Abandon() {
  if (!resumed_) folder_->Abandon();
}

void SupervisedRun::SetState(absl::string_view state) {
  MutexLock lock(mutex_);
  state_ = std::string(state);
}

transport::RoleStatus SupervisedRun::Status() const {
  transport::RoleStatus status;
  MutexLock lock(mutex_);
  status.state = state_;
  status.last_error = last_error_;
  status.progress = static_cast<double>(step_) / static_cast<double>(num_steps_);
  status.tokens_per_second = tokens_per_second_;
  status.num_items = static_cast<uint64_t>(rows_seen_);
  status.facts = {{"run", run_id_},
                  {"task", proto::Task_Name(config_.learner().task())},
                  {"step", absl::StrCat(step_, " of ", num_steps_)},
                  {"rows", absl::StrCat(rows_seen_)}};
  return status;
}

}  // namespace wideberth::learner
