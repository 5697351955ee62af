// SPDX-License-Identifier: Apache-2.0
#include "actor/rollout.h"

#include <algorithm>
#include <map>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "transport/message_limits.h"

namespace wideberth::actor {
namespace {

// The learner no longer knows this incarnation, or is not there for the moment: heartbeats sort it
// out, the loop tries again.
bool Passing(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsNotFound(status) || absl::IsResourceExhausted(status) || absl::IsAborted(status);
}

// Leases that can be generated in one batch share the version and whether the adapter is on.
std::vector<std::vector<proto::GroupLease>> SplitByPolicy(std::vector<proto::GroupLease> leases) {
  std::map<std::pair<bool, uint64_t>, std::vector<proto::GroupLease>> by_policy;
  for (proto::GroupLease& lease : leases) {
    by_policy[{!lease.adapter_off(), lease.policy_version()}].push_back(std::move(lease));
  }
  std::vector<std::vector<proto::GroupLease>> batches;
  for (auto& [key, batch] : by_policy) batches.push_back(std::move(batch));
  return batches;
}

}  // namespace

void Progress::SetState(absl::string_view state) {
  MutexLock lock(mutex_);
  status_.set_state(std::string(state));
}

void Progress::SetVersion(uint64_t version) {
  MutexLock lock(mutex_);
  status_.set_policy_version(version);
}

void Progress::SetError(absl::string_view error) {
  MutexLock lock(mutex_);
  status_.set_last_error(std::string(error.substr(0, transport::kMaxSentenceBytes)));
}

void Progress::CountGenerated(int64_t num_tokens, absl::Duration took) {
  MutexLock lock(mutex_);
  status_.set_num_tokens(status_.num_tokens() + num_tokens);
  if (took > absl::ZeroDuration())
    status_.set_tokens_per_second(num_tokens / absl::ToDoubleSeconds(took));
}

void Progress::CountSubmitted() {
  MutexLock lock(mutex_);
  status_.set_num_items(status_.num_items() + 1);
}

proto::MemberStatus Progress::Snapshot() const {
  MutexLock lock(mutex_);
  return status_;
}

absl::Status Rollout::Run() {
  std::thread hand_in([this] { HandInLoop(); });
  while (!stopped()) {
    const absl::Time leased_at = absl::Now();
    absl::StatusOr<std::vector<proto::GroupLease>> leases = Lease();
    if (!leases.ok()) {
      if (!Passing(leases.status())) Fail(leases.status());
      if (!stopped()) parts_.progress->SetError(leases.status().message());
      Wait(absl::Milliseconds(500));
      continue;
    }
    for (std::vector<proto::GroupLease>& part : SplitByPolicy(*std::move(leases))) {
      absl::StatusOr<Batch> batch = GenerateBatch(std::move(part), leased_at);
      if (batch.ok()) {
        // Full: the scorers are the slower side, wait for them rather than pile up groups. Past the
        // lease nobody waits for these.
        const absl::Status pushed = queue_.Push(std::move(*batch), absl::Hours(1));
        if (!pushed.ok() && !stopped())
          WB_LOG(WARNING) << "groups given back, scoring stands still: " << pushed.message();
      } else if (Passing(batch.status())) {
        WB_LOG(WARNING) << "groups given back: " << batch.status().message();
        parts_.progress->SetError(batch.status().message());
      } else if (!stopped()) {
        Fail(batch.status());
      }
      if (stopped()) break;
    }
  }
  queue_.Close();
  hand_in.join();
  parts_.progress->SetState("ended");
  MutexLock lock(mutex_);
  return failure_;
}

void Rollout::Stop() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    wake_.SignalAll();
  }
  queue_.Close();
}

void Rollout::Fail(const absl::Status& status) {
  {
    MutexLock lock(mutex_);
    if (stopped_) return;  // What fails while everything is being cancelled is no news.
    failure_ = status;
  }
  parts_.progress->SetError(status.message());
  Stop();
}

bool Rollout::Wait(absl::Duration how_long) {
  const absl::Time until = absl::Now() + how_long;
  MutexLock lock(mutex_);
  while (!stopped_ && absl::Now() < until) wake_.WaitFor(mutex_, until - absl::Now());
  return !stopped_;
}

