// SPDX-License-Identifier: Apache-2.0
// The sending end of the weight wire: streams versions in checked chunks, from the start or from
// where a broken stream ended. Served by the learner beside its other calls, and by actors that
// pass versions on.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/wire.pb.h"
#include "transport/adapter_blob.h"
#include "transport/adapter_shelf.h"
#include "transport/credentials.h"

namespace wideberth::transport {

// What is handed out, and to whom. Called from several server threads at once: implementations are
// thread-safe and wait for nothing but a short lock.
class AdapterOffer {
 public:
  virtual ~AdapterOffer() = default;
  // The newest version above `have_version` (any version where `have_any` is false); null: nothing
  // newer. An error's code and message reach the caller.
  virtual absl::StatusOr<std::shared_ptr<const AdapterBlob>> NewestAdapter(
      const proto::FetchAdapterRequest& request) = 0;
  // Where the next version will appear; null: a request that finds nothing is answered at once,
  // whatever its `wait_ms`.
  virtual AdapterShelf* shelf() { return nullptr; }
  // Whether the version's bytes reach this caller by broadcast, so that they are not streamed.
  virtual bool ComesByBroadcast(const proto::FetchAdapterRequest&, const AdapterBlob&) {
    return false;
  }
};

// An actor's server: whatever is on the shelf, to everybody who asks.
class AdapterServer {
 public:
  // Serves at once on `address` ("host:port"; port 0: any free one), as `own`. The shelf must
  // outlive it. Unavailable with the reason when the address cannot be listened on,
  // FailedPrecondition beyond loopback without certificates and a token.
  static absl::StatusOr<std::unique_ptr<AdapterServer>> Start(absl::string_view address,
                                                              AdapterShelf* shelf,
                                                              const Credentials& own = {});
  virtual ~AdapterServer() = default;
  // What to tell others.
  virtual std::string address() const = 0;
  // Refuses new calls, lets running ones end within `grace`, then cancels them. Idempotent; the
  // destructor does the same without grace.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace wideberth::transport
