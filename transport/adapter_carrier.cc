// SPDX-License-Identifier: Apache-2.0
#include "transport/adapter_carrier.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"

namespace wideberth::transport {
namespace {
// Somebody waits: look again soon, but leave the learner time to finish its step.
constexpr absl::Duration kWaitingPoll = absl::Milliseconds(50);
}  // namespace

proto::FetchAdapterRequest FetchRequest(const std::string& member_id,
                                        std::optional<uint64_t> have) {
  proto::FetchAdapterRequest request;
  request.set_member_id(member_id);
  request.set_have_any(have.has_value());
  if (have) request.set_have_version(*have);
  request.set_wait_ms(static_cast<int>(absl::ToInt64Milliseconds(kAdapterWait)));
  return request;
}

absl::StatusOr<std::shared_ptr<const AdapterBlob>> GrpcAdapterSource::Receive(
    std::optional<uint64_t> have) {
  return client_->FetchAdapter(FetchRequest(member_id_(), have));
}

AdapterReceiver::AdapterReceiver(AdapterSource* source, LearnerClient* client,
                                 std::function<std::string()> member_id,
                                 absl::Duration poll_interval, AdapterShelf* shelf, Prepare prepare)
    : source_(source),
      client_(client),
      member_id_(std::move(member_id)),
      poll_interval_(poll_interval),
      shelf_(shelf),
      prepare_(std::move(prepare)) {
  thread_ = std::thread([this] { Run(); });
  acknowledging_ = std::thread([this] { AcknowledgeLoop(); });
}

AdapterReceiver::~AdapterReceiver() { Stop(); }

void AdapterReceiver::Stop() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    wake_.SignalAll();
    staged_changed_.SignalAll();
    acknowledge_.SignalAll();
  }
  if (thread_.joinable()) thread_.join();
  if (acknowledging_.joinable()) acknowledging_.join();
}

std::shared_ptr<const AdapterBlob> AdapterReceiver::TakeNewer(std::optional<uint64_t> than) {
  MutexLock lock(mutex_);
  if (staged_ == nullptr || (than && staged_->manifest.version() <= *than)) return nullptr;
  return staged_;
}

absl::StatusOr<std::shared_ptr<const AdapterBlob>> AdapterReceiver::WaitFor(uint64_t version,
                                                                            absl::Time deadline) {
  const absl::Time started = absl::Now();
  MutexLock lock(mutex_);
  ++num_waiting_;
  wake_.SignalAll();
  while (!stopped_ && (staged_ == nullptr || staged_->manifest.version() < version) &&
         absl::Now() < deadline) {
    staged_changed_.WaitFor(mutex_, deadline - absl::Now());
  }
  --num_waiting_;
  if (staged_ != nullptr && staged_->manifest.version() >= version) return staged_;
  if (stopped_)
    return absl::CancelledError(
        absl::StrCat("waiting for adapter version ", version, ": the receiver was stopped"));
  return absl::DeadlineExceededError(absl::StrCat(
      "adapter version ", version, " did not arrive within ",
      absl::FormatDuration(absl::Trunc(absl::Now() - started, absl::Milliseconds(1))),
      "; newest here is ", staged_ == nullptr ? "none" : absl::StrCat(staged_->manifest.version()),
      last_error_.ok() ? std::string() : absl::StrCat("; last failure: ", last_error_.message())));
}

void AdapterReceiver::Forget() {
  MutexLock lock(mutex_);
  staged_ = nullptr;
}

void AdapterReceiver::Acknowledge(uint64_t version, const std::string& fingerprint) {
  MutexLock lock(mutex_);
  to_acknowledge_.emplace();
  to_acknowledge_->set_version(version);
  to_acknowledge_->set_fingerprint(fingerprint);
  acknowledge_.SignalAll();
}

void AdapterReceiver::AcknowledgeLoop() {
  constexpr absl::Duration kPause = absl::Seconds(1);
  while (true) {
    proto::AcknowledgeAdapterRequest request;
    {
      MutexLock lock(mutex_);
      while (!stopped_ && !to_acknowledge_) acknowledge_.Wait(mutex_);
      if (stopped_) return;
      request = *to_acknowledge_;
    }
    request.set_member_id(member_id_());
    const absl::Status status = client_->AcknowledgeAdapter(request).status();
    MutexLock lock(mutex_);
    if (stopped_) return;
    const bool newest = to_acknowledge_->version() == request.version() &&
                        to_acknowledge_->fingerprint() == request.fingerprint();
    if (newest && (status.ok() || absl::IsInvalidArgument(status))) to_acknowledge_.reset();
    if (status.ok()) continue;
    WB_LOG(WARNING) << "version " << request.version() << " not acknowledged: " << status.message();
    if (to_acknowledge_) acknowledge_.WaitFor(mutex_, kPause);
  }
}

absl::Status AdapterReceiver::FetchOnce() {
  std::optional<uint64_t> have;
  {
    MutexLock lock(mutex_);
    if (staged_ != nullptr) have = staged_->manifest.version();
  }
  WB_ASSIGN_OR_RETURN(std::shared_ptr<const AdapterBlob> blob, source_->Receive(have));
  if (blob == nullptr) return absl::OkStatus();
  // Sources verify too; bytes that are sampled from are worth the second look (10 GB/s).
  WB_RETURN_IF_ERROR(VerifyAdapterBlob(*blob));
  if (have && blob->manifest.version() <= *have) {
    return absl::InternalError(absl::StrCat("received adapter version ", blob->manifest.version(),
                                            ", asked for one above ", *have));
  }
  if (shelf_ != nullptr) shelf_->PassOn(blob);
  if (prepare_ != nullptr) prepare_(blob);
  MutexLock lock(mutex_);
  staged_ = std::move(blob);
  staged_changed_.SignalAll();
  return absl::OkStatus();
}

void AdapterReceiver::Run() {
  while (true) {
    const absl::Time start = absl::Now();
    const absl::Status status = FetchOnce();
    MutexLock lock(mutex_);
    if (!status.ok() && !stopped_ && status != last_error_)
      WB_LOG(WARNING) << "adapter not received: " << status.message();
    last_error_ = status;
    while (!stopped_) {
      const absl::Duration pause =
          num_waiting_ > 0 ? std::min(kWaitingPoll, poll_interval_) : poll_interval_;
      if (absl::Now() - start >= pause) break;
      wake_.WaitFor(mutex_, start + pause - absl::Now());
    }
    if (stopped_) return;
  }
}

}  // namespace wideberth::transport
