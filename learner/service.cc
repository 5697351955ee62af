// SPDX-License-Identifier: Apache-2.0
#include "learner/service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "report/system_answers.h"
#include "transport/message_limits.h"

namespace wideberth::learner {

using Outcome = proto::SubmitGroupResponse;

namespace {

// How long an actor with nothing to do waits before it asks again.
constexpr int kRetryAfterMs = 25;

absl::Status UnknownMember(const std::string& member_id) {
  return absl::NotFoundError(
      absl::StrCat("member \"", member_id, "\" is not known, it has to register again"));
}

Outcome Answer(Outcome::Outcome outcome, std::string message) {
  Outcome response;
  response.set_outcome(outcome);
  if (!message.empty()) response.set_message(std::move(message));
  return response;
}

// Training goes by token ids; texts are only shown.
void RedactTexts(proto::SubmitGroupRequest* request) {
  for (proto::Completion& completion : *request->mutable_completion()) {
    if (!completion.text().empty()) completion.set_text(report::RedactedAnswer(completion.text()));
  }
}

}  // namespace

void LearnerService::ReturnLeases(const std::string& member_id, const std::string& name,
                                  absl::string_view why) {
  if (parts_.broadcast != nullptr) parts_.broadcast->Lose(member_id);
  const int n = parts_.leases->ReturnLeasesOf(member_id);
  const std::string text = absl::StrCat(why, "; ", n, " leases taken back");
  parts_.journal->NoteEvent("member", name, text, parts_.clock->Now());
  WB_LOG(INFO) << name << " " << text;
}

void LearnerService::ReapLost() {
  for (const Members::Member& member : parts_.members->ReapLost()) {
    ReturnLeases(member.id, member.registration.name(),
                 absl::StrCat("on ", member.registration.host(), " has not been heard of for ",
                              parts_.config->learner().member_timeout(), " s and counts as lost"));
  }
}

absl::StatusOr<proto::RegisterResponse> LearnerService::Register(
    const proto::RegisterRequest& request) {
  auto registered = parts_.members->Register(request);
  if (!registered.ok()) {
    WB_LOG(ERROR) << registered.status().message();
    return registered.status();
  }
  if (registered->ended_id.has_value()) {
    ReturnLeases(*registered->ended_id, request.name(), "registered again");
  } else {
    parts_.journal->NoteEvent("member", request.name(), "registered", parts_.clock->Now());
    WB_LOG(INFO) << request.name() << " registered from " << request.host();
  }
  proto::RegisterResponse response;
  response.set_member_id(registered->member_id);
  response.set_run_id(parts_.run_id);
  *response.mutable_config() = *parts_.config;
  MutexLock lock(mutex_);
  if (!versions_.empty()) response.set_policy_version(versions_.rbegin()->first);
  return response;
}

void LearnerService::NameRelay(const proto::HeartbeatRequest& request,
                               proto::HeartbeatResponse* response) {
  const std::string name = parts_.members->NameOf(request.member_id());
  MutexLock lock(relays_mutex_);
  if (const auto actors = parts_.members->ActorsSince(&relays_as_of_); actors.has_value()) {
    std::vector<RelayTree::Actor> alive;
    for (const Members::Member& actor : *actors)
      alive.push_back({actor.registration.name(), actor.registration.adapter_address()});
    relays_.Update(alive);
  }
  if (const std::string& failed = request.failed_adapter_address(); !failed.empty()) {
    const std::string relay = relays_.Bar(failed);
    WB_LOG(WARNING) << name << " had no version from " << (relay.empty() ? "a former relay" : relay)
                    << " at " << failed << ": others pass versions on instead";
  }
  if (const std::string relay = relays_.Parent(name); !relay.empty()) {
    response->set_adapter_address(relays_.ParentAddress(name));
    response->set_adapter_name(relay);
  }
}

absl::StatusOr<proto::HeartbeatResponse> LearnerService::Heartbeat(
    const proto::HeartbeatRequest& request) {
  ReapLost();
  const bool drain = draining_;
  proto::HeartbeatResponse response;
  response.set_known(parts_.members->Heartbeat(request.member_id(), request.status(), drain));
  response.set_drain(drain);
  for (proto::ScorerEndpoint& endpoint : parts_.members->ScorerEndpoints())
    *response.add_scorer() = std::move(endpoint);
  if (const auto newest = parts_.shelf->Newest({}); newest != nullptr) {
    response.set_newest_version(newest->manifest.version());
    response.set_newest_fingerprint(newest->manifest.fingerprint());
  }
  if (parts_.broadcast != nullptr && parts_.members->WantsBroadcast(request.member_id())) {
    const auto group =
        parts_.broadcast->Heartbeat(request.member_id(), request.weight_generation());
    if (group.has_value()) *response.mutable_weight_group() = *group;
  }
  NameRelay(request, &response);
  return response;
}

absl::StatusOr<proto::LeasePromptsResponse> LearnerService::LeasePrompts(
    const proto::LeasePromptsRequest& request) {
  const bool drain = draining_;
  if (!parts_.members->Touch(request.member_id(), drain)) return UnknownMember(request.member_id());
  ReapLost();
  proto::LeasePromptsResponse response;
  if (drain) {
    response.set_drain(true);
    return response;
  }
  WB_RETURN_IF_ERROR(parts_.members->Trusts(request.member_id()));
  if (parts_.members->MayLease(request.member_id())) {
    const std::string name = parts_.members->NameOf(request.member_id());
    for (proto::GroupLease& lease : parts_.leases->Take(
             request.member_id(), std::clamp(request.max_groups(), 1, transport::kMaxLeases))) {
      parts_.journal->NoteLease(lease, name, parts_.clock->Now());
      *response.add_lease() = std::move(lease);
    }
  }
  if (response.lease().empty()) response.set_retry_after_ms(kRetryAfterMs);
  return response;
}

std::string LearnerService::ForeignPolicy(const proto::SubmitGroupRequest& request,
                                          Phase phase) const {
  const std::string& sent = request.adapter_fingerprint();
  if (phase == Phase::kEvaluateBefore && sent.empty()) return "";
  MutexLock lock(mutex_);
  if (std::string foreign = ForeignSegment(request); !foreign.empty()) return foreign;
  const auto version = versions_.find(request.policy_version());
  if (version == versions_.end()) {
    return absl::StrCat("group ", request.group_id(), " was sampled with version ",
                        request.policy_version(), ", which was never published");
  }
  if (version->second.fingerprint != sent) {
    return absl::StrCat("group ", request.group_id(), " was sampled with adapter ",
                        sent.empty() ? "(none)" : sent, ", version ", request.policy_version(),
                        " is ", version->second.fingerprint);
  }
  if (ArmOf(phase) >= 0 && version->first != static_cast<uint64_t>(ArmOf(phase))) {
    return absl::StrCat("group ", request.group_id(), " was sampled with version ",
                        request.policy_version(), ", expected that of arm ", ArmOf(phase));
  }
  if (phase == Phase::kEvaluateAfter && version->first != versions_.rbegin()->first) {
    return absl::StrCat("group ", request.group_id(), " was sampled with version ",
                        request.policy_version(), ", expected the last one, ",
                        versions_.rbegin()->first);
  }
  return "";
}

std::string LearnerService::ForeignSegment(const proto::SubmitGroupRequest& request) const {
  for (const proto::Completion& completion : request.completion()) {
    for (const proto::Segment& segment : completion.segment()) {
      const auto version = versions_.find(segment.policy_version());
      if (version == versions_.end() ||
          version->second.fingerprint != segment.adapter_fingerprint()) {
        return absl::StrCat("group ", request.group_id(), " has tokens of version ",
                            segment.policy_version(), " with adapter ",
                            segment.adapter_fingerprint(), ", which was never published");
      }
    }
  }
  return "";
}

std::string LearnerService::ForeignTokens(const proto::SubmitGroupRequest& request,
                                          Phase phase) const {
  if (request.prompt_token_id().empty()) return "";
  const std::string group = absl::StrCat("group ", request.group_id());
  const absl::StatusOr<std::vector<int32_t>> expected =
      parts_.encode(parts_.prompt_of(phase, request.group_id()));
  if (!expected.ok()) return absl::StrCat(group, ": ", expected.status().message());
  if (!std::equal(expected->begin(), expected->end(), request.prompt_token_id().begin(),
                  request.prompt_token_id().end())) {
    return absl::StrCat(group, " has a prompt of ", request.prompt_token_id_size(),
                        " tokens that is not the policy's tokenizer's, which has ",
                        expected->size(), " (another tokenizer or chat template?)");
  }
  if (parts_.leases->gives_text()) return "";
  for (int i = 0; i < request.completion_size(); ++i) {
    const proto::Completion& completion = request.completion(i);
    if (parts_.decode({completion.token_id().begin(), completion.token_id().end()}) ==
        completion.text())
      continue;
    return absl::StrCat(group, " completion ", i,
                        " has a text that its tokens are not in the policy's tokenizer");
  }
  return "";
}

void LearnerService::Distrust(const std::string& member_id, const std::string& why) {
  if (!parts_.members->Distrust(member_id, why)) return;
  ReturnLeases(member_id, parts_.members->NameOf(member_id), "is not leased to any more");
}

absl::Status LearnerService::Refuse(const AcceptedGroup& group, const absl::Status& why) {
  const std::string message(why.message());
  parts_.leases->Refuse(group.phase, group.request.group_id());
  parts_.journal->NoteEvent("refused", group.member, message, parts_.clock->Now());
  WB_LOG(WARNING) << message;
  Distrust(group.request.member_id(), message);
  return parts_.journal->ChangeDisposition(group.phase, group.request.group_id(),
                                           Disposition::kRetry);
}

absl::StatusOr<Outcome> LearnerService::SubmitGroup(const proto::SubmitGroupRequest& request) {
  parts_.members->Touch(request.member_id(), false);
  if (const absl::Status trusts = parts_.members->Trusts(request.member_id()); !trusts.ok()) {
    parts_.leases->CountRefused();
    return Answer(Outcome::REFUSED, std::string(trusts.message()));
  }
  Phase phase = Phase::kTrain;
  int attempt = 0;
  std::string message;
  const Outcome::Outcome outcome = parts_.leases->Begin(request, &message, &phase, &attempt);
  if (outcome != Outcome::ACCEPTED) {
    if (outcome == Outcome::REFUSED)
      WB_LOG(WARNING) << parts_.members->NameOf(request.member_id()) << ": " << message;
    return Answer(outcome, message);
  }
  message = ForeignPolicy(request, phase);
  if (message.empty()) {
    const int expected = phase == Phase::kTrain ? parts_.config->learner().group_size()
                                                : parts_.config->evaluation().num_completions();
    message = std::string(CheckWellFormed(request, expected, parts_.vocab).message());
  }
  const std::string name = parts_.members->NameOf(request.member_id());
  const bool well_formed = message.empty();
  if (well_formed) message = ForeignTokens(request, phase);
  if (!message.empty()) {
    parts_.leases->Abandon(phase, request.group_id());
    parts_.leases->CountRefused();
    // Whatever else it hands in is no better.
    if (well_formed) Distrust(request.member_id(), absl::StrCat(name, ": ", message));
    parts_.journal->NoteEvent("refused", name, message, parts_.clock->Now());
    WB_LOG(WARNING) << name << ": " << message;
    return Answer(Outcome::REFUSED, message);
  }
  return Store(request, phase, attempt);
}

absl::StatusOr<Outcome> LearnerService::Store(const proto::SubmitGroupRequest& request, Phase phase,
                                              int attempt) {
  const Screening screening = Screen(request, parts_.config->reward(), phase, attempt);
  JournalGroup group;
  group.phase = phase;
  group.attempt = attempt;
  group.disposition = screening.disposition;
  group.prompt_id = parts_.prompt_of(phase, request.group_id()).id();
  group.member = parts_.members->NameOf(request.member_id());
  group.accepted_at = parts_.clock->Now();
  group.request = request;
  if (parts_.config->redact_text()) RedactTexts(&group.request);
  if (const absl::Status stored = parts_.journal->AppendGroup(group); !stored.ok()) {
    parts_.leases->Abandon(phase, request.group_id());
    parts_.pool->Fail(stored);
    return stored;
  }
  {
    MutexLock lock(mutex_);
    for (size_t status = 0; status < missing_.size(); ++status)
      missing_[status] += screening.missing[status];
  }
  // The table first: whoever takes the group from the pool finds it counted.
  parts_.leases->Finish(phase, request.group_id(), screening.disposition);
  if (screening.disposition == Disposition::kUse) {
    parts_.pool->Push({phase, group.member, parts_.prompt_of(phase, request.group_id()),
                       std::move(group.request)});
  }
  std::string message;
  if (screening.disposition == Disposition::kRetry) {
    message = absl::StrCat("leased again, ", screening.reason);
  } else if (screening.disposition == Disposition::kDrop) {
    message = absl::StrCat("not trained on, ", screening.reason.empty()
                                                   ? "fewer than two completions are usable"
                                                   : screening.reason);
  }
  if (!message.empty())
    WB_LOG(WARNING) << "group " << request.group_id() << " of " << group.member << " " << message;
  return Answer(Outcome::ACCEPTED, message);
}

absl::StatusOr<proto::AcknowledgeAdapterResponse> LearnerService::AcknowledgeAdapter(
    const proto::AcknowledgeAdapterRequest& request) {
  {
    MutexLock lock(mutex_);
    const auto version = versions_.find(request.version());
    if (version == versions_.end() || version->second.fingerprint != request.fingerprint()) {
      return absl::InvalidArgumentError(absl::StrCat("version ", request.version(),
                                                     " with fingerprint ", request.fingerprint(),
                                                     " was never published by this learner"));
    }
    version->second.last_acknowledged = parts_.clock->Now();
  }
  if (!parts_.members->Acknowledge(request.member_id(), request.version(), request.fingerprint())) {
    return UnknownMember(request.member_id());
  }
  // It keeps up again, so it may pass on again what comes later.
  if (const auto newest = parts_.shelf->Newest({});
      newest != nullptr && newest->manifest.version() == request.version()) {
    MutexLock lock(relays_mutex_);
    relays_.Readmit(parts_.members->NameOf(request.member_id()));
  }
  return proto::AcknowledgeAdapterResponse();
}

absl::StatusOr<std::shared_ptr<const transport::AdapterBlob>> LearnerService::NewestAdapter(
    const proto::FetchAdapterRequest& request) {
  parts_.members->Touch(request.member_id(), false);
  return parts_.shelf->Newest(request);
}

absl::Status LearnerService::Publish(std::shared_ptr<const transport::AdapterBlob> blob) {
  const uint64_t version = blob->manifest.version();
  {
    // Known before it is on the shelf: an actor may be quick.
    MutexLock lock(mutex_);
    versions_[version] = {blob->manifest.fingerprint(), parts_.clock->Now(), absl::nullopt};
  }
  // Whoever waits at the shelf is to hear that it comes by broadcast.
  if (parts_.broadcast != nullptr) parts_.broadcast->Publish(blob);
  return parts_.shelf->Publish(std::move(blob));
}

void LearnerService::NoteVersion(uint64_t version, const std::string& fingerprint) {
  MutexLock lock(mutex_);
  versions_[version] = {fingerprint, parts_.clock->Now(), absl::nullopt};
}

MissingScores LearnerService::missing_scores() const {
  MutexLock lock(mutex_);
  return missing_;
}

absl::optional<absl::Duration> LearnerService::SyncLatency(uint64_t version) const {
  MutexLock lock(mutex_);
  const auto found = versions_.find(version);
  if (found == versions_.end() || !found->second.last_acknowledged.has_value())
    return absl::nullopt;
  return *found->second.last_acknowledged - found->second.published_at;
}

}  // namespace wideberth::learner
