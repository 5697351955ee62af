// SPDX-License-Identifier: Apache-2.0
#include "learner/lease_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace wideberth::learner {

using Outcome = proto::SubmitGroupResponse;

std::string PhaseName(Phase phase) {
  switch (phase) {
    case Phase::kEvaluateBefore:
      return "before";
    case Phase::kTrain:
      return "train";
    case Phase::kEvaluateAfter:
      return "after";
    default:
      return absl::StrCat("arm", ArmOf(phase));
  }
}

LeaseTable::Group LeaseTable::MakeGroupLocked(uint64_t id) const {
  Group group;
  const auto known = restored_.groups.find(id);
  if (known == restored_.groups.end()) return group;
  group.attempt = known->second.attempt;
  group.stored_leases = known->second.stored_leases;
  if (known->second.accepted) group.state = State::kAccepted;
  return group;
}

void LeaseTable::BeginEvaluation(const Evaluation& evaluation, RestoredPhase restored) {
  MutexLock lock(mutex_);
  WB_CHECK(evaluation.phase != Phase::kTrain, "training is begun by BeginTraining");
  open_ = true;
  phase_ = evaluation.phase;
  adapter_off_ = evaluation.adapter_off;
  num_completions_ = evaluation.num_completions;
  version_ = evaluation.version;
  text_ = evaluation.text;
  restored_ = std::move(restored);
  groups_.clear();
  done_.clear();
  for (int i = 0; i < evaluation.num_groups; ++i) {
    const uint64_t id = kEvaluationGroup | static_cast<uint64_t>(i);
    groups_[id] = MakeGroupLocked(id);
  }
}

void LeaseTable::BeginTraining(uint64_t version, RestoredPhase restored) {
  MutexLock lock(mutex_);
  open_ = true;
  phase_ = Phase::kTrain;
  adapter_off_ = false;
  text_.clear();
  num_completions_ = options_.group_size;
  version_ = version;
  done_ = std::move(restored.done);
  restored_ = std::move(restored);
  groups_.clear();
  next_group_ = 0;
  OpenTrainingGroupsLocked();
}

void LeaseTable::Close() {
  MutexLock lock(mutex_);
  open_ = false;
}

void LeaseTable::OpenTrainingGroupsLocked() {
  if (version_ >= options_.max_steps) return;
  const uint64_t steps =
      std::min<uint64_t>(options_.max_staleness + 1, options_.max_steps - version_);
  const uint64_t wanted = steps * options_.groups_per_step;
  for (; groups_.size() < wanted; ++next_group_) {
    if (!done_.contains(next_group_)) groups_[next_group_] = MakeGroupLocked(next_group_);
  }
}

void LeaseTable::StepDone(uint64_t version, const std::vector<uint64_t>& group_ids) {
  MutexLock lock(mutex_);
  version_ = version;
  for (uint64_t id : group_ids) {
    groups_.erase(id);
    done_.insert(id);
  }
  if (open_ && phase_ == Phase::kTrain) OpenTrainingGroupsLocked();
}

void LeaseTable::Refuse(Phase phase, uint64_t group_id) {
  MutexLock lock(mutex_);
  if (phase != phase_) return;
  const auto found = groups_.find(group_id);
  if (found == groups_.end() || found->second.state != State::kAccepted) return;
  ++counters_.refused;
  ++found->second.attempt;
  found->second.stored_leases.insert(found->second.lease_id);
  found->second.state = State::kWaiting;
}

bool LeaseTable::gives_text() const {
  MutexLock lock(mutex_);
  return !text_.empty();
}

void LeaseTable::DropAccepted(uint64_t group_id) {
  MutexLock lock(mutex_);
  if (groups_.erase(group_id) == 0) return;
  done_.insert(group_id);
  ++counters_.stale;
  if (open_ && phase_ == Phase::kTrain) OpenTrainingGroupsLocked();
}

void LeaseTable::ExpireLocked() {
  const absl::Time now = clock_->Now();
  for (auto& [id, group] : groups_) {
    if (group.state != State::kLeased || now < group.deadline) continue;
    group.state = State::kWaiting;
    ++counters_.expired;
  }
}

proto::GroupLease LeaseTable::MakeLeaseLocked(uint64_t group_id, Group& group,
                                              const std::string& member_id) {
  group.state = State::kLeased;
  group.member_id = member_id;
  group.leased_version = version_;
  group.deadline = clock_->Now() + options_.lease_timeout;
  group.lease_id =
      absl::StrCat(PhaseName(phase_), "-", group_id & ~kEvaluationGroup, "-",
                   restored_.incarnation > 0 ? absl::StrCat(restored_.incarnation, ".") : "",
                   group.num_leases++);
  ++counters_.leased;
  proto::GroupLease lease;
  lease.set_lease_id(group.lease_id);
  lease.set_group_id(group_id);
  *lease.mutable_prompt() = prompt_of_(phase_, group_id);
  lease.set_num_completions(num_completions_);
  lease.set_policy_version(version_);
  lease.set_purpose(phase_ == Phase::kTrain ? proto::GroupLease::TRAIN
                                            : proto::GroupLease::EVALUATE);
  lease.set_timeout(absl::ToDoubleSeconds(options_.lease_timeout));
  lease.set_adapter_off(adapter_off_);
  if (!text_.empty()) lease.set_text(text_);
  return lease;
}

