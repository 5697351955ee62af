// SPDX-License-Identifier: Apache-2.0
#include "actor/membership.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"

namespace wideberth::actor {

Membership::Membership(transport::LearnerClient* client, proto::RegisterRequest request,
                       absl::Duration lost_after, Callbacks callbacks, const Clock& clock)
    : client_(client),
      request_(std::move(request)),
      lost_after_(lost_after),
      callbacks_(std::move(callbacks)),
      clock_(clock),
      last_answer_(clock.Now()) {}

Membership::~Membership() { Stop(); }

absl::StatusOr<proto::RegisterResponse> Membership::Register() {
  WB_ASSIGN_OR_RETURN(proto::RegisterResponse response, client_->Register(request_));
  if (response.member_id().empty()) {
    return absl::InternalError(
        absl::StrCat("the learner registered ", request_.name(), " without giving it a member_id"));
  }
  MutexLock lock(mutex_);
  member_id_ = response.member_id();
  last_answer_ = clock_.Now();
  return response;
}

std::string Membership::member_id() const {
  MutexLock lock(mutex_);
  return member_id_;
}

bool Membership::Beat() {
  proto::HeartbeatRequest request;
  request.set_member_id(member_id());
  *request.mutable_status() = callbacks_.status();
  if (callbacks_.tell) callbacks_.tell(&request);
  const absl::StatusOr<proto::HeartbeatResponse> response = client_->Heartbeat(request);
  absl::Duration silence;
  {
    MutexLock lock(mutex_);
    if (stopped_ || ended_) return false;
    if (response.ok()) last_answer_ = clock_.Now();
    silence = clock_.Now() - last_answer_;
  }
  if (transport::IsRefusal(response.status())) {
    End(response.status());
    return false;
  }
  if (!response.ok()) {
    if (silence < lost_after_) return true;
    End(absl::Status(response.status().code(), absl::StrCat("the learner has not answered for ",
                                                            absl::FormatDuration(silence), ": ",
                                                            response.status().message())));
    return false;
  }
  if (response->drain()) {
    End(absl::OkStatus());
    return false;
  }
  if (!response->known()) {
    WB_LOG(WARNING) << "the learner does not know " << request.member_id()
                    << " any more; registering again";
    if (const auto again = Register(); !again.ok() && !absl::IsUnavailable(again.status()) &&
                                       !absl::IsDeadlineExceeded(again.status())) {
      End(again.status());
      return false;
    }
    return true;
  }
  callbacks_.scorers(*response);
  return true;
}

void Membership::Start(absl::Duration interval) {
  thread_ = std::thread([this, interval] {
    while (Beat()) {
      MutexLock lock(mutex_);
      const absl::Time next = absl::Now() + interval;
      while (!stopped_ && !ended_ && !hurry_ && absl::Now() < next)
        wake_.WaitFor(mutex_, next - absl::Now());
      hurry_ = false;
      if (stopped_ || ended_) return;
    }
  });
}

void Membership::Hurry() {
  MutexLock lock(mutex_);
  hurry_ = true;
  wake_.SignalAll();
}

void Membership::NoteDrain() { End(absl::OkStatus()); }

void Membership::End(const absl::Status& why) {
  {
    MutexLock lock(mutex_);
    if (ended_) return;
    ended_ = true;
    wake_.SignalAll();
  }
  callbacks_.ended(why);
}

void Membership::Stop() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    wake_.SignalAll();
  }
  if (thread_.joinable()) thread_.join();
}

}  // namespace wideberth::actor
