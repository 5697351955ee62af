// SPDX-License-Identifier: Apache-2.0
#include "learner/learner.h"

#include <ATen/ATen.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "learner/policy.h"
#include "learner/validate_config.h"
#include "model/catch_torch.h"
#include "model/runtime.h"

namespace wideberth::learner {
namespace {

std::string MakeRunId(const proto::RunConfig& config, absl::Time now) {
  return absl::StrCat(config.name(), "-",
                      absl::FormatTime("%Y%m%dT%H%M%SZ", now, absl::UTCTimeZone()), "-",
                      ::getpid());
}

}  // namespace

Learner::Learner(const proto::RunConfig& config, const Clock* clock, PromptSet prompts)
    : config_(config),
      clock_(clock),
      run_id_(MakeRunId(config, clock->Now())),
      prompts_(std::move(prompts)),
      composer_(config.reward()) {}

Learner::~Learner() = default;

absl::StatusOr<std::unique_ptr<Learner>> Learner::Create(const proto::RunConfig& config,
                                                         const Clock* clock, bool resume) {
  WB_RETURN_IF_ERROR(ValidateRunConfig(config));
  WB_RETURN_IF_ERROR(resume ? RunFolder::CheckHoldsRun(config.run_dir())
                            : RunFolder::CheckFree(config.run_dir()));
  const bool evaluates = config.learner().task() == proto::EVALUATE;
  proto::PromptsConfig files = config.prompts();
  if (evaluates && config.evaluation().path_size() > 0) {
    *files.mutable_path() = config.evaluation().path();
    files.clear_num_held_out();
  }
  WB_ASSIGN_OR_RETURN(PromptSet prompts, PromptSet::Load(files, config.seed(), evaluates));
  if (config.reward().form() == proto::RewardConfig::PROMPT_AWARE)
    WB_RETURN_IF_ERROR(prompts.CheckLabels());
  std::unique_ptr<Learner> learner(new Learner(config, clock, std::move(prompts)));
  learner->resumed_ = resume;
  WB_RETURN_IF_ERROR(learner->evaluates_arms() ? learner->LoadArms() : learner->LoadPolicy());
  WB_RETURN_IF_ERROR(learner->CheckPrompts());
  WB_RETURN_IF_ERROR(resume ? learner->ReopenFolder() : learner->ClaimFolder());
  learner->MakeService();
  learner->MakeRanks();
  if (resume) WB_RETURN_IF_ERROR(learner->Restore());
  if (learner->evaluates_arms()) return learner;
  const auto first = model::CatchTorch("the first version", [&] { return learner->Pack(); });
  WB_RETURN_IF_ERROR(first.status());
  learner->fingerprint_ = (*first)->manifest.fingerprint();
  WB_RETURN_IF_ERROR(learner->Publish(*first));
  return learner;
}

absl::Status Learner::LoadPolicy() {
  WB_ASSIGN_OR_RETURN(Policy policy, Policy::Load(config_));
  policy_fingerprint_ = policy.Fingerprint();
  start_fingerprint_ = std::move(policy.start_fingerprint);
  model_ = std::move(policy.model);
  adapter_ = std::move(policy.adapter);
  trainer_ = std::move(policy.trainer);
  return absl::OkStatus();
}

absl::Status Learner::CheckPrompts() {
  const std::string& folder = config_.policy().model().path();
  WB_ASSIGN_OR_RETURN(tokenizer_, model::Tokenizer::FromFolder(folder));
  if (tokenizer_->vocab_size() > model_->spec().vocab) {
    return absl::InvalidArgumentError(
        absl::StrCat(folder, ": tokenizer.json has ", tokenizer_->vocab_size(),
                     " tokens, the model's embedding ", model_->spec().vocab,
                     " rows; they belong to different models"));
  }
  WB_ASSIGN_OR_RETURN(chat_template_, model::ChatTemplateOf(folder));
  const auto count = [&](const proto::Prompt& prompt) -> absl::StatusOr<int64_t> {
    WB_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, Encode(prompt));
    return static_cast<int64_t>(ids.size());
  };
  return prompts_.CheckLengths(count, config_.generation().max_new_tokens(),
                               model_->spec().max_positions);
}