std::vector<proto::GroupLease> LeaseTable::Take(const std::string& member_id, int max_groups) {
  MutexLock lock(mutex_);
  std::vector<proto::GroupLease> leases;
  if (!open_) return leases;
  ExpireLocked();
  for (auto& [id, group] : groups_) {
    if (static_cast<int>(leases.size()) >= max_groups) break;
    if (group.state == State::kWaiting) leases.push_back(MakeLeaseLocked(id, group, member_id));
  }
  return leases;
}

Outcome::Outcome LeaseTable::Begin(const proto::SubmitGroupRequest& request, std::string* message,
                                   Phase* phase, int* attempt) {
  MutexLock lock(mutex_);
  const uint64_t id = request.group_id();
  if (!absl::StartsWith(request.lease_id(), absl::StrCat(PhaseName(phase_), "-"))) {
    ++counters_.stale;
    *message = absl::StrCat("lease ", request.lease_id(), " belongs to an earlier part of the run");
    return Outcome::STALE;
  }
  if (done_.contains(id)) {
    ++counters_.duplicate;
    *message = absl::StrCat("group ", id, " was counted before");
    return Outcome::DUPLICATE;
  }
  const auto found = groups_.find(id);
  if (found == groups_.end() || (found->second.num_leases == 0 && restored_.incarnation == 0)) {
    ++counters_.refused;
    *message = absl::StrCat("group ", id, " was never leased");
    return Outcome::REFUSED;
  }
  Group& group = found->second;
  if (group.state == State::kStoring || group.state == State::kAccepted ||
      group.stored_leases.contains(request.lease_id())) {
    ++counters_.duplicate;
    *message = absl::StrCat("group ", id, " was counted before");
    return Outcome::DUPLICATE;
  }
  if (phase_ == Phase::kTrain && request.policy_version() + options_.max_staleness < version_) {
    ++counters_.stale;
    // The prompt is not lost: it is answered again by a newer version.
    if (group.lease_id == request.lease_id()) group.state = State::kWaiting;
    *message = absl::StrCat("group ", id, " was sampled with version ", request.policy_version(),
                            ", the policy is at ", version_, " and learner.max_staleness is ",
                            options_.max_staleness);
    return Outcome::STALE;
  }
  group.state = State::kStoring;
  group.lease_id = request.lease_id();
  *phase = phase_;
  *attempt = group.attempt;
  return Outcome::ACCEPTED;
}

void LeaseTable::Finish(Phase phase, uint64_t group_id, Disposition disposition) {
  MutexLock lock(mutex_);
  ++counters_.accepted;
  if (phase != phase_) return;
  const auto found = groups_.find(group_id);
  if (found == groups_.end() || found->second.state != State::kStoring) return;
  Group& group = found->second;
  switch (disposition) {
    case Disposition::kUse:
      group.state = State::kAccepted;
      break;
    case Disposition::kRetry:
      ++counters_.retried;
      ++group.attempt;
      group.stored_leases.insert(group.lease_id);
      group.state = State::kWaiting;
      break;
    case Disposition::kDrop:
      ++counters_.dropped;
      groups_.erase(found);
      done_.insert(group_id);
      if (open_ && phase_ == Phase::kTrain) OpenTrainingGroupsLocked();
      break;
  }
}

void LeaseTable::Abandon(Phase phase, uint64_t group_id) {
  MutexLock lock(mutex_);
  if (phase != phase_) return;
  const auto found = groups_.find(group_id);
  if (found != groups_.end() && found->second.state == State::kStoring)
    found->second.state = State::kWaiting;
}

int LeaseTable::ReturnLeasesOf(const std::string& member_id) {
  MutexLock lock(mutex_);
  int n = 0;
  for (auto& [id, group] : groups_) {
    if (group.state != State::kLeased || group.member_id != member_id) continue;
    group.state = State::kWaiting;
    ++n;
  }
  counters_.returned += n;
  return n;
}

LeaseTable::Outstanding LeaseTable::outstanding() const {
  MutexLock lock(mutex_);
  Outstanding result;
  for (const auto& [id, group] : groups_) {
    if (group.state == State::kLeased) {
      ++result.leased;
      result.member_ids.insert(group.member_id);
    }
    result.waiting += group.state == State::kWaiting;
  }
  return result;
}

LeaseTable::Counters LeaseTable::counters() const {
  MutexLock lock(mutex_);
  return counters_;
}

void LeaseTable::CountRefused() {
  MutexLock lock(mutex_);
  ++counters_.refused;
}

std::vector<proto::OpenGroup> LeaseTable::OpenGroups() const {
  MutexLock lock(mutex_);
  std::vector<proto::OpenGroup> open;
  for (const auto& [id, group] : groups_) {
    proto::OpenGroup& out = open.emplace_back();
    out.set_group_id(id);
    out.set_attempt(group.attempt);
    out.set_accepted(group.state == State::kAccepted);
  }
  return open;
}

uint64_t LeaseTable::next_group() const {
  MutexLock lock(mutex_);
  return next_group_;
}

int LeaseTable::NumOpen() const {
  MutexLock lock(mutex_);
  return static_cast<int>(std::count_if(groups_.begin(), groups_.end(), [](const auto& entry) {
    return entry.second.state != State::kAccepted;
  }));
}

}  // namespace wideberth::learner