bool Rollout::stopped() const {
  MutexLock lock(mutex_);
  return stopped_;
}

absl::StatusOr<std::vector<proto::GroupLease>> Rollout::Lease() {
  proto::LeasePromptsRequest request;
  request.set_member_id(parts_.membership->member_id());
  request.set_max_groups(
      std::clamp(parts_.config->actor().groups_per_lease(), 1, transport::kMaxLeases));
  WB_ASSIGN_OR_RETURN(proto::LeasePromptsResponse response, parts_.learner->LeasePrompts(request));
  if (response.drain()) {
    parts_.membership->NoteDrain();
    Stop();
  } else if (response.lease().empty()) {
    parts_.progress->SetState("idle");
    Wait(absl::Milliseconds(std::max(1, response.retry_after_ms())));
  }
  return std::vector<proto::GroupLease>(response.lease().begin(), response.lease().end());
}

absl::Status Rollout::SwapTo(uint64_t version, absl::Time deadline) {
  if (refused_.exchange(false)) {
    parts_.adapters->Forget();
    version_.reset();
  }
  std::shared_ptr<const transport::AdapterBlob> blob = parts_.adapters->TakeNewer(version_);
  if ((blob == nullptr || blob->manifest.version() < version) &&
      !(version_ && *version_ >= version)) {
    parts_.progress->SetState("waiting");
    WB_ASSIGN_OR_RETURN(blob, parts_.adapters->WaitFor(version, deadline));
  }
  if (blob == nullptr) return absl::OkStatus();
  WB_RETURN_IF_ERROR(parts_.policy->Use(*blob));
  version_ = blob->manifest.version();
  fingerprint_ = blob->manifest.fingerprint();
  parts_.progress->SetVersion(*version_);
  WB_LOG(INFO) << "samples with policy version " << *version_ << " (" << fingerprint_ << ")";
  // The learner counts us as up to date only now; a lost acknowledgement is repeated with the next
  // version.
  const absl::Status acknowledged = parts_.adapters->Acknowledge(*version_, fingerprint_);
  if (!acknowledged.ok())
    WB_LOG(WARNING) << "version " << *version_ << " not acknowledged: " << acknowledged.message();
  return absl::OkStatus();
}

absl::StatusOr<Rollout::Batch> Rollout::GenerateBatch(std::vector<proto::GroupLease> leases,
                                                      absl::Time leased_at) {
  Batch batch;
  batch.leases = std::move(leases);
  const size_t n = batch.leases.size();
  const bool adapter_off = batch.leases[0].adapter_off();
  double timeout = batch.leases[0].timeout();
  for (const proto::GroupLease& lease : batch.leases) timeout = std::min(timeout, lease.timeout());
  batch.deadline = leased_at + absl::Seconds(timeout);
  batch.version = batch.leases[0].policy_version();
  if (!adapter_off) {
    WB_RETURN_IF_ERROR(SwapTo(batch.version, batch.deadline));
    batch.version = *version_;
    batch.fingerprint = fingerprint_;
  }
  parts_.progress->SetState("generating");
  batch.prompts.resize(n);
  batch.refusals.resize(n);
  batch.completions.resize(n);
  std::vector<model::PromptGroup> groups;
  std::vector<size_t> lease_of;
  const int64_t limit =
      parts_.policy->context_tokens() - parts_.config->generation().max_new_tokens();
  for (size_t i = 0; i < n; ++i) {
    const proto::GroupLease& lease = batch.leases[i];
    absl::StatusOr<std::vector<int32_t>> prompt = parts_.policy->Encode(lease.prompt());
    if (!prompt.ok()) {
      batch.refusals[i] =
          absl::StrCat("prompt ", lease.prompt().id(), ": ", prompt.status().message());
    } else if (prompt->empty()) {
      batch.refusals[i] = absl::StrCat("prompt ", lease.prompt().id(), " has no tokens");
    } else if (static_cast<int64_t>(prompt->size()) > limit) {
      batch.refusals[i] = absl::StrCat(
          "prompt ", lease.prompt().id(), " has ", prompt->size(), " tokens, at most ", limit,
          " fit (context ", parts_.policy->context_tokens(), " less generation.max_new_tokens ",
          parts_.config->generation().max_new_tokens(), ")");
    } else {
      batch.prompts[i] = *std::move(prompt);
      groups.push_back({lease.group_id(), batch.prompts[i], lease.num_completions()});
      lease_of.push_back(i);
    }
  }
  if (groups.empty()) return batch;
  const absl::Time started = absl::Now();
  // All leases of a batch are of one arm.
  const std::string& text = batch.leases[0].text();
  WB_ASSIGN_OR_RETURN(auto sampled,
                      text.empty() ? Sample(groups, adapter_off) : Given(text, groups));
  const absl::Duration took = absl::Now() - started;
  int64_t num_tokens = 0;
  for (size_t k = 0; k < sampled.size(); ++k) {
    for (const model::Sampled& completion : sampled[k])
      num_tokens += static_cast<int64_t>(completion.tokens.size());
    batch.completions[lease_of[k]] = std::move(sampled[k]);
  }
  batch.generate_seconds = absl::ToDoubleSeconds(took) / static_cast<double>(groups.size());
  parts_.progress->CountGenerated(num_tokens, took);
  return batch;
}

