// SPDX-License-Identifier: Apache-2.0
// The replicas of one scorer as a client sees them: what each has outstanding, which of them fell
// silent, whom to ask next. Private to transport, since it names types of the RPC library.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "proto/wire.grpc.pb.h"
#include "transport/rpc.h"
#include "transport/scorer_client.h"

namespace wideberth::transport {

struct Replica {
  Replica(const ScorerClient::Endpoint& endpoint, const Credentials& own);

  void NoteCall(int64_t num_items, absl::Time now);
  // The call is over, answered or not.
  void NoteEnd(int64_t num_items) { num_outstanding -= num_items; }
  // It has done what a call asked for, or failed at it.
  void NoteAnswer(absl::Time now);
  // It took nothing of a call, or not all. Says nothing about what it has outstanding; passed over
  // until then, since else the fullest would be the least busy one.
  void NoteRefusal(absl::Time until);
  // Asks of it nothing for a while, as far as others are there.
  void Avoid(absl::Time until) { avoid_until = until; }
  // Calls were made to it and it has answered none of any client here for `patience`. Calls that
  // were cancelled meanwhile count.
  bool Silent(absl::Time now, absl::Duration patience) const {
    return now - unanswered_since >= patience;
  }

  // For messages: "scorer-safety-0 at 10.0.0.7:4711".
  std::string where() const { return absl::StrCat(name, " at ", address); }

  const std::string address;
  const std::string name;
  const std::shared_ptr<grpc::Channel> channel;
  const std::unique_ptr<proto::Scorer::Stub> stub;
  int64_t num_outstanding = 0;  // Items.
  absl::Time unanswered_since = absl::InfiniteFuture();
  absl::Time last_call = absl::InfinitePast();
  absl::Time avoid_until = absl::InfinitePast();
};

// Not thread-safe.
class Replicas final {
 public:
  // `own`: who this process is to them.
  explicit Replicas(const Credentials& own = {}) : own_(own) {}

  // Replaces the list; a replica that stays keeps what is known of it, one that goes is kept alive
  // by the calls to it.
  void Set(const std::vector<ScorerClient::Endpoint>& endpoints);

  // The one with the fewest items outstanding that is not in `except`, of equals the one that was
  // not called for longest. One to be avoided, or that
  // is silent and has a call outstanding, comes last, and with `trusted` not at all. A silent one
  // without a call may be tried: its next answer brings it back. Null: there is none.
  std::shared_ptr<Replica> Pick(const std::set<std::string>& except, absl::Time now,
                                absl::Duration patience, bool trusted) const;

 private:
  const Credentials own_;
  std::map<std::string, std::shared_ptr<Replica>> by_address_;
};

}  // namespace wideberth::transport
