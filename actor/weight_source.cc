// SPDX-License-Identifier: Apache-2.0
#include "actor/weight_source.h"

#include <utility>

namespace wideberth::actor {
namespace {

transport::RelayedSource::Parts Relays(transport::AdapterSource* learner,
                                       const std::function<std::string()>& member_id,
                                       std::function<void()> hurry,
                                       const transport::Credentials& own) {
  transport::RelayedSource::Parts parts;
  parts.learner = learner;
  parts.member_id = member_id;
  parts.hurry = std::move(hurry);
  parts.own = own;
  return parts;
}

}  // namespace

WeightSource::WeightSource(transport::LearnerClient* learner,
                           const std::function<std::string()>& member_id,
                           std::function<void()> hurry, const transport::Credentials& own,
                           const std::string& device)
    : direct_(learner, member_id), relayed_(Relays(&direct_, member_id, std::move(hurry), own)) {
  auto communicators = transport::MakeCommunicators(device);
  if (communicators == nullptr) return;
  broadcast_ = std::make_unique<transport::BroadcastSource>(&relayed_, learner, member_id,
                                                            std::move(communicators));
}

transport::AdapterSource* WeightSource::source() {
  if (broadcast_ != nullptr) return broadcast_.get();
  return &relayed_;
}

void WeightSource::Announce(const proto::HeartbeatResponse& response) {
  relayed_.Announce(response);
  if (broadcast_ != nullptr) broadcast_->Offer(response);
}

void WeightSource::Tell(proto::HeartbeatRequest* request) {
  if (const std::string failed = relayed_.TakeFailed(); !failed.empty())
    request->set_failed_adapter_address(failed);
  if (broadcast_ != nullptr) request->set_weight_generation(broadcast_->generation());
}

void WeightSource::Cancel() {
  relayed_.Cancel();
  if (broadcast_ != nullptr) broadcast_->Cancel();
}

}  // namespace wideberth::actor
