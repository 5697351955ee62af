// SPDX-License-Identifier: Apache-2.0
#include "learner/members.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace wideberth::learner {
namespace {

// Names, not processes: one that comes again under its own takes no room.
constexpr size_t kMaxMembers = size_t{1} << 16;

}  // namespace

Members::Member* Members::FindById(const std::string& member_id) {
  const auto name = name_of_id_.find(member_id);
  if (name == name_of_id_.end()) return nullptr;
  Member& member = by_name_.at(name->second);
  return member.id == member_id ? &member : nullptr;
}

absl::StatusOr<Members::Registered> Members::Register(const proto::RegisterRequest& request) {
  if (request.name().empty())
    return absl::InvalidArgumentError("Register: the member's name is empty");
  if (request.role() == proto::SCORER &&
      (request.address().empty() || request.scorer_name().empty())) {
    return absl::InvalidArgumentError(absl::StrCat("Register: scorer ", request.name(),
                                                   " must send its address and scorer_name"));
  }
  if (request.role() == proto::ACTOR && !request.base_fingerprint().empty() &&
      request.base_fingerprint() != base_fingerprint_) {
    return absl::FailedPreconditionError(
        absl::StrCat("Register: ", request.name(), " has base weights with fingerprint ",
                     request.base_fingerprint(), ", expected ", base_fingerprint_,
                     " as in the learner; policy.model.path must hold the same files everywhere"));
  }
  MutexLock lock(mutex_);
  Registered result;
  ++num_changes_;
  result.member_id = absl::StrCat(request.name(), "#", ++num_registrations_);
  const auto former = by_name_.find(request.name());
  if (former == by_name_.end() && by_name_.size() >= kMaxMembers) {
    return absl::ResourceExhaustedError(
        absl::StrCat("Register: ", request.name(), " is one more than ", kMaxMembers, " members"));
  }
  if (former != by_name_.end()) result.ended_id = former->second.id;
  Member member;
  member.id = result.member_id;
  member.registration = request;
  member.status.set_state("starting");
  member.last_heard = clock_->Now();
  by_name_[request.name()] = std::move(member);
  name_of_id_[result.member_id] = request.name();
  return result;
}

bool Members::Heartbeat(const std::string& member_id, const proto::MemberStatus& status,
                        bool drain) {
  MutexLock lock(mutex_);
  Member* member = FindById(member_id);
  if (member == nullptr) return false;
  const std::string last_error = member->status.last_error();
  member->status = status;
  // An error stays on the page until a newer one replaces it.
  if (!status.has_last_error()) member->status.set_last_error(last_error);
  member->last_heard = clock_->Now();
  num_changes_ += member->lost;
  member->lost = false;
  member->told_to_drain |= drain;
  return true;
}

bool Members::Touch(const std::string& member_id, bool drain) {
  MutexLock lock(mutex_);
  Member* member = FindById(member_id);
  if (member == nullptr) return false;
  member->last_heard = clock_->Now();
  num_changes_ += member->lost;
  member->lost = false;
  member->told_to_drain |= drain;
  return true;
}

bool Members::MayLease(const std::string& member_id) {
  MutexLock lock(mutex_);
  const Member* member = FindById(member_id);
  return member != nullptr && member->registration.role() == proto::ACTOR &&
         !member->registration.base_fingerprint().empty();
}

bool Members::Distrust(const std::string& member_id, const std::string& why) {
  MutexLock lock(mutex_);
  Member* member = FindById(member_id);
  if (member == nullptr) return false;
  if (member->distrust.empty()) member->distrust = why;
  member->status.set_last_error(why);
  return true;
}

absl::Status Members::Trusts(const std::string& member_id) {
  MutexLock lock(mutex_);
  const Member* member = FindById(member_id);
  if (member == nullptr || member->distrust.empty()) return absl::OkStatus();
  return absl::DataLossError(member->distrust);
}

