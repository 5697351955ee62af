// SPDX-License-Identifier: Apache-2.0
#include "actor/rollout.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "transport/message_limits.h"

namespace wideberth::actor {
namespace {

// Deterministic runs decode group by group: sums round differently in batches of another size.
int Capacity(const proto::RunConfig& config) {
  return config.learner().deterministic() ? 1 : std::max(1, config.actor().groups_per_lease());
}

}  // namespace

Rollout::Rollout(Parts parts)
    : parts_(std::move(parts)),
      capacity_(Capacity(*parts_.config)),
      hand_in_({parts_.config, parts_.policy, parts_.learner, parts_.membership, parts_.scorers,
                parts_.progress, parts_.score_backoff,
                [this](const absl::Status& why) { Fail(why); }, [this] { refused_ = true; }}) {}

absl::Status Rollout::Run() {
  std::thread leasing([this] { LeaseLoop(); });
  while (!stopped()) {
    const absl::Status status = Advance();
    if (status.ok()) continue;
    if (Passing(status)) {
      GiveBack(status);
    } else {
      Fail(status);
    }
  }
  leasing.join();
  hand_in_.Join();
  parts_.policy->Clear();
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
  hand_in_.Stop();
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

// What is answered but not handed in counts as well: where scorers are the slower side, leases
// would only grow old here.
bool Rollout::AwaitRoom(int* max_groups) {
  constexpr absl::Duration kLook = absl::Milliseconds(20);
  MutexLock lock(mutex_);
  while (!stopped_) {
    const int here = static_cast<int>(waiting_.size()) + num_running_;
    *max_groups = std::min(capacity_ - here, 3 * capacity_ - here - hand_in_.num_waiting());
    if (*max_groups > 0) return true;
    wake_.WaitFor(mutex_, kLook);
  }
  return false;
}

void Rollout::LeaseLoop() {
  int max_groups = 0;
  while (AwaitRoom(&max_groups)) {
    const absl::Time leased_at = absl::Now();
    absl::StatusOr<std::vector<proto::GroupLease>> leases = Lease(max_groups);
    if (!leases.ok()) {
      if (!Passing(leases.status())) Fail(leases.status());
      if (!stopped()) parts_.progress->SetError(leases.status().message());
      Wait(absl::Milliseconds(500));
      continue;
    }
    MutexLock lock(mutex_);
    for (proto::GroupLease& lease : *leases) {
      const absl::Time deadline = leased_at + absl::Seconds(lease.timeout());
      waiting_.push_back({std::move(lease), deadline});
    }
    wake_.SignalAll();
  }
}

absl::StatusOr<std::vector<proto::GroupLease>> Rollout::Lease(int max_groups) {
  proto::LeasePromptsRequest request;
  request.set_member_id(parts_.membership->member_id());
  request.set_max_groups(std::min(max_groups, transport::kMaxLeases));
  WB_ASSIGN_OR_RETURN(proto::LeasePromptsResponse response, parts_.learner->LeasePrompts(request));
  if (response.drain()) {
    parts_.membership->NoteDrain();
    Stop();
  } else if (response.lease().empty()) {
    Wait(absl::Milliseconds(std::max(1, response.retry_after_ms())));
  }
  return std::vector<proto::GroupLease>(response.lease().begin(), response.lease().end());
}

absl::Status Rollout::Advance() {
  if (refused_.exchange(false)) {
    // Fetched anew, whatever its number, and nothing more is sampled with what we have.
    parts_.adapters->Forget();
    version_.reset();
    GiveBack(absl::AbortedError("the learner does not know the policy version in use"));
  }
  WB_RETURN_IF_ERROR(SwapIfNewer());
  std::vector<Waiting> leases = TakeLeases();
  if (!leases.empty()) WB_RETURN_IF_ERROR(Start(std::move(leases)));
  return running_.empty() ? absl::OkStatus() : StepAll();
}

std::vector<Rollout::Waiting> Rollout::TakeLeases() {
  constexpr absl::Duration kLook = absl::Milliseconds(20);
  std::vector<Waiting> taken;
  MutexLock lock(mutex_);
  if (waiting_.empty() && running_.empty() && !stopped_) {
    parts_.progress->SetState("idle");
    wake_.WaitFor(mutex_, kLook);
  }
  while (!waiting_.empty() && static_cast<int>(running_.size() + taken.size()) < capacity_) {
    const proto::GroupLease& lease = waiting_.front().lease;
    const bool alone = running_.empty() && taken.empty();
    if (!alone && lease.adapter_off() != adapter_off_) break;
    // A version that is still on its way is waited for only where nothing runs meanwhile.
    if (!running_.empty() && !lease.adapter_off() &&
        !(version_ && *version_ >= lease.policy_version()))
      break;
    adapter_off_ = lease.adapter_off();
    taken.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  num_running_ = static_cast<int>(running_.size() + taken.size());
  return taken;
}

absl::Status Rollout::SwapIfNewer() {
  if (!running_.empty() && (adapter_off_ || parts_.config->learner().deterministic()))
    return absl::OkStatus();
  const auto blob = parts_.adapters->TakeNewer(version_);
  return blob == nullptr ? absl::OkStatus() : Use(*blob);
}

absl::Status Rollout::SwapTo(uint64_t wanted, absl::Time deadline) {
  if (version_ && *version_ >= wanted) return absl::OkStatus();
  parts_.progress->SetState("waiting");
  WB_ASSIGN_OR_RETURN(const auto blob, parts_.adapters->WaitFor(wanted, deadline));
  return Use(*blob);
}

absl::Status Rollout::Use(const transport::AdapterBlob& blob) {
  const absl::Time began = absl::Now();
  WB_RETURN_IF_ERROR(parts_.policy->Use(blob));
  version_ = blob.manifest.version();
  const std::string& fingerprint = blob.manifest.fingerprint();
  if (!adapter_off_) {
    for (auto& [index, group] : running_) group.fingerprints[*version_] = fingerprint;
  }
  fingerprint_ = fingerprint;
  const absl::Duration paused = absl::Now() - began;
  parts_.progress->SetSwap(paused);
  parts_.progress->SetVersion(*version_);
  WB_LOG(INFO) << "samples with policy version " << *version_ << " (" << fingerprint << "), "
               << running_.size() << " groups under way, paused for "
               << absl::FormatDuration(absl::Trunc(paused, absl::Microseconds(1)));
  parts_.adapters->Acknowledge(*version_, fingerprint);
  return absl::OkStatus();
}

AnsweredGroup Rollout::Read(const Waiting& waiting) const {
  AnsweredGroup group;
  group.lease = waiting.lease;
  group.deadline = waiting.deadline;
  if (!group.lease.adapter_off()) group.fingerprints[*version_] = fingerprint_;
  const std::string name = absl::StrCat("prompt ", group.lease.prompt().id());
  const int64_t max_new_tokens = parts_.config->generation().max_new_tokens();
  const int64_t limit = parts_.policy->context_tokens() - max_new_tokens;
  absl::StatusOr<std::vector<int32_t>> prompt = parts_.policy->Encode(group.lease.prompt());
  if (!prompt.ok()) {
    group.refusal = absl::StrCat(name, ": ", prompt.status().message());
  } else if (prompt->empty()) {
    group.refusal = absl::StrCat(name, " has no tokens");
  } else if (static_cast<int64_t>(prompt->size()) > limit) {
    group.refusal = absl::StrCat(name, " has ", prompt->size(), " tokens, at most ", limit,
                                 " fit (context ", parts_.policy->context_tokens(),
                                 " less generation.max_new_tokens ", max_new_tokens, ")");
  } else {
    group.prompt = *std::move(prompt);
  }
  return group;
}

absl::Status Rollout::AnswerWith(const std::string& text, AnsweredGroup* group) const {
  model::Sampled given;
  given.tokens = parts_.policy->EncodeText(text);
  if (given.tokens.empty())
    return absl::InvalidArgumentError(absl::StrCat("the text \"", text, "\" has no tokens"));
  given.logprobs.assign(given.tokens.size(), 0.0f);
  given.finish = proto::STOP;
  group->completions.assign(group->lease.num_completions(), given);
  return absl::OkStatus();
}

absl::Status Rollout::Start(std::vector<Waiting> leases) {
  if (!adapter_off_) {
    uint64_t wanted = 0;
    absl::Time deadline = absl::InfiniteFuture();
    for (const Waiting& waiting : leases) {
      wanted = std::max(wanted, waiting.lease.policy_version());
      deadline = std::min(deadline, waiting.deadline);
    }
    WB_RETURN_IF_ERROR(SwapTo(wanted, deadline));
  }
  parts_.progress->SetState("generating");
  std::vector<model::PromptGroup> prompts;
  std::vector<AnsweredGroup> groups;
  for (const Waiting& waiting : leases) {
    AnsweredGroup group = Read(waiting);
    if (group.refusal.empty() && !group.lease.has_text()) {
      prompts.push_back({group.lease.group_id(), group.prompt, group.lease.num_completions()});
      groups.push_back(std::move(group));
      continue;
    }
    if (group.refusal.empty()) WB_RETURN_IF_ERROR(AnswerWith(group.lease.text(), &group));
    HandOver(std::move(group));
  }
  if (prompts.empty()) return absl::OkStatus();
  const absl::Time began = absl::Now();
  WB_ASSIGN_OR_RETURN(size_t index, parts_.policy->Add(prompts, adapter_off_));
  const absl::Duration took = absl::Now() - began;
  decoding_ += took;
  for (AnsweredGroup& group : groups) {
    group.generate_seconds = absl::ToDoubleSeconds(took) / static_cast<double>(groups.size());
    running_[index++] = std::move(group);
  }
  return absl::OkStatus();
}

absl::Status Rollout::StepAll() {
  const absl::Time began = absl::Now();
  WB_RETURN_IF_ERROR(parts_.policy->Step());
  const absl::Duration took = absl::Now() - began;
  decoding_ += took;
  const double share = absl::ToDoubleSeconds(took) / static_cast<double>(running_.size());
  for (auto& [index, group] : running_) group.generate_seconds += share;
  std::vector<model::Generator::Finished> finished = parts_.policy->TakeFinished();
  if (finished.empty() && decoding_ < absl::Seconds(1)) return absl::OkStatus();
  parts_.progress->CountGenerated(parts_.policy->num_sampled() - num_counted_, decoding_);
  num_counted_ = parts_.policy->num_sampled();
  decoding_ = absl::ZeroDuration();
  for (model::Generator::Finished& one : finished) {
    const auto group = running_.find(one.index);
    WB_CHECK(group != running_.end(), "only groups that run can end");
    group->second.completions = std::move(one.completions);
    HandOver(std::move(group->second));
    running_.erase(group);
  }
  return absl::OkStatus();
}

void Rollout::HandOver(AnsweredGroup group) {
  const absl::Status pushed = hand_in_.Push(std::move(group));
  if (!pushed.ok() && !stopped())
    WB_LOG(WARNING) << "a group is given back, scoring stands still: " << pushed.message();
  MutexLock lock(mutex_);
  --num_running_;
  wake_.SignalAll();
}

// Leases that are not handed in are leased to somebody else.
void Rollout::GiveBack(const absl::Status& why) {
  if (stopped()) return;
  WB_LOG(WARNING) << running_.size() << " groups under way are given back: " << why.message();
  parts_.progress->SetError(why.message());
  parts_.policy->Clear();
  running_.clear();
  num_counted_ = 0;
  MutexLock lock(mutex_);
  num_running_ = 0;
}

}  // namespace wideberth::actor