absl::StatusOr<std::vector<int32_t>> Learner::Encode(const proto::Prompt& prompt) const {
  std::vector<model::Message> messages;
  for (const proto::ChatMessage& message : prompt.message())
    messages.push_back({message.role(), message.content()});
  return model::EncodeConversation(*tokenizer_, chat_template_, messages);
}

absl::Status Learner::ClaimFolder() {
  WB_ASSIGN_OR_RETURN(RunFolder folder, RunFolder::Claim(config_.run_dir(), config_));
  folder_ = std::make_unique<RunFolder>(std::move(folder));
  WB_ASSIGN_OR_RETURN(journal_, Journal::Create(folder_->Join("run.db"), run_id_));
  checkpoints_ = std::make_unique<CheckpointStore>(folder_->Join("checkpoints"),
                                                   config_.learner().keep_last());
  return absl::OkStatus();
}

void Learner::MakeService() {
  const proto::LearnerConfig& learner = config_.learner();
  LeaseTable::Options options;
  options.groups_per_step = learner.groups_per_step();
  options.group_size = learner.group_size();
  options.max_staleness = learner.max_staleness();
  options.max_steps = learner.max_steps();
  options.lease_timeout = absl::Seconds(learner.lease_timeout());
  const LeaseTable::PromptOf prompt_of = [this](Phase phase, uint64_t id) -> const proto::Prompt& {
    return phase == Phase::kTrain
               ? prompts_.Train(id).prompt
               : prompts_.HeldOut(static_cast<int64_t>(id & ~kEvaluationGroup)).prompt;
  };
  leases_ = std::make_unique<LeaseTable>(options, clock_, prompt_of);
  members_ = std::make_unique<Members>(clock_, absl::Seconds(learner.member_timeout()),
                                       model_->fingerprint());
  LearnerService::Parts parts;
  parts.config = &config_;
  parts.run_id = run_id_;
  parts.vocab = model_->spec().vocab;
  parts.clock = clock_;
  parts.leases = leases_.get();
  parts.members = members_.get();
  parts.journal = journal_.get();
  parts.pool = &pool_;
  parts.shelf = &shelf_;
  if (auto communicators = transport::MakeCommunicators(config_.policy().model().device());
      communicators != nullptr) {
    broadcast_ = std::make_unique<transport::BroadcastCarrier>(std::move(communicators));
  }
  parts.broadcast = broadcast_.get();
  parts.prompt_of = prompt_of;
  parts.encode = [this](const proto::Prompt& prompt) { return Encode(prompt); };
  parts.decode = [this](const std::vector<int32_t>& tokens) { return tokenizer_->Decode(tokens); };
  service_ = std::make_unique<LearnerService>(std::move(parts));
  Probe::Options probe;
  probe.temperature = config_.generation().temperature();
  probe.max_difference = learner.max_logprob_difference();
  probe.num_versions = learner.max_staleness() + 2;
  probe_ = std::make_unique<Probe>(model_.get(), probe);
}

absl::Status Learner::Publish(std::shared_ptr<const transport::AdapterBlob> blob) {
  // Actors first: nothing is probed before the thread that is here asks for groups again.
  WB_RETURN_IF_ERROR(service_->Publish(blob));
  return probe_->Remember(*blob);
}

uint64_t Learner::policy_version() const {
  MutexLock lock(mutex_);
  return version_;
}

std::shared_ptr<const transport::AdapterBlob> Learner::Pack() const {
  auto blob = std::make_shared<transport::AdapterBlob>();
  // In the dtype the actors compute in: sampler and learner use the same bytes.
  blob->bytes = adapter_->Pack(model_->dtype(), &blob->manifest);
  blob->manifest.set_run_id(run_id_);
  blob->manifest.set_version(policy_version());
  blob->manifest.set_base_fingerprint(model_->fingerprint());
  return blob;
}

void Learner::SetState(absl::string_view state) {
  MutexLock lock(mutex_);
  state_ = std::string(state);
}

void Learner::Stop(absl::string_view why) {
  {
    MutexLock lock(mutex_);
    if (stop_reason_.empty()) stop_reason_ = why.empty() ? "asked to stop" : std::string(why);
  }
  pool_.Interrupt();
}

void Learner::Abandon() {
  service_.reset();
  journal_.reset();
  if (!resumed_) folder_->Abandon();  // A run that had begun before stays as it is.
}

