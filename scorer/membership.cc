// SPDX-License-Identifier: Apache-2.0
#include "scorer/membership.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"

namespace wideberth::scorer {
namespace {

bool MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

}  // namespace

Membership::Membership(transport::LearnerClient* client, proto::RegisterRequest registration,
                       std::function<proto::MemberStatus()> status, const Clock* clock)
    : client_(client),
      registration_(std::move(registration)),
      status_(std::move(status)),
      clock_(*clock),
      last_answer_(clock->Now()) {}

absl::StatusOr<proto::RunConfig> Membership::Join() {
  WB_ASSIGN_OR_RETURN(proto::RegisterResponse response, client_->Register(registration_));
  member_id_ = response.member_id();
  lost_after_ = 2 * absl::Seconds(response.config().learner().member_timeout());
  last_answer_ = clock_.Now();
  return std::move(*response.mutable_config());
}

absl::StatusOr<Membership::Standing> Membership::Silent(const absl::Status& why) const {
  const absl::Duration silence = clock_.Now() - last_answer_;
  if (silence < lost_after_) return Standing::kMember;
  return absl::UnavailableError(absl::StrCat(registration_.name(),
                                             " has had no answer from the learner for ",
                                             absl::FormatDuration(silence), ": ", why.message()));
}

absl::StatusOr<Membership::Standing> Membership::Beat() {
  proto::HeartbeatRequest request;
  request.set_member_id(member_id_);
  *request.mutable_status() = status_();
  const absl::StatusOr<proto::HeartbeatResponse> response = client_->Heartbeat(request);
  if (transport::IsRefusal(response.status())) return response.status();
  if (!response.ok()) return Silent(response.status());
  last_answer_ = clock_.Now();
  if (response->drain()) return Standing::kDrained;
  if (response->known()) return Standing::kMember;
  WB_LOG(WARNING) << "the learner does not know " << registration_.name()
                  << " any more: registering again";
  const absl::Status joined = Join().status();
  if (joined.ok()) return Standing::kMember;
  return MayPass(joined) ? Silent(joined) : joined;
}

absl::Status Membership::Run(absl::Duration interval) {
  while (!stopped()) {
    const absl::StatusOr<Standing> standing = Beat();
    if (stopped()) break;
    if (!standing.ok()) return standing.status();
    if (*standing == Standing::kDrained) return absl::OkStatus();
    MutexLock lock(mutex_);
    if (!stopped_ && !soon_) wake_.WaitFor(mutex_, interval);
    soon_ = false;
  }
  return absl::OkStatus();
}

bool Membership::stopped() const {
  MutexLock lock(mutex_);
  return stopped_;
}

void Membership::BeatSoon() {
  MutexLock lock(mutex_);
  soon_ = true;
  wake_.SignalAll();
}

void Membership::Stop() {
  MutexLock lock(mutex_);
  stopped_ = true;
  wake_.SignalAll();
}

}  // namespace wideberth::scorer
