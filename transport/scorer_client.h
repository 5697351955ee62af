// SPDX-License-Identifier: Apache-2.0
// How an actor has completions scored by one named scorer, whatever happens to its replicas.
// Abstract, so that roles are tested without a network (tests/testing/fake_wire.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/wire.pb.h"
#include "transport/credentials.h"

namespace wideberth::transport {

// Thread-safe.
class ScorerClient {
 public:
  struct Options {
    int max_items_per_call = 16;  // Larger batches are split, so that replicas share them.
    // Doubling, where every replica is full; one that is full is passed over for so long.
    absl::Duration first_backoff = absl::Milliseconds(50);
    absl::Duration max_backoff = absl::Seconds(2);
    // Attempts of a piece that may fail at a replica (it dies, it answers an error) before the
    // failure is final. Small, since the items themselves may be what it dies of. Overload, and a
    // replica that is not there, do not count.
    int max_attempts = 3;
    absl::Duration unreachable_timeout =
        absl::Seconds(30);  // No connection for so long is final: time to restart a replica.
    // A call that takes longer than this share of the recent ones is made to another replica as
    // well, within a budget of one in ten; 1: never.
    double hedge_quantile = 0.95;
    // A replica that has answered nothing for so long, and for several times what calls usually
    // take, is silent: what it has is asked of others, and it is passed over until it answers.
    absl::Duration min_silence = absl::Seconds(1);
    Credentials own;  // With certificates, only processes with a scorer's are spoken to.
  };
  struct Endpoint {
    // NOLINTNEXTLINE(google-explicit-constructor): an address alone will do.
    Endpoint(std::string address, std::string name = "replica")
        : address(std::move(address)), name(std::move(name)) {}
    std::string address;  // "host:port".
    std::string name;     // Of the process there, for messages: "scorer-safety-0".
  };
  // Counted since the start. A call is one piece of a batch at one replica.
  struct Stats {
    int64_t num_calls = 0;
    int64_t num_hedges = 0;      // Calls made because another was slow.
    int64_t num_hedges_won = 0;  // Those that answered first.
    int64_t num_rescues = 0;     // Calls made because a replica was silent.
  };

  // A client of the scorer called `scorer_name`, without replicas yet.
  static std::unique_ptr<ScorerClient> Create(absl::string_view scorer_name,
                                              const Options& options);
  static std::unique_ptr<ScorerClient> Create(absl::string_view scorer_name);
  virtual ~ScorerClient() = default;

  // One typed result per item, in order, always, within `timeout` and a moment. Pieces go to the
  // replica with the fewest items outstanding; one that dies mid-call, is slow or has no room is
  // replaced by another, and the first good answer counts. Only when none is left that was not
  // asked does a piece wait. What is still unanswered becomes OVERLOADED (every replica's queue
  // stayed full), TIMED_OUT (no answer in time, or no replica known in time) or MODEL_ERROR
  // (replicas unreachable or failing), with a sentence; never a value.
  virtual std::vector<proto::Score> Score(const std::vector<proto::ScoreItem>& items,
                                          absl::Duration timeout) = 0;

  // The replicas to use from now on; calls under way to one that is gone from the list go on. May
  // be empty.
  virtual void SetEndpoints(const std::vector<Endpoint>& endpoints) = 0;

  // Ends every Score that is running or comes later with MODEL_ERROR results, at once. Used to
  // drain. Idempotent.
  virtual void Cancel() = 0;

  virtual Stats stats() const { return {}; }
};

}  // namespace wideberth::transport