// In one batch; in deterministic runs group by group, since sums round differently in batches of
// another size.
absl::StatusOr<std::vector<std::vector<model::Sampled>>> Rollout::Sample(
    const std::vector<model::PromptGroup>& groups, bool adapter_off) {
  const auto go_on = [this](int64_t) { return !stopped(); };
  if (!parts_.config->learner().deterministic())
    return parts_.policy->Generate(groups, adapter_off, go_on);
  std::vector<std::vector<model::Sampled>> sampled;
  for (const model::PromptGroup& group : groups) {
    WB_ASSIGN_OR_RETURN(auto one, parts_.policy->Generate({group}, adapter_off, go_on));
    sampled.push_back(std::move(one[0]));
  }
  return sampled;
}

absl::StatusOr<std::vector<std::vector<model::Sampled>>> Rollout::Given(
    const std::string& text, const std::vector<model::PromptGroup>& groups) const {
  model::Sampled given;
  given.tokens = parts_.policy->EncodeText(text);
  if (given.tokens.empty())
    return absl::InvalidArgumentError(absl::StrCat("the text \"", text, "\" has no tokens"));
  given.logprobs.assign(given.tokens.size(), 0.0f);
  given.finish = proto::STOP;
  std::vector<std::vector<model::Sampled>> all;
  for (const model::PromptGroup& group : groups) all.emplace_back(group.num_completions, given);
  return all;
}

proto::SubmitGroupRequest Rollout::MakeRequest(const Batch& batch, size_t i) const {
  const proto::GroupLease& lease = batch.leases[i];
  proto::SubmitGroupRequest request;
  request.set_lease_id(lease.lease_id());
  request.set_group_id(lease.group_id());
  request.set_policy_version(batch.version);
  request.set_purpose(lease.purpose());
  request.set_generate_seconds(batch.generate_seconds);
  if (!batch.fingerprint.empty()) request.set_adapter_fingerprint(batch.fingerprint);
  request.mutable_prompt_token_id()->Add(batch.prompts[i].begin(), batch.prompts[i].end());
  for (int c = 0; c < lease.num_completions(); ++c) {
    proto::Completion* const completion = request.add_completion();
    if (!batch.refusals[i].empty()) continue;
    const model::Sampled& sampled = batch.completions[i][c];
    completion->mutable_token_id()->Add(sampled.tokens.begin(), sampled.tokens.end());
    completion->mutable_logprob()->Add(sampled.logprobs.begin(), sampled.logprobs.end());
    completion->set_finish_reason(sampled.finish);
    completion->set_text(lease.has_text() ? lease.text() : parts_.policy->Decode(sampled.tokens));
  }
  return request;
}

