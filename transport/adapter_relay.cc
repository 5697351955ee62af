// SPDX-License-Identifier: Apache-2.0
#include "transport/adapter_relay.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "proto/wire.grpc.pb.h"
#include "transport/adapter_fetch.h"
#include "transport/message_limits.h"
#include "transport/rpc.h"

namespace wideberth::transport {
namespace {

constexpr absl::Duration kConnectTime = absl::Seconds(1);
// A heartbeat and its answer.
constexpr absl::Duration kAnnouncementTime = absl::Seconds(2);
constexpr absl::Duration kLeastPatience = absl::Seconds(1);
constexpr absl::Duration kMostPatience = absl::Seconds(30);

}  // namespace

class RelayedSource::Relay {
 public:
  Relay(std::string address, std::string name, const Credentials& own)
      : address_(std::move(address)),
        name_(std::move(name)),
        channel_(MakeChannel(address_, own, proto::ACTOR, kMaxLearnerAnswerBytes)),
        stub_(proto::Adapters::NewStub(channel_)) {}

  absl::StatusOr<std::shared_ptr<const AdapterBlob>> Fetch(
      const proto::FetchAdapterRequest& request, absl::Duration timeout,
      absl::FunctionRef<absl::Status(const proto::AdapterManifest&)> genuine) {
    if (!channel_->WaitForConnected(absl::ToChronoTime(absl::Now() + kConnectTime)))
      return absl::UnavailableError("nothing accepts connections there");
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    if (!calls_.Begin(&context)) return absl::CancelledError("cancelled here");
    BlobAssembly assembly;
    auto blob = FetchStream(stub_.get(), &context, request, genuine, &assembly);
    if (calls_.End(&context)) return absl::CancelledError("cancelled here");
    return blob;
  }
  void Cancel() { calls_.Cancel(); }
  const std::string& address() const { return address_; }
  // For messages: "actor-3 at 10.0.0.7:4711".
  std::string where() const { return absl::StrCat(name_, " at ", address_); }

 private:
  const std::string address_;
  const std::string name_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<proto::Adapters::Stub> stub_;
  CallsUnderWay calls_;
};

RelayedSource::RelayedSource(Parts parts)
    : parts_(std::move(parts)), newest_since_(absl::Now()), patience_(parts_.patience) {}
RelayedSource::~RelayedSource() = default;

void RelayedSource::Announce(const proto::HeartbeatResponse& response) {
  MutexLock lock(mutex_);
  if (response.newest_fingerprint() != newest_.newest_fingerprint() ||
      response.newest_version() != newest_.newest_version()) {
    newest_since_ = absl::Now();
  }
  newest_.set_newest_version(response.newest_version());
  newest_.set_newest_fingerprint(response.newest_fingerprint());
  announced_.SignalAll();
  const std::string& address = response.adapter_address();
  if (address == (relay_ == nullptr ? "" : relay_->address())) return;
  relay_ = address.empty() ? nullptr
                           : std::make_shared<Relay>(address, response.adapter_name(), parts_.own);
  not_before_ = absl::InfinitePast();
}

std::string RelayedSource::TakeFailed() {
  MutexLock lock(mutex_);
  return std::exchange(failed_, "");
}

void RelayedSource::Cancel() {
  MutexLock lock(mutex_);
  cancelled_ = true;
  if (relay_ != nullptr) relay_->Cancel();
  announced_.SignalAll();
}

std::shared_ptr<RelayedSource::Relay> RelayedSource::Current() {
  MutexLock lock(mutex_);
  return cancelled_ || absl::Now() < not_before_ ? nullptr : relay_;
}

absl::Status RelayedSource::Genuine(const proto::AdapterManifest& manifest, bool* behind) {
  const absl::Time deadline = absl::Now() + kAnnouncementTime;
  while (true) {
    {
      MutexLock lock(mutex_);
      if (cancelled_) return absl::CancelledError("cancelled here");
      if (manifest.version() == newest_.newest_version() &&
          manifest.fingerprint() == newest_.newest_fingerprint()) {
        return absl::OkStatus();
      }
      *behind = manifest.version() < newest_.newest_version();
      if (manifest.version() <= newest_.newest_version() || absl::Now() >= deadline) {
        return absl::FailedPreconditionError(
            absl::StrCat("it offers version ", manifest.version(), " with fingerprint ",
                         manifest.fingerprint(), ", the learner's newest is ",
                         newest_.newest_version(), " with ", newest_.newest_fingerprint()));
      }
    }
    parts_.hurry();
    MutexLock lock(mutex_);
    if (!cancelled_ && newest_.newest_version() < manifest.version())
      announced_.WaitFor(mutex_, deadline - absl::Now());
  }
}

bool RelayedSource::TooLate(std::optional<uint64_t> have) {
  MutexLock lock(mutex_);
  return !newest_.newest_fingerprint().empty() && (!have || newest_.newest_version() > *have) &&
         absl::Now() - newest_since_ > patience_;
}

std::string RelayedSource::Lateness() {
  MutexLock lock(mutex_);
  return absl::StrCat(
      "it does not offer version ", newest_.newest_version(), ", published ",
      absl::FormatDuration(absl::Trunc(absl::Now() - newest_since_, absl::Milliseconds(100))),
      " ago");
}

void RelayedSource::NoteArrival(const AdapterBlob& blob) {
  MutexLock lock(mutex_);
  if (blob.manifest.version() != newest_.newest_version()) return;
  patience_ = std::clamp(3 * (absl::Now() - newest_since_), kLeastPatience, kMostPatience);
}

void RelayedSource::NoteFailure(const Relay& relay, const absl::Status& why) {
  WB_LOG(WARNING) << relay.where()
                  << " did not pass a version on, the learner is asked: " << why.message();
  MutexLock lock(mutex_);
  not_before_ = absl::Now() + kRelayPause;
  failed_ = relay.address();
}

absl::StatusOr<std::shared_ptr<const AdapterBlob>> RelayedSource::Receive(
    std::optional<uint64_t> have) {
  const std::shared_ptr<Relay> relay = Current();
  if (relay == nullptr) return parts_.learner->Receive(have);
  bool behind = false;
  auto blob = relay->Fetch(
      FetchRequest(parts_.member_id(), have), parts_.stream_timeout,
      [&](const proto::AdapterManifest& manifest) { return Genuine(manifest, &behind); });
  if (blob.ok() && *blob != nullptr) {
    NoteArrival(**blob);
    return blob;
  }
  if (Current() == nullptr) return parts_.learner->Receive(have);  // Cancelled.
  if (blob.ok() || behind) {
    if (!TooLate(have)) return std::shared_ptr<const AdapterBlob>();
    blob = absl::DeadlineExceededError(Lateness());
  }
  NoteFailure(*relay, blob.status());
  parts_.hurry();
  return parts_.learner->Receive(have);
}

}  // namespace wideberth::transport
