// SPDX-License-Identifier: Apache-2.0
// Who takes part in the run: registrations, heartbeats, losses, and where scorers are. Everybody is
// told one address, the learner's, and finds the others through this list. No torch and no RPC
// here.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "proto/wire.pb.h"

namespace wideberth::learner {

// Thread-safe; no call blocks.
class Members {
 public:
  struct Member {
    std::string id;  // This incarnation.
    proto::RegisterRequest registration;
    proto::MemberStatus status;
    absl::Time last_heard;
    bool lost = false;  // No heartbeat for `timeout`; a later one brings it back.
    bool told_to_drain = false;
    std::optional<uint64_t> version;  // Last acknowledged.
    std::string fingerprint;
    std::string distrust;  // Why nothing is taken from it any more; empty: it is trusted.
  };
  struct Registered {
    std::string member_id;
    std::optional<std::string> ended_id;  // The former incarnation under the same name.
  };

  // `base_fingerprint`: of the learner's own base weights; actors with another are refused. An
  // actor that sends none yet (it has still to be told which weights to load) is a member without
  // leases.
  Members(const Clock* clock, absl::Duration timeout, std::string base_fingerprint)
      : clock_(clock), timeout_(timeout), base_fingerprint_(std::move(base_fingerprint)) {}

  // InvalidArgument for a member without a name or a scorer without address or scorer_name;
  // FailedPrecondition for an actor on other weights.
  absl::StatusOr<Registered> Register(const proto::RegisterRequest& request);
  // False: unknown incarnation, it has to register again. Any call of a member counts as a sign of
  // life through `Touch`.
  bool Heartbeat(const std::string& member_id, const proto::MemberStatus& status, bool drain);
  bool Touch(const std::string& member_id, bool drain);
  // An actor of this incarnation that has shown its weights.
  bool MayLease(const std::string& member_id);
  // From now on nothing is taken from this incarnation. False where it is over already.
  bool Distrust(const std::string& member_id, const std::string& why);
  // DataLoss with the reason for an incarnation that is distrusted.
  absl::Status Trusts(const std::string& member_id);
  bool WantsBroadcast(const std::string& member_id);
  bool Acknowledge(const std::string& member_id, uint64_t version, const std::string& fingerprint);

  // The members that became lost since the last call.
  std::vector<Member> ReapLost();

  // The scorers that are alive and not ending, in order of the processes' names.
  std::vector<proto::ScorerEndpoint> ScorerEndpoints() const;
  // In order of name.
  std::vector<Member> Snapshot() const;
  // The actors that are alive, in order of name, where something about that has changed since it
  // was
  // `*as_of`; nullopt: nothing has.
  std::optional<std::vector<Member>> ActorsSince(uint64_t* as_of) const;
  // Name of an incarnation, also of an ended one; "unknown member" where it never registered.
  std::string NameOf(const std::string& member_id) const;
  // For messages: "actor-3 on node7, heard of 2s ago".
  std::string Describe(const std::string& member_id) const;
  int NumAlive(proto::Role role) const;
  // The ids of those that still have to be told that the run ends; not of those that are lost or
  // have been silent for longer than `silence`.
  std::vector<std::string> NotTold(absl::Duration silence) const;
  // Living actors that have acknowledged `version` or a later one, and all living actors.
  std::pair<int, int> ActorsAt(uint64_t version) const;

 private:
  Member* FindById(const std::string& member_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Clock* const clock_;
  const absl::Duration timeout_;
  const std::string base_fingerprint_;
  mutable Mutex mutex_;
  uint64_t num_changes_ ABSL_GUARDED_BY(mutex_) = 1;  // Of who is alive.
  uint64_t num_registrations_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, Member> by_name_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> name_of_id_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace wideberth::learner
