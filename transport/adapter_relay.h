// SPDX-License-Identifier: Apache-2.0
// Versions from another actor instead of the learner, which only says who that is and what the
// newest version's fingerprint is. Stands between the heartbeats of an actor (actor/main.cc) and
// its AdapterReceiver.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "proto/wire.pb.h"
#include "transport/adapter_blob.h"
#include "transport/adapter_carrier.h"
#include "transport/credentials.h"

namespace wideberth::transport {

// Asks the relay the learner named last, and the learner at once where that relay fails, offers
// what the learner did not publish, or stays behind the newest version. A relay that failed is not
// asked again until the learner names another or kRelayPause has passed. Receive is called by one
// thread at a time, everything else by any.
class RelayedSource final : public AdapterSource {
 public:
  struct Parts {
    AdapterSource* learner = nullptr;
    std::function<std::string()> member_id;
    // Makes a heartbeat happen soon, whose answer comes by Announce. A relay may have a version
    // before this actor has heard of it, and only the learner's word counts.
    std::function<void()> hurry;
    absl::Duration stream_timeout = absl::Seconds(15);  // Of one stream from a relay.
    Credentials own;  // With certificates, only actors are taken for relays.
    // How long after its announcement a version may still be on its way through relays, before
    // anything is known of the time that takes.
    absl::Duration patience = absl::Seconds(5);
  };
  explicit RelayedSource(Parts parts);
  ~RelayedSource() override;

  absl::StatusOr<std::shared_ptr<const AdapterBlob>> Receive(std::optional<uint64_t> have) override;
  // What a heartbeat said.
  void Announce(const proto::HeartbeatResponse& response);
  // The relay to complain of in the next heartbeat; empty: none.
  std::string TakeFailed();
  // Ends a running Receive and all later ones as far as relays are concerned. Idempotent.
  void Cancel();

  static constexpr absl::Duration kRelayPause = absl::Seconds(30);

 private:
  class Relay;
  // The relay to ask now; null: the learner.
  std::shared_ptr<Relay> Current();
  absl::Status Genuine(const proto::AdapterManifest& manifest, bool* behind);
  void NoteArrival(const AdapterBlob& blob);
  void NoteFailure(const Relay& relay, const absl::Status& why);
  bool TooLate(std::optional<uint64_t> have);
  std::string Lateness();

  const Parts parts_;
  Mutex mutex_;
  CondVar announced_;
  std::shared_ptr<Relay> relay_ ABSL_GUARDED_BY(mutex_);
  proto::HeartbeatResponse newest_ ABSL_GUARDED_BY(mutex_);
  absl::Time newest_since_ ABSL_GUARDED_BY(mutex_);
  absl::Duration patience_ ABSL_GUARDED_BY(mutex_);
  absl::Time not_before_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  std::string failed_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace wideberth::transport