absl::Status Learner::Run() {
  run_began_ = absl::Now();
  OpenTensorBoard();
  absl::Status ended = evaluates_arms() ? EvaluateArms() : RunPhases();
  leases_->Close();
  if (!evaluates_arms() && whole_ && checkpointed_ != static_cast<int64_t>(policy_version())) {
    const absl::Status saved = WriteCheckpoint();
    if (!saved.ok() && (ended.ok() || absl::IsCancelled(ended))) ended = saved;
  }
  SetState("ending");
  // Members are told first: they leave while the results are written.
  service_->Drain();
  EndRanks(ended);
  const absl::Status written = evaluates_arms() ? WriteAnswers(ended) : WriteResults(ended);
  // Where the last steps are in no checkpoint, a resume needs their groups as they are.
  const bool needed = !evaluates_arms() && checkpointed_ != static_cast<int64_t>(policy_version());
  const absl::Status erased =
      config_.redact_text() && !needed ? journal_->EraseAllTokens() : absl::OkStatus();
  for (const absl::Status& status : {written, erased}) {
    if (status.ok()) continue;
    WB_LOG(WARNING) << status.message();
    if (ended.ok() || absl::IsCancelled(ended)) ended = status;
  }
  if (!ended.ok() && !absl::IsCancelled(ended)) {
    // The one error line of a run, and its last: the launcher shows it.
    WB_LOG(ERROR) << ended.message();
    MutexLock lock(mutex_);
    last_error_ = std::string(ended.message());
  }
  TellEverybody();
  SetState("ended");
  return absl::IsCancelled(ended) ? absl::OkStatus() : ended;
}

void Learner::OpenTensorBoard() {
  if (evaluates_arms()) return;
  const absl::Time now = clock_->Now();
  tensorboard_ = std::make_unique<report::TensorBoardWriter>(folder_->Join("tensorboard"), now);
  if (!last_step_.has_value()) return;
  // The process before may have died between the last step's line and its event.
  tensorboard_->RestartAt(last_step_->step, now);
  tensorboard_->Add(last_step_->step, report::ScalarsOf(last_step_->metrics_json), now);
}

absl::Status Learner::RunPhases() {
  const bool evaluates = config_.evaluation().num_prompts() > 0;
  if (evaluates) WB_RETURN_IF_ERROR(Evaluate(Phase::kEvaluateBefore));
  WB_RETURN_IF_ERROR(Train());
  if (evaluates) WB_RETURN_IF_ERROR(Evaluate(Phase::kEvaluateAfter));
  return absl::OkStatus();
}

std::string Learner::WhatItWaitsFor(Phase phase) const {
  const LeaseTable::Outstanding out = leases_->outstanding();
  std::vector<std::string> holders;
  for (const std::string& id : out.member_ids) holders.push_back(members_->Describe(id));
  std::vector<std::string> absent;
  const std::vector<proto::ScorerEndpoint> endpoints = members_->ScorerEndpoints();
  for (const proto::ScorerConfig& scorer : config_.scorer()) {
    const bool there = std::any_of(endpoints.begin(), endpoints.end(),
                                   [&](const auto& e) { return e.scorer_name() == scorer.name(); });
    if (!there) absent.push_back(scorer.name());
  }
  return absl::StrCat(
      "; ", phase == Phase::kTrain ? "" : "evaluation, ", out.leased, " groups are leased",
      holders.empty() ? "" : absl::StrCat(" to ", absl::StrJoin(holders, "; ")), "; ", out.waiting,
      " wait for an actor; actors alive: ", members_->NumAlive(proto::ACTOR),
      "; scorers absent: ", absent.empty() ? "none" : absl::StrJoin(absent, ", "),
      " (learner.step_timeout)");
}

