// SPDX-License-Identifier: Apache-2.0
#include "transport/adapter_blob.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/excerpt.h"
#include "base/hash.h"
#include "base/status.h"
#include "transport/message_limits.h"

namespace wideberth::transport {
namespace {

constexpr int kMaxDimensions = 8;

uint64_t ElementBytes(proto::DType dtype) {
  switch (dtype) {
    case proto::FLOAT32:
      return 4;
    case proto::BFLOAT16:
      return 2;
    case proto::FLOAT64:
      return 8;
  }
  return 0;
}

std::string NameOf(const proto::AdapterManifest& manifest) {
  return absl::StrCat("adapter version ", manifest.version());
}

}  // namespace

absl::Status VerifyAdapterManifest(const proto::AdapterManifest& manifest) {
  const std::string name = NameOf(manifest);
  if (!manifest.has_version())
    return absl::InvalidArgumentError("an adapter manifest has no version");
  if (manifest.tensor().empty() || manifest.tensor_size() > kMaxAdapterTensors) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": the manifest lists ",
                                                   manifest.tensor_size(),
                                                   " tensors, expected 1 to ", kMaxAdapterTensors));
  }
  if (std::max(manifest.run_id().size(), manifest.base_fingerprint().size()) > kMaxIdBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": run_id and base_fingerprint must have at most ", kMaxIdBytes, " bytes"));
  }
  if (manifest.num_bytes() > kMaxAdapterBytes) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": num_bytes is ", manifest.num_bytes(),
                                                   ", must be at most ", kMaxAdapterBytes));
  }
  const uint64_t element_bytes = ElementBytes(manifest.dtype());
  uint64_t end = 0;
  for (const proto::TensorSpec& tensor : manifest.tensor()) {
    if (tensor.name().size() > kMaxIdBytes || tensor.shape_size() > kMaxDimensions) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": a tensor has a name of ", tensor.name().size(), " bytes and ",
                       tensor.shape_size(), " dimensions, must have at most ", kMaxIdBytes, " and ",
                       kMaxDimensions));
    }
    if (tensor.offset_bytes() != end) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": tensor ", tensor.name(),
                                                     " starts at byte ", tensor.offset_bytes(),
                                                     ", must follow the one before at byte ", end));
    }
    uint64_t size = element_bytes;
    for (const int64_t dimension : tensor.shape()) {
      if (dimension <= 0 || __builtin_mul_overflow(size, static_cast<uint64_t>(dimension), &size)) {
        return absl::InvalidArgumentError(absl::StrCat(name, ": tensor ", tensor.name(),
                                                       " has a dimension of ", dimension,
                                                       ", must be positive and of sane size"));
      }
    }
    if (__builtin_add_overflow(end, size, &end)) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": tensors of more than 2^64 bytes"));
    }
  }
  if (end != manifest.num_bytes()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": num_bytes is ", manifest.num_bytes(),
                                                   ", the tensors listed have ", end));
  }
  const std::string& fingerprint = manifest.fingerprint();
  if (fingerprint.size() != 32 ||
      !std::all_of(fingerprint.begin(), fingerprint.end(), absl::ascii_isxdigit)) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": fingerprint is ", Excerpt(fingerprint),
                                                   ", must be 32 hexadecimal digits"));
  }
  return absl::OkStatus();
}

absl::Status VerifyAdapterBlob(const AdapterBlob& blob) {
  WB_RETURN_IF_ERROR(VerifyAdapterManifest(blob.manifest));
  if (blob.bytes.size() != blob.manifest.num_bytes()) {
    return absl::DataLossError(absl::StrCat(NameOf(blob.manifest), " has ", blob.bytes.size(),
                                            " bytes, its manifest says ",
                                            blob.manifest.num_bytes()));
  }
  const std::string found = Fingerprint(blob.bytes);
  if (found != blob.manifest.fingerprint()) {
    return absl::DataLossError(absl::StrCat(NameOf(blob.manifest), " has fingerprint ", found,
                                            ", its manifest says ", blob.manifest.fingerprint()));
  }
  return absl::OkStatus();
}

}  // namespace wideberth::transport