bool Members::WantsBroadcast(const std::string& member_id) {
  MutexLock lock(mutex_);
  const Member* member = FindById(member_id);
  return member != nullptr && member->registration.wants_broadcast();
}

bool Members::Acknowledge(const std::string& member_id, uint64_t version,
                          const std::string& fingerprint) {
  MutexLock lock(mutex_);
  Member* member = FindById(member_id);
  if (member == nullptr) return false;
  member->version = version;
  member->fingerprint = fingerprint;
  member->last_heard = clock_->Now();
  return true;
}

std::vector<Members::Member> Members::ReapLost() {
  MutexLock lock(mutex_);
  std::vector<Member> lost;
  const absl::Time now = clock_->Now();
  for (auto& [name, member] : by_name_) {
    if (member.lost || now - member.last_heard <= timeout_) continue;
    member.lost = true;
    ++num_changes_;
    lost.push_back(member);
  }
  return lost;
}

std::vector<proto::ScorerEndpoint> Members::ScorerEndpoints() const {
  MutexLock lock(mutex_);
  std::vector<proto::ScorerEndpoint> endpoints;
  for (const auto& [name, member] : by_name_) {
    if (member.lost || member.registration.role() != proto::SCORER) continue;
    if (member.status.state() == "draining") continue;
    proto::ScorerEndpoint& endpoint = endpoints.emplace_back();
    endpoint.set_scorer_name(member.registration.scorer_name());
    endpoint.set_name(name);
    endpoint.set_address(member.registration.address());
  }
  return endpoints;
}

std::vector<Members::Member> Members::Snapshot() const {
  MutexLock lock(mutex_);
  std::vector<Member> members;
  for (const auto& [name, member] : by_name_) members.push_back(member);
  return members;
}

std::optional<std::vector<Members::Member>> Members::ActorsSince(uint64_t* as_of) const {
  MutexLock lock(mutex_);
  if (*as_of == num_changes_) return std::nullopt;
  *as_of = num_changes_;
  std::vector<Member> actors;
  for (const auto& [name, member] : by_name_) {
    if (!member.lost && member.registration.role() == proto::ACTOR) actors.push_back(member);
  }
  return actors;
}

std::string Members::NameOf(const std::string& member_id) const {
  MutexLock lock(mutex_);
  const auto name = name_of_id_.find(member_id);
  return name == name_of_id_.end() ? "unknown member" : name->second;
}

std::string Members::Describe(const std::string& member_id) const {
  MutexLock lock(mutex_);
  const auto name = name_of_id_.find(member_id);
  if (name == name_of_id_.end()) return "unknown member";
  const Member& member = by_name_.at(name->second);
  if (member.id != member_id) return absl::StrCat(name->second, ", since started again");
  return absl::StrCat(
      name->second, " on ", member.registration.host(), ", heard of ",
      absl::FormatDuration(absl::Trunc(clock_->Now() - member.last_heard, absl::Seconds(1))),
      " ago");
}

int Members::NumAlive(proto::Role role) const {
  MutexLock lock(mutex_);
  int n = 0;
  for (const auto& [name, member] : by_name_)
    n += !member.lost && member.registration.role() == role;
  return n;
}

std::vector<std::string> Members::NotTold(absl::Duration silence) const {
  MutexLock lock(mutex_);
  std::vector<std::string> ids;
  const absl::Time since = clock_->Now() - silence;
  for (const auto& [name, member] : by_name_) {
    if (!member.lost && !member.told_to_drain && member.last_heard >= since)
      ids.push_back(member.id);
  }
  return ids;
}

std::pair<int, int> Members::ActorsAt(uint64_t version) const {
  MutexLock lock(mutex_);
  int at = 0, all = 0;
  for (const auto& [name, member] : by_name_) {
    if (member.lost || member.registration.role() != proto::ACTOR) continue;
    ++all;
    at += member.version.has_value() && *member.version >= version;
  }
  return {at, all};
}

}  // namespace wideberth::learner
