// SPDX-License-Identifier: Apache-2.0
// One policy version as it travels on the weight wire: the manifest and the packed bytes it
// describes. Made by the learner, verified by every receiver before anything is done with it.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "proto/wire.pb.h"

namespace wideberth::transport {

struct AdapterBlob {
  proto::AdapterManifest manifest;
  std::string bytes;
};

// OK when the bytes are those the manifest was written for: as many as `num_bytes`, tensors laid
// one after the other without gap or overlap from 0 to the end, sizes that follow from shape and
// dtype, and the xxh3-128 fingerprint. DataLoss where bytes are missing or changed, InvalidArgument
// where the manifest contradicts itself; the sentence names the version, what was found and what
// was expected.
absl::Status VerifyAdapterBlob(const AdapterBlob& blob);

// Checks everything of the manifest that needs no bytes; a receiver calls it before it allocates
// `num_bytes`.
absl::Status VerifyAdapterManifest(const proto::AdapterManifest& manifest);

}  // namespace wideberth::transport
