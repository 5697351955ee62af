// SPDX-License-Identifier: Apache-2.0
#include "transport/replicas.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "transport/message_limits.h"

namespace wideberth::transport {

Replica::Replica(const ScorerClient::Endpoint& endpoint, const Credentials& own)
    : address(endpoint.address),
      name(endpoint.name),
      channel(MakeChannel(address, own, proto::SCORER, kMaxScoreAnswerBytes)),
      stub(proto::Scorer::NewStub(channel)) {}

void Replica::NoteCall(int64_t num_items, absl::Time now) {
  num_outstanding += num_items;
  last_call = now;
  if (unanswered_since == absl::InfiniteFuture()) unanswered_since = now;
}

void Replica::NoteAnswer(absl::Time now) {
  unanswered_since = num_outstanding > 0 ? now : absl::InfiniteFuture();
  avoid_until = absl::InfinitePast();
}

void Replica::NoteRefusal(absl::Time until) {
  if (num_outstanding == 0) unanswered_since = absl::InfiniteFuture();
  avoid_until = std::max(avoid_until, until);
}

void Replicas::Set(const std::vector<ScorerClient::Endpoint>& endpoints) {
  std::map<std::string, std::shared_ptr<Replica>> replicas;
  for (const ScorerClient::Endpoint& endpoint : endpoints) {
    const auto known = by_address_.find(endpoint.address);
    const bool same = known != by_address_.end() && known->second->name == endpoint.name;
    replicas[endpoint.address] = same ? known->second : std::make_shared<Replica>(endpoint, own_);
  }
  by_address_ = std::move(replicas);
}

std::shared_ptr<Replica> Replicas::Pick(const std::set<std::string>& except, absl::Time now,
                                        absl::Duration patience, bool trusted) const {
  std::shared_ptr<Replica> best;
  std::tuple<bool, int64_t, absl::Time> best_rank;
  for (const auto& [address, replica] : by_address_) {
    if (except.count(address) > 0) continue;
    const bool doubtful = now < replica->avoid_until ||
                          (replica->num_outstanding > 0 && replica->Silent(now, patience));
    if (trusted && doubtful) continue;
    const std::tuple rank = {doubtful, replica->num_outstanding, replica->last_call};
    if (best != nullptr && rank >= best_rank) continue;
    best = replica;
    best_rank = rank;
  }
  return best;
}

}  // namespace wideberth::transport
