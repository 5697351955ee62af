// SPDX-License-Identifier: Apache-2.0
// Task EVALUATE: every arm answers the same prompts with the same seeds; each arm is a policy
// version. What was answered before an interruption is not asked again. Further members of Learner.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "learner/evaluation_files.h"
#include "learner/learner.h"

namespace wideberth::learner {
namespace {

// How often an arm says how far it is.
constexpr int64_t kReports = 10;

}  // namespace

int Learner::NumPromptsOfArms() const {
  const int wanted = config_.evaluation().num_prompts();
  const auto there = static_cast<int>(prompts_.num_held_out());
  return wanted > 0 ? std::min(wanted, there) : there;
}

absl::Status Learner::LoadArms() {
  // Nothing is computed here; the actors have the devices.
  proto::ModelConfig model = config_.policy().model();
  model.set_device("cpu");
  WB_ASSIGN_OR_RETURN(model_, model::CausalLm::Load(model));
  WB_ASSIGN_OR_RETURN(arms_, learner::LoadArms(config_, *model_));
  WB_ASSIGN_OR_RETURN(num_trained_prompts_,
                      CountTrainedPrompts(config_, arms_, prompts_, NumPromptsOfArms()));
  if (num_trained_prompts_ > 0)
    WB_LOG(WARNING) << num_trained_prompts_ << " of the prompts were trained on, as allowed";
  return absl::OkStatus();
}

absl::Status Learner::EvaluateArms() {
  const absl::Time began = absl::Now();
  for (int arm = 0; arm < static_cast<int>(arms_.size()); ++arm) {
    const absl::Time arm_began = absl::Now();
    WB_RETURN_IF_ERROR(EvaluateArm(arm));
    arm_seconds_[arms_[arm].name] = absl::ToDoubleSeconds(absl::Now() - arm_began);
    arm_seconds_["all"] = absl::ToDoubleSeconds(absl::Now() - began);
    MutexLock lock(mutex_);
    version_ = static_cast<uint64_t>(arm) + 1;
    if (!stop_reason_.empty()) return absl::CancelledError(stop_reason_);
  }
  return absl::OkStatus();
}

absl::Status Learner::EvaluateArm(int index) {
  Arm& arm = arms_[index];
  SetState(absl::StrCat("evaluating ", arm.name));
  const Phase phase = PhaseOfArm(index);
  const auto version = static_cast<uint64_t>(index);
  if (arm.blob != nullptr) {
    arm.blob->manifest.set_run_id(run_id_);
    WB_RETURN_IF_ERROR(Publish(arm.blob));
  } else {
    service_->NoteVersion(version, "");
  }
  WB_ASSIGN_OR_RETURN(RestoredPhase restored, RestorePhase(phase));
  const int64_t n = NumPromptsOfArms();
  leases_->BeginEvaluation({.phase = phase,
                            .num_groups = static_cast<int>(n),
                            .num_completions = config_.evaluation().num_completions(),
                            .adapter_off = arm.blob == nullptr,
                            .version = version,
                            .text = arm.text},
                           std::move(restored));
  const absl::Time began = absl::Now();
  for (int64_t done = 0; done < n;) {
    const int64_t next = std::min(n - done, std::max<int64_t>(1, n / kReports));
    WB_ASSIGN_OR_RETURN(const std::vector<AcceptedGroup> groups,
                        CollectProbed(phase, static_cast<size_t>(next)));
    // Their scores are all that is needed of them from now on.
    EraseTokens(phase, groups);
    done += next;
    const double seconds = absl::ToDoubleSeconds(absl::Now() - began);
    const nlohmann::ordered_json line = {
        {"arm", arm.name}, {"arm_index", index}, {"num_arms", arms_.size()}, {"answered", done},
        {"of", n},         {"seconds", seconds}};
    WB_RETURN_IF_ERROR(folder_->AppendMetrics(line.dump()));
    WB_LOG(INFO) << absl::StrFormat(
        "arm %s (%d of %d): %d of %d prompts, %.1f/s, %.0f s left", arm.name, index + 1,
        arms_.size(), done, n, seconds > 0 ? static_cast<double>(done) / seconds : 0.0,
        seconds * static_cast<double>(n - done) / static_cast<double>(done));
  }
  return absl::OkStatus();
}

absl::Status Learner::WriteAnswers(const absl::Status& ended) {
  EvaluationFacts facts;
  facts.run_id = run_id_;
  facts.ended = ended.ok() ? "completed" : absl::IsCancelled(ended) ? "stopped" : "failed";
  facts.message = std::string(ended.message());
  facts.created = clock_->Now();
  facts.num_prompts = NumPromptsOfArms();
  facts.num_trained_prompts = num_trained_prompts_;
  facts.base_fingerprint = model_->fingerprint();
  facts.seconds = arm_seconds_;
  journal_->NoteEvent("end", "learner", absl::StrCat(facts.ended, " ", facts.message),
                      clock_->Now());
  WB_RETURN_IF_ERROR(journal_->Flush());
  WB_ASSIGN_OR_RETURN(const std::vector<JournalGroup> groups, journal_->ReadGroups());
  WB_RETURN_IF_ERROR(
      folder_->Write("answers.jsonl", AnswerLines(groups, arms_, prompts_, config_.redact_text())));
  return folder_->Write("evaluation.json", EvaluationJson(config_, arms_, facts));
}

}  // namespace wideberth::learner
