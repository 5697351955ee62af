// SPDX-License-Identifier: Apache-2.0
// The receiving end of the weight wire's streams: what has arrived of a version, checked chunk by
// chunk, and kept when its stream breaks so that the next one goes on from there. Private to
// transport, since it names types of the RPC library; learner_client.cc and adapter_relay.cc use
// it.
#pragma once

#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/wire.grpc.pb.h"
#include "transport/adapter_blob.h"

namespace wideberth::transport {

// Puts a version together. One thread.
class BlobAssembly {
 public:
  // Where the next stream shall go on, if anything is here.
  void AskToResume(proto::FetchAdapterRequest* request) const;
  // Once per stream, before its chunks.
  void BeginStream() { first_ = true; }
  // DataLoss for a chunk that is not what its checksum says or does not follow the one before;
  // nothing of it is taken. InvalidArgument for a manifest that contradicts itself.
  absl::Status Add(const proto::AdapterChunk& chunk);
  // At the end of a stream without error. Null when nothing came in it; the manifest without bytes
  // where the version is broadcast. DataLoss when bytes are missing, which the next stream may
  // bring, or when they are not those of the manifest: then all are dropped.
  absl::StatusOr<std::shared_ptr<const AdapterBlob>> Finish();

  uint64_t num_bytes() const { return blob_ == nullptr ? 0 : blob_->bytes.size(); }

 private:
  absl::Status AddFirst(const proto::AdapterChunk& chunk);
  std::string Name() const;

  std::shared_ptr<AdapterBlob> blob_;
  bool first_ = true;
  bool by_broadcast_ = false;
};

// One stream into `assembly`. `genuine` is asked once the manifest is here; its error ends the
// stream and is returned. Blocks until the stream ends, at most the context's deadline. Returns
// what BlobAssembly::Finish does.
absl::StatusOr<std::shared_ptr<const AdapterBlob>> FetchStream(
    proto::Adapters::Stub* stub, grpc::ClientContext* context, proto::FetchAdapterRequest request,
    absl::FunctionRef<absl::Status(const proto::AdapterManifest&)> genuine, BlobAssembly* assembly);

}  // namespace wideberth::transport
