// SPDX-License-Identifier: Apache-2.0
// The other ranks' end of rank_hub.h: joins rank 0, shows that this process is alive, fetches steps
// and brings its parts of collective operations.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/ranks.pb.h"
#include "transport/collective.h"
#include "transport/credentials.h"

namespace wideberth::transport {

// This machine as others know it: environment variable WIDEBERTH_HOST, or its name.
std::string OwnHost();

// Thread-safe. Calls block; each has a deadline and names rank 0's address, the call and the time
// when it is over. A connection that breaks is made again for a few seconds; what is repeated
// counts once. Errors of rank 0's own keep code and sentence.
class RankClient : public RankWire {
 public:
  struct Options {
    int rank = 1;
    absl::Duration rank_timeout = absl::Seconds(120);  // Until Join has told the run's.
    absl::Duration unreachable_timeout = absl::Seconds(5);
    Credentials own;  // As in LearnerClient.
  };
  // Waits until rank 0 at `address` ("host:port") accepts connections, at most `timeout`.
  static absl::StatusOr<std::unique_ptr<RankClient>> Connect(absl::string_view address,
                                                             absl::Duration timeout,
                                                             const Options& options);

  // Host and process are filled in. The first time starts the signs of life.
  virtual absl::StatusOr<proto::JoinRankResponse> Join(proto::JoinRankRequest request) = 0;
  // Blocks until there is a step after `done_step` or the run has ended, as long as rank 0 lives.
  virtual absl::StatusOr<proto::FetchStepResponse> FetchStep(int64_t done_step) = 0;
  // This rank cannot go on. Tries for a moment to say why.
  virtual void Leave(absl::string_view reason) = 0;
  // Shown on rank 0's page.
  virtual void Note(absl::string_view state, uint64_t step) = 0;
  // Ends every call that is running or comes later with Cancelled.
  virtual void Cancel() = 0;
};

}  // namespace wideberth::transport
