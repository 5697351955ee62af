// SPDX-License-Identifier: Apache-2.0
#include "transport/adapter_fetch.h"

#include <exception>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/hash.h"
#include "base/status.h"
#include "transport/rpc.h"

namespace wideberth::transport {

std::string BlobAssembly::Name() const {
  return absl::StrCat("adapter version ", blob_->manifest.version());
}

void BlobAssembly::AskToResume(proto::FetchAdapterRequest* request) const {
  if (num_bytes() == 0) return;
  request->set_resume_version(blob_->manifest.version());
  request->set_resume_fingerprint(blob_->manifest.fingerprint());
  request->set_resume_bytes(blob_->bytes.size());
}

absl::Status BlobAssembly::AddFirst(const proto::AdapterChunk& chunk) {
  if (!chunk.has_manifest())
    return absl::DataLossError("adapter stream: the first chunk has no manifest");
  const proto::AdapterManifest& manifest = chunk.manifest();
  WB_RETURN_IF_ERROR(VerifyAdapterManifest(manifest));
  if (chunk.by_broadcast() && !chunk.data().empty())
    return absl::DataLossError("adapter stream: bytes of a version that comes by broadcast");
  const bool goes_on = !chunk.by_broadcast() && blob_ != nullptr &&
                       manifest.version() == blob_->manifest.version() &&
                       manifest.fingerprint() == blob_->manifest.fingerprint() &&
                       chunk.offset_bytes() == blob_->bytes.size();
  if (!goes_on) {
    blob_ = std::make_shared<AdapterBlob>();
    blob_->manifest = manifest;
    if (!chunk.by_broadcast()) {
      try {
        blob_->bytes.reserve(manifest.num_bytes());
      } catch (const std::exception&) {
        const std::string name = Name();
        blob_ = nullptr;
        return absl::ResourceExhaustedError(
            absl::StrCat(name, " has ", manifest.num_bytes(), " bytes: no memory"));
      }
    }
  }
  by_broadcast_ = chunk.by_broadcast();
  first_ = false;
  return absl::OkStatus();
}

absl::Status BlobAssembly::Add(const proto::AdapterChunk& chunk) {
  if (Checksum(chunk.data()) != chunk.checksum() && !chunk.data().empty()) {
    return absl::DataLossError(absl::StrCat(
        "adapter stream: the chunk at byte ", chunk.offset_bytes(), " has checksum ",
        absl::Hex(Checksum(chunk.data())), ", was sent with ", absl::Hex(chunk.checksum())));
  }
  if (first_) {
    WB_RETURN_IF_ERROR(AddFirst(chunk));
  } else if (chunk.has_manifest()) {
    return absl::DataLossError(absl::StrCat(Name(), ": a second manifest in its stream"));
  }
  const uint64_t have = blob_->bytes.size();
  if (chunk.offset_bytes() != have || chunk.data().size() > blob_->manifest.num_bytes() - have) {
    return absl::DataLossError(absl::StrCat(Name(), ": a chunk of ", chunk.data().size(),
                                            " bytes at ", chunk.offset_bytes(), ", expected at ",
                                            have, " of ", blob_->manifest.num_bytes()));
  }
  blob_->bytes.append(chunk.data());
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const AdapterBlob>> BlobAssembly::Finish() {
  const std::shared_ptr<AdapterBlob> blob = first_ ? nullptr : blob_;
  if (first_ || by_broadcast_) {
    blob_ = nullptr;
    return std::shared_ptr<const AdapterBlob>(blob);
  }
  if (num_bytes() < blob_->manifest.num_bytes()) {
    return absl::DataLossError(absl::StrCat(
        Name(), " has ", num_bytes(), " bytes, its manifest says ", blob_->manifest.num_bytes()));
  }
  blob_ = nullptr;
  WB_RETURN_IF_ERROR(VerifyAdapterBlob(*blob));
  return std::shared_ptr<const AdapterBlob>(blob);
}

absl::StatusOr<std::shared_ptr<const AdapterBlob>> FetchStream(
    proto::Adapters::Stub* stub, grpc::ClientContext* context, proto::FetchAdapterRequest request,
    absl::FunctionRef<absl::Status(const proto::AdapterManifest&)> genuine,
    BlobAssembly* assembly) {
  assembly->AskToResume(&request);
  assembly->BeginStream();
  const std::unique_ptr<grpc::ClientReader<proto::AdapterChunk>> reader =
      stub->FetchAdapter(context, request);
  proto::AdapterChunk chunk;
  absl::Status unfit;
  while (unfit.ok() && reader->Read(&chunk)) {
    if (chunk.has_manifest()) unfit = genuine(chunk.manifest());
    if (unfit.ok()) unfit = assembly->Add(chunk);
  }
  if (!unfit.ok()) context->TryCancel();
  const grpc::Status ended = reader->Finish();
  WB_RETURN_IF_ERROR(unfit);
  WB_RETURN_IF_ERROR(FromGrpc(ended));
  return assembly->Finish();
}

}  // namespace wideberth::transport