absl::StatusOr<std::vector<AcceptedGroup>> Learner::CollectProbed(Phase phase, size_t n) {
  // Answers that an arm gives itself were not sampled.
  const bool gives_text = ArmOf(phase) >= 0 && !arms_[ArmOf(phase)].text.empty();
  std::vector<AcceptedGroup> collected;
  while (collected.size() < n) {
    WB_ASSIGN_OR_RETURN(std::vector<AcceptedGroup> groups, Collect(phase, n - collected.size()));
    std::vector<AcceptedGroup> fresh;
    for (AcceptedGroup& group : groups) {
      if (phase != Phase::kTrain ||
          group.request.policy_version() + config_.learner().max_staleness() >= policy_version()) {
        fresh.push_back(std::move(group));
        continue;
      }
      leases_->DropAccepted(group.request.group_id());
      WB_RETURN_IF_ERROR(
          journal_->ChangeDisposition(phase, group.request.group_id(), Disposition::kDrop));
    }
    std::vector<absl::Status> found(fresh.size());
    if (!gives_text) {
      WB_ASSIGN_OR_RETURN(found, probe_->Check(fresh));
    }
    for (size_t i = 0; i < fresh.size(); ++i) {
      if (found[i].ok()) {
        collected.push_back(std::move(fresh[i]));
      } else {
        WB_RETURN_IF_ERROR(service_->Refuse(fresh[i], found[i]));
      }
    }
  }
  std::sort(collected.begin(), collected.end(), [](const AcceptedGroup& a, const AcceptedGroup& b) {
    return a.request.group_id() < b.request.group_id();
  });
  return collected;
}

absl::StatusOr<std::vector<AcceptedGroup>> Learner::Collect(Phase phase, size_t n) {
  const absl::Duration patience = absl::Seconds(config_.learner().step_timeout());
  auto groups = pool_.Take(phase, n, patience, [this] { service_->ReapLost(); });
  if (absl::IsDeadlineExceeded(groups.status())) {
    return absl::DeadlineExceededError(
        absl::StrCat(groups.status().message(), WhatItWaitsFor(phase)));
  }
  return groups;
}

transport::RoleStatus Learner::Status() const {
  transport::RoleStatus status;
  const int64_t max_steps = config_.learner().max_steps();
  {
    MutexLock lock(mutex_);
    status.state = state_;
    status.last_error = last_error_;
    status.policy_version = version_;
    if (!evaluates_arms()) {
      status.progress = static_cast<double>(version_) / static_cast<double>(max_steps);
      status.facts.emplace_back("step", absl::StrCat(version_, " of ", max_steps));
    } else {
      status.progress = static_cast<double>(version_) / static_cast<double>(arms_.size());
      status.facts.emplace_back("arm", absl::StrCat(version_, " of ", arms_.size(), " done"));
    }
  }
  const LeaseTable::Counters counters = leases_->counters();
  const LeaseTable::Outstanding out = leases_->outstanding();
  status.num_items = counters.accepted;
  if (const auto rate = history_.tokens_per_second(); rate.has_value())
    status.tokens_per_second = *rate;
  status.facts.emplace_back("run", run_id_);
  status.facts.emplace_back(
      "groups", absl::StrCat(out.leased, " leased, ", out.waiting, " waiting, ", pool_.size(),
                             " ready; ", counters.accepted, " accepted, ", counters.duplicate,
                             " duplicates, ", counters.stale, " stale, ", counters.refused,
                             " refused, ", counters.dropped, " dropped; leases expired ",
                             counters.expired, ", taken back ", counters.returned));
  for (auto& fact : history_.Facts()) status.facts.push_back(std::move(fact));
  const absl::Time now = clock_->Now();
  for (const Members::Member& member : members_->Snapshot()) {
    transport::MemberRow row;
    row.name = member.registration.name();
    row.role = member.registration.role() == proto::SCORER
                   ? absl::StrCat("scorer ", member.registration.scorer_name())
                   : "actor";
    row.state = member.lost ? "lost" : member.status.state();
    if (member.version.has_value()) row.policy_version = *member.version;
    row.tokens_per_second = member.status.tokens_per_second();
    row.num_items = member.status.num_items();
    row.heartbeat_age = absl::ToDoubleSeconds(now - member.last_heard);
    row.last_error = member.status.last_error();
    row.health_address = member.registration.health_address();
    status.members.push_back(std::move(row));
  }
  if (ranks_ == nullptr) return status;
  for (const transport::RankHub::RankStatus& rank : ranks_->Statuses()) {
    transport::MemberRow row;
    row.name = absl::StrCat("learner-", rank.rank);
    row.role = "learner rank";
    row.state = rank.state;
    row.num_items = rank.step;
    row.heartbeat_age = absl::ToDoubleSeconds(rank.silent_for);
    row.health_address = rank.health_address;
    status.members.push_back(std::move(row));
  }
  return status;
}

}  // namespace wideberth::learner
