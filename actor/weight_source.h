// SPDX-License-Identifier: Apache-2.0
// Where an actor's policy versions come from: the learner itself, another actor that passes them
// on, or a broadcast, as the learner's heartbeats name it. Between membership.h, which brings the
// heartbeats, and the receiver, which fetches.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "proto/wire.pb.h"
#include "transport/adapter_carrier.h"
#include "transport/adapter_relay.h"
#include "transport/credentials.h"
#include "transport/learner_client.h"
#include "transport/weight_broadcast.h"

namespace wideberth::actor {

// Thread-safe.
class WeightSource final {
 public:
  // `hurry`: makes a heartbeat happen soon. `device`: of this actor; broadcasts need a GPU.
  WeightSource(transport::LearnerClient* learner, const std::function<std::string()>& member_id,
               std::function<void()> hurry, const transport::Credentials& own,
               const std::string& device);

  // For the receiver; lives as long as this.
  transport::AdapterSource* source();
  bool wants_broadcast() const { return broadcast_ != nullptr; }
  // What a heartbeat said.
  void Announce(const proto::HeartbeatResponse& response);
  // What the next heartbeat has to say.
  void Tell(proto::HeartbeatRequest* request);
  // Ends what is under way, but for calls to the learner, which are the client's. Idempotent.
  void Cancel();

 private:
  transport::GrpcAdapterSource direct_;
  transport::RelayedSource relayed_;
  std::unique_ptr<transport::BroadcastSource> broadcast_;  // Null: versions come by stream alone.
};

}  // namespace wideberth::actor
