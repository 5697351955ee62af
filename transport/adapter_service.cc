// SPDX-License-Identifier: Apache-2.0
#include "transport/adapter_service.h"

#include <grpcpp/alarm.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/hash.h"
#include "base/status.h"
#include "proto/wire.grpc.pb.h"
#include "transport/adapter_stream.h"
#include "transport/message_limits.h"
#include "transport/rpc.h"

namespace wideberth::transport {
namespace {

constexpr uint64_t kChunkBytes = uint64_t{1} << 20;
constexpr int kMaxWaitMs = 10'000;

// One FetchAdapter: waits for a version where there is none yet and the caller wants to wait, then
// streams it. No thread is blocked meanwhile. Holds itself until the call is over; whoever else
// calls it (shelf, timer) holds it weakly.
class AdapterStream final : public grpc::ServerWriteReactor<proto::AdapterChunk>,
                            public AdapterShelf::Waiter {
 public:
  AdapterStream(AdapterOffer* offer, const proto::FetchAdapterRequest& request)
      : offer_(offer), request_(request) {}

  void Begin(const std::shared_ptr<AdapterStream>& self) {
    self_ = self;
    const auto found = NoThrow([&]() -> absl::StatusOr<std::shared_ptr<const AdapterBlob>> {
      WB_RETURN_IF_ERROR(CheckMessage(request_));
      return offer_->NewestAdapter(request_);
    });
    if (!found.ok()) return EndWait(ToGrpc(found.status()));
    AdapterShelf* const shelf = offer_->shelf();
    std::shared_ptr<const AdapterBlob> blob = *found;
    if (blob == nullptr && request_.wait_ms() > 0 && shelf != nullptr) {
      const int wait_ms = std::min(request_.wait_ms(), kMaxWaitMs);
      timer_.Set(absl::ToChronoTime(absl::Now() + absl::Milliseconds(wait_ms)),
                 [stream = std::weak_ptr<AdapterStream>(self)](bool) {
                   if (const auto alive = stream.lock(); alive != nullptr)
                     alive->EndWait(grpc::Status::OK);
                 });
      blob = shelf->NewestOrWait(request_, self);
      if (blob == nullptr) return;
    }
    if (blob == nullptr) return EndWait(grpc::Status::OK);
    Published(std::move(blob));
  }

  void Published(std::shared_ptr<const AdapterBlob> blob) override {
    if (!waiting_.exchange(false)) return;
    blob_ = std::move(blob);
    const proto::AdapterManifest& manifest = blob_->manifest;
    *chunk_.mutable_manifest() = manifest;
    if (offer_->ComesByBroadcast(request_, *blob_)) {
      chunk_.set_by_broadcast(true);
      offset_ = blob_->bytes.size();
      StartWrite(&chunk_);
      return;
    }
    if (request_.resume_version() == manifest.version() &&
        request_.resume_fingerprint() == manifest.fingerprint() &&
        request_.resume_bytes() <= blob_->bytes.size()) {
      offset_ = request_.resume_bytes();
    }
    WriteNext();
  }

  void OnWriteDone(bool ok) override {
    AdapterShelf* const shelf = offer_->shelf();
    if (!ok) {
      Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the receiver went away"));
    } else if (offset_ == blob_->bytes.size()) {
      Finish(grpc::Status::OK);
    } else if (shelf != nullptr && !shelf->Keeps(*blob_)) {
      Finish(grpc::Status(
          grpc::StatusCode::UNAVAILABLE,
          absl::StrCat("adapter version ", blob_->manifest.version(), " is kept no longer, ",
                       AdapterShelf::kMaxVersions, " newer ones are being sent")));
    } else {
      chunk_.clear_manifest();
      WriteNext();
    }
  }
  void OnCancel() override { EndWait(grpc::Status::CANCELLED); }
  void OnDone() override { self_.reset(); }

 private:
  void EndWait(const grpc::Status& status) {
    if (waiting_.exchange(false)) Finish(status);
  }

  void WriteNext() {
    const uint64_t size = std::min<uint64_t>(kChunkBytes, blob_->bytes.size() - offset_);
    chunk_.set_offset_bytes(offset_);
    chunk_.set_data(blob_->bytes.data() + offset_, size);
    chunk_.set_checksum(Checksum(chunk_.data()));
    offset_ += size;
    StartWrite(&chunk_);
  }

  AdapterOffer* const offer_;
  const proto::FetchAdapterRequest request_;
  std::shared_ptr<AdapterStream> self_;
  // Shelf, timer, cancellation and Begin compete; the first decides what becomes of the call.
  std::atomic<bool> waiting_ = true;
  grpc::Alarm timer_;
  std::shared_ptr<const AdapterBlob> blob_;
  proto::AdapterChunk chunk_;
  uint64_t offset_ = 0;
};

class AdapterCalls final : public proto::Adapters::CallbackService {
 public:
  explicit AdapterCalls(AdapterOffer* offer) : offer_(offer) {}

  grpc::ServerWriteReactor<proto::AdapterChunk>* FetchAdapter(
      grpc::CallbackServerContext*, const proto::FetchAdapterRequest* request) override {
    const auto stream = std::make_shared<AdapterStream>(offer_, *request);
    AdapterStream* const reactor = stream.get();
    reactor->Begin(stream);
    return reactor;
  }

 private:
  AdapterOffer* const offer_;
};

class ShelfServer final : public AdapterServer, private AdapterOffer {
 public:
  explicit ShelfServer(AdapterShelf* shelf) : shelf_(shelf), calls_(MakeAdaptersService(this)) {}
  ~ShelfServer() override { Shutdown(absl::ZeroDuration()); }

  absl::Status Listen(absl::string_view address, const Credentials& own) {
    WB_ASSIGN_OR_RETURN(listening_,
                        transport::Listen(address, {calls_.get()}, own, kMaxLearnerCallBytes));
    return absl::OkStatus();
  }
  std::string address() const override { return listening_.address; }
  void Shutdown(absl::Duration grace) override { listening_.Shutdown(grace); }

 private:
  absl::StatusOr<std::shared_ptr<const AdapterBlob>> NewestAdapter(
      const proto::FetchAdapterRequest& request) override {
    return shelf_->Newest(request);
  }
  AdapterShelf* shelf() override { return shelf_; }

  AdapterShelf* const shelf_;
  const std::unique_ptr<grpc::Service> calls_;
  ListeningServer listening_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeAdaptersService(AdapterOffer* offer) {
  return std::make_unique<AdapterCalls>(offer);
}

absl::StatusOr<std::unique_ptr<AdapterServer>> AdapterServer::Start(absl::string_view address,
                                                                    AdapterShelf* shelf,
                                                                    const Credentials& own) {
  auto server = std::make_unique<ShelfServer>(shelf);
  WB_RETURN_IF_ERROR(server->Listen(address, own));
  return server;
}

}  // namespace wideberth::transport
