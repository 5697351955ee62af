// SPDX-License-Identifier: Apache-2.0
// A piece of a batch on its way to a score, and the calls that carry it. Private to ScorerClient.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/wire.pb.h"
#include "transport/replicas.h"
#include "transport/rpc.h"
#include "transport/scorer_client.h"

namespace wideberth::transport {

// One call to one replica. It holds the channel, so it may not be destroyed by the library's
// threads: a channel that ends on one of them makes that thread wait for itself.
struct Attempt {
  enum class Reason { kTurn, kHedge, kRescue };
  Reason reason = Reason::kTurn;
  std::vector<size_t> items;  // Indices into the batch, as in `request`.
  absl::Time started;
  grpc::ClientContext context;
  proto::ScoreRequest request;
  proto::ScoreResponse response;
  std::shared_ptr<Replica> replica;
};

// Items of a batch that travel together, and how far they are.
struct Piece {
  Piece(std::vector<size_t> items, const ScorerClient::Options& options)
      : items(std::move(items)), backoff(options.first_backoff, options.max_backoff) {}

  std::string where() const { return attempts.back()->replica->where(); }

  std::vector<size_t> items;  // Those without a result.
  Backoff backoff;
  std::vector<std::shared_ptr<Attempt>> attempts;  // In flight, two at most, the oldest first.
  bool hedged = false;
  absl::Time next_try = absl::InfinitePast();  // Where nothing is in flight.
  absl::Time unreachable_since = absl::InfiniteFuture();
  int num_failures = 0;
  std::set<std::string> tried;  // Addresses asked in vain since the last pause.
  std::string last_trouble;
  bool overloaded = false;  // The last trouble was a full queue.
};

// Whether the request never reached the replica: such an attempt cannot be the fault of its items.
bool NeverConnected(const absl::Status& status);

// Another attempt can help: the connection broke, the replica stopped or fell over. The rest are
// verdicts about the request.
bool MayPass(const absl::Status& status);

// Whether the score says something about its item, not about the replica that was asked.
bool IsVerdict(proto::ScoreStatus status);

// The items that have no result get this one: a failure of the scorer called `name`.
void Settle(Piece& piece, const std::string& name, proto::ScoreStatus status,
            const std::string& why, std::vector<proto::Score>* scores);

}  // namespace wideberth::transport
