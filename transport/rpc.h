// SPDX-License-Identifier: Apache-2.0
// What the RPC servers and clients of this folder share: channel and server settings, status
// conversion, back-off. Private to transport, since it names types of the RPC library.
#pragma once

#include <grpcpp/grpcpp.h>

#include <exception>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "transport/credentials.h"

namespace wideberth::transport {

// A lazy channel to a server of role `peer`: nobody with another certificate is spoken to. Dead
// peers are noticed by keepalive within 15 s; no proxy. An answer of more than `max_receive_bytes`
// is ResourceExhausted.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address, const Credentials& own,
                                           proto::Role peer, size_t max_receive_bytes);

struct ListeningServer {
  std::unique_ptr<grpc::Server> server;
  std::string address;  // What to tell others.
  // Refuses new calls, lets running ones end within `grace`, then cancels them. Blocks until no
  // call is running. Idempotent; nothing where nothing listens.
  void Shutdown(absl::Duration grace) const;
};
// Serves `services` on `address` to callers that call_gate.h lets through; a larger message is
// refused with ResourceExhausted before it is read. A port in use is an error, never shared.
// Unavailable with the system's reason; FailedPrecondition where `own` does not allow to listen
// there (CheckMayListen).
absl::StatusOr<ListeningServer> Listen(absl::string_view address,
                                       const std::vector<grpc::Service*>& services,
                                       const Credentials& own, size_t max_receive_bytes);

// "host:port" of a listener as others reach it: for the any-address, environment variable
// WIDEBERTH_HOST or this machine's name.
std::string PublicAddress(absl::string_view listen_host, int port);
// InvalidArgument unless `address` is "host:port" or "[v6]:port" with a port of 0 .. 65535.
absl::Status SplitAddress(absl::string_view address, std::string* host, int* port);
// Why nobody answers at `host`, as far as a person can mend it: its name is not known, nothing
// accepts connections there, or what does is not of this run. Blocks for a second at most.
std::string WhyUnreachable(const std::string& host, int port, const Credentials& own);
// Why nobody can listen there: "address already in use", ... or an empty string when it works now.
std::string WhyNotListening(const std::string& host, int port);

absl::Status FromGrpc(const grpc::Status& status);
grpc::Status ToGrpc(const absl::Status& status);

// A call of somebody else's code from a reaction: an exception becomes Internal.
template <typename Function>
auto NoThrow(Function function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat("exception in a call's handler: ", e.what()));
  }
}

// Says yes once a second at most: lines that strangers can cause must not fill the disk.
// Thread-safe.
class LogPace {
 public:
  bool Due();

 private:
  Mutex mutex_;
  absl::Time last_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

// Exponential with full range jitter in [1/2, 1]. Not thread-safe.
class Backoff {
 public:
  Backoff(absl::Duration first, absl::Duration max)
      : next_(first), max_(max), random_(std::random_device{}()) {}
  absl::Duration Next() {
    const absl::Duration delay = next_ * std::uniform_real_distribution<double>(0.5, 1.0)(random_);
    next_ = std::min(next_ * 2, max_);
    return delay;
  }

 private:
  absl::Duration next_;
  const absl::Duration max_;
  std::minstd_rand random_;
};

// The calls of one client that are under way, so that Cancel ends them, and every pause between
// them, at once and for good. Thread-safe.
class CallsUnderWay {
 public:
  void Cancel();
  bool cancelled() const;
  // False, and the call is not to be made, when cancelled. `context` stays until End.
  bool Begin(grpc::ClientContext* context);
  // Whether it was cancelled meanwhile.
  bool End(grpc::ClientContext* context);
  // False when cancelled meanwhile.
  bool Pause(absl::Duration delay);

 private:
  mutable Mutex mutex_;
  CondVar cancelled_changed_;
  std::set<grpc::ClientContext*> running_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace wideberth::transport