// Of the completions of all groups of `purpose`, by the scorers that may be asked about them.
void Rollout::AddScores(const Batch& batch, proto::GroupLease::Purpose purpose,
                        std::vector<proto::SubmitGroupRequest>* requests) {
  std::vector<NamedScorer> scorers = parts_.scorers;
  if (purpose == proto::GroupLease::TRAIN)
    std::erase_if(scorers, [](const NamedScorer& scorer) { return scorer.evaluation_only; });
  std::vector<proto::ScoreItem> items;
  std::vector<proto::Completion*> completions;  // Of the items.
  for (size_t i = 0; i < batch.leases.size(); ++i) {
    if (batch.leases[i].purpose() != purpose) continue;
    for (int c = 0; c < (*requests)[i].completion_size(); ++c) {
      proto::Completion* const completion = (*requests)[i].mutable_completion(c);
      if (batch.refusals[i].empty()) {
        proto::ScoreItem& item = items.emplace_back();
        item.set_id(absl::StrCat(batch.leases[i].lease_id(), "/", c));
        *item.mutable_prompt() = batch.leases[i].prompt().message();
        item.set_completion(completion->text());
        item.set_finish_reason(completion->finish_reason());
        completions.push_back(completion);
        continue;
      }
      for (const NamedScorer& scorer : scorers) {
        proto::Score* const score = completion->add_score();
        score->set_scorer_name(scorer.name);
        score->set_status(proto::REFUSED_INPUT);
        score->set_message(batch.refusals[i]);
      }
    }
  }
  ScoringOptions options;
  options.reward = parts_.config->reward();
  options.retry_until = batch.deadline;
  options.first_backoff = parts_.score_backoff;
  options.wait = [this](absl::Duration how_long) { return Wait(how_long); };
  for (std::vector<proto::Score>& of_scorer : ScoreItems(scorers, items, options)) {
    for (size_t k = 0; k < of_scorer.size(); ++k)
      *completions[k]->add_score() = std::move(of_scorer[k]);
  }
}

absl::Status Rollout::HandIn(Batch batch) {
  std::vector<proto::SubmitGroupRequest> requests;
  for (size_t i = 0; i < batch.leases.size(); ++i) {
    requests.push_back(MakeRequest(batch, i));
    if (batch.refusals[i].empty()) continue;
    WB_LOG(WARNING) << batch.refusals[i];
    parts_.progress->SetError(batch.refusals[i]);
  }
  const absl::Time started = absl::Now();
  AddScores(batch, proto::GroupLease::TRAIN, &requests);
  AddScores(batch, proto::GroupLease::EVALUATE, &requests);
  if (stopped())
    return absl::OkStatus();  // Cut short, so scores may be missing: leased again, as if nothing
                              // had been.
  const double score_seconds =
      absl::ToDoubleSeconds(absl::Now() - started) / static_cast<double>(requests.size());
  for (proto::SubmitGroupRequest& request : requests) {
    request.set_score_seconds(score_seconds);
    WB_RETURN_IF_ERROR(Submit(request));
  }
  return absl::OkStatus();
}

// Until the learner has answered: a group is counted once, however often it is sent.
absl::Status Rollout::Submit(const proto::SubmitGroupRequest& request) {
  proto::SubmitGroupRequest sent = request;
  while (!stopped()) {
    sent.set_member_id(parts_.membership->member_id());
    const absl::StatusOr<proto::SubmitGroupResponse> response = parts_.learner->SubmitGroup(sent);
    if (response.ok()) {
      parts_.progress->CountSubmitted();
      if (response->outcome() != proto::SubmitGroupResponse::ACCEPTED) {
        WB_LOG(WARNING) << "group " << request.group_id() << " was not taken: "
                        << proto::SubmitGroupResponse::Outcome_Name(response->outcome()) << " "
                        << response->message();
        if (response->outcome() == proto::SubmitGroupResponse::REFUSED) {
          parts_.progress->SetError(response->message());
          refused_ = true;
        }
      }
      return absl::OkStatus();
    }
    if (!Passing(response.status())) return response.status();
    parts_.progress->SetError(response.status().message());
    Wait(absl::Milliseconds(500));
  }
  return absl::OkStatus();
}

void Rollout::HandInLoop() {
  while (true) {
    std::optional<Batch> batch = queue_.Pop(absl::Minutes(1));
    if (!batch && queue_.closed()) return;
    if (!batch) continue;
    if (const absl::Status status = HandIn(*std::move(batch)); !status.ok()) Fail(status);
  }
}

}  // namespace wideberth::actor
