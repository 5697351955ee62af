// SPDX-License-Identifier: Apache-2.0
#include "actor/hand_in.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"

namespace wideberth::actor {
namespace {

int Capacity(const proto::RunConfig& config) {
  return 4 * std::max(1, config.actor().groups_per_lease());
}

// The oldest version of any token; that of the lease where no adapter was on.
uint64_t OldestVersion(const AnsweredGroup& group) {
  if (group.fingerprints.empty()) return group.lease.policy_version();
  uint64_t oldest = group.fingerprints.rbegin()->first;
  for (const model::Sampled& completion : group.completions) {
    if (!completion.versions.empty())
      oldest = std::min(oldest, completion.versions.front().version);
  }
  return oldest;
}

}  // namespace

bool Passing(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsNotFound(status) || absl::IsResourceExhausted(status) || absl::IsAborted(status);
}

proto::SubmitGroupRequest MakeRequest(
    const AnsweredGroup& group,
    const std::function<std::string(const std::vector<int32_t>&)>& decode) {
  const proto::GroupLease& lease = group.lease;
  const uint64_t version = OldestVersion(group);
  proto::SubmitGroupRequest request;
  request.set_lease_id(lease.lease_id());
  request.set_group_id(lease.group_id());
  request.set_policy_version(version);
  request.set_purpose(lease.purpose());
  request.set_generate_seconds(group.generate_seconds);
  if (!group.fingerprints.empty()) request.set_adapter_fingerprint(group.fingerprints.at(version));
  request.mutable_prompt_token_id()->Add(group.prompt.begin(), group.prompt.end());
  for (int c = 0; c < lease.num_completions(); ++c) {
    proto::Completion* const completion = request.add_completion();
    if (!group.refusal.empty()) continue;
    const model::Sampled& sampled = group.completions[c];
    completion->mutable_token_id()->Add(sampled.tokens.begin(), sampled.tokens.end());
    completion->mutable_logprob()->Add(sampled.logprobs.begin(), sampled.logprobs.end());
    completion->set_finish_reason(sampled.finish);
    completion->set_text(lease.has_text() ? lease.text() : decode(sampled.tokens));
    if (group.fingerprints.empty() ||
        (sampled.versions.size() == 1 && sampled.versions[0].version == version))
      continue;
    for (const model::VersionRun& run : sampled.versions) {
      proto::Segment* const segment = completion->add_segment();
      segment->set_policy_version(run.version);
      segment->set_adapter_fingerprint(group.fingerprints.at(run.version));
      segment->set_num_tokens(run.num_tokens);
    }
  }
  return request;
}

HandIn::HandIn(Parts parts) : parts_(std::move(parts)), queue_(Capacity(*parts_.config)) {
  thread_ = std::thread([this] { Run(); });
}

HandIn::~HandIn() { Join(); }

void HandIn::Join() {
  Stop();
  if (thread_.joinable()) thread_.join();
}

void HandIn::Stop() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    wake_.SignalAll();
  }
  queue_.Close();
}

absl::Status HandIn::Push(AnsweredGroup group) {
  ++num_waiting_;
  const absl::Status pushed = queue_.Push(std::move(group), absl::Hours(1));
  if (!pushed.ok()) --num_waiting_;
  return pushed;
}

bool HandIn::Wait(absl::Duration how_long) {
  const absl::Time until = absl::Now() + how_long;
  MutexLock lock(mutex_);
  while (!stopped_ && absl::Now() < until) wake_.WaitFor(mutex_, until - absl::Now());
  return !stopped_;
}

bool HandIn::stopped() const {
  MutexLock lock(mutex_);
  return stopped_;
}

void HandIn::Run() {
  while (true) {
    std::vector<AnsweredGroup> groups;
    std::optional<AnsweredGroup> next = queue_.Pop(absl::Minutes(1));
    // Whatever waits is scored together: scorers like full batches.
    for (; next; next = queue_.Pop(absl::ZeroDuration())) groups.push_back(*std::move(next));
    if (stopped()) return;
    if (groups.empty()) continue;
    const int n = static_cast<int>(groups.size());
    const absl::Status status = ScoreAndSubmit(std::move(groups));
    num_waiting_ -= n;
    if (!status.ok() && !stopped()) parts_.failed(status);
  }
}

// Of the completions of all groups of `purpose`, by the scorers that may be asked about them.
void HandIn::AddScores(const std::vector<AnsweredGroup>& groups, proto::GroupLease::Purpose purpose,
                       std::vector<proto::SubmitGroupRequest>* requests) {
  std::vector<NamedScorer> scorers = parts_.scorers;
  if (purpose == proto::GroupLease::TRAIN)
    std::erase_if(scorers, [](const NamedScorer& scorer) { return scorer.evaluation_only; });
  std::vector<proto::ScoreItem> items;
  std::vector<proto::Completion*> completions;  // Of the items.
  ScoringOptions options;
  options.retry_until = absl::InfinitePast();
  for (size_t i = 0; i < groups.size(); ++i) {
    const AnsweredGroup& group = groups[i];
    if (group.lease.purpose() != purpose) continue;
    options.retry_until = std::max(options.retry_until, group.deadline);
    for (int c = 0; c < (*requests)[i].completion_size(); ++c) {
      proto::Completion* const completion = (*requests)[i].mutable_completion(c);
      if (group.refusal.empty()) {
        proto::ScoreItem& item = items.emplace_back();
        item.set_id(absl::StrCat(group.lease.lease_id(), "/", c));
        *item.mutable_prompt() = group.lease.prompt().message();
        item.set_completion(completion->text());
        item.set_finish_reason(completion->finish_reason());
        completions.push_back(completion);
        continue;
      }
      for (const NamedScorer& scorer : scorers) {
        proto::Score* const score = completion->add_score();
        score->set_scorer_name(scorer.name);
        score->set_status(proto::REFUSED_INPUT);
        score->set_message(group.refusal);
      }
    }
  }
  options.reward = parts_.config->reward();
  options.first_backoff = parts_.score_backoff;
  options.wait = [this](absl::Duration how_long) { return Wait(how_long); };
  for (std::vector<proto::Score>& of_scorer : ScoreItems(scorers, items, options)) {
    for (size_t k = 0; k < of_scorer.size(); ++k)
      *completions[k]->add_score() = std::move(of_scorer[k]);
  }
}

absl::Status HandIn::ScoreAndSubmit(std::vector<AnsweredGroup> groups) {
  std::vector<proto::SubmitGroupRequest> requests;
  for (const AnsweredGroup& group : groups) {
    requests.push_back(MakeRequest(group, [this](const std::vector<int32_t>& tokens) {
      return parts_.policy->Decode(tokens);
    }));
    if (group.refusal.empty()) continue;
    WB_LOG(WARNING) << group.refusal;
    parts_.progress->SetError(group.refusal);
  }
  const absl::Time started = absl::Now();
  AddScores(groups, proto::GroupLease::TRAIN, &requests);
  AddScores(groups, proto::GroupLease::EVALUATE, &requests);
  // Cut short, so scores may be missing: leased again, as if nothing had been.
  if (stopped()) return absl::OkStatus();
  const double score_seconds =
      absl::ToDoubleSeconds(absl::Now() - started) / static_cast<double>(requests.size());
  for (proto::SubmitGroupRequest& request : requests) {
    request.set_score_seconds(score_seconds);
    WB_RETURN_IF_ERROR(Submit(request));
  }
  return absl::OkStatus();
}

// Until the learner has answered: a group is counted once, however often it is sent.
absl::Status HandIn::Submit(const proto::SubmitGroupRequest& request) {
  proto::SubmitGroupRequest sent = request;
  while (!stopped()) {
    sent.set_member_id(parts_.membership->member_id());
    const absl::StatusOr<proto::SubmitGroupResponse> response = parts_.learner->SubmitGroup(sent);
    if (response.ok()) {
      parts_.progress->CountSubmitted();
      if (response->outcome() == proto::SubmitGroupResponse::ACCEPTED) return absl::OkStatus();
      WB_LOG(WARNING) << "group " << request.group_id() << " was not taken: "
                      << proto::SubmitGroupResponse::Outcome_Name(response->outcome()) << " "
                      << response->message();
      if (response->outcome() == proto::SubmitGroupResponse::REFUSED) {
        parts_.progress->SetError(response->message());
        parts_.refused();
      }
      return absl::OkStatus();
    }
    if (!Passing(response.status())) return response.status();
    parts_.progress->SetError(response.status().message());
    Wait(absl::Milliseconds(500));
  }
  return absl::OkStatus();
}

}  // namespace wideberth::actor
