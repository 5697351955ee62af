// SPDX-License-Identifier: Apache-2.0
// A policy version from the wire: an AdapterChunk whose manifest and bytes are verified and
// unpacked as a receiver does.
#include <ATen/ATen.h>

#include "base/hash.h"
#include "base/status.h"
#include "model/adapter.h"
#include "tests/fuzz/adapter_shape.h"
#include "tests/fuzz/fuzz.h"
#include "transport/adapter_blob.h"

namespace wideberth::fuzz {

using model::Adapter;

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    proto::LoraConfig config;
    config.set_rank(1);
    config.set_alpha(2);
    config.add_target("q_proj");
    const auto adapter = Adapter::Initialize(SmallestModel(), config, 1, dtype, at::kCPU);
    WB_CHECK(adapter.ok(), "no adapter");
    if (dtype == at::kBFloat16) {
      WB_CHECK((*adapter)->SetScoreHead(at::ones({1, 4}, dtype)).ok(), "no score head");
    }
    proto::AdapterChunk chunk;
    chunk.set_data((*adapter)->Pack(dtype, chunk.mutable_manifest()));
    chunk.mutable_manifest()->set_version(3);
    chunk.set_offset_bytes(0);
    seeds.push_back(chunk.SerializeAsString());
  }
  return seeds;
}

bool TryOne(absl::string_view input) {
  proto::AdapterChunk chunk;
  if (!chunk.ParseFromArray(input.data(), static_cast<int>(input.size()))) return false;
  transport::AdapterBlob blob{chunk.manifest(), chunk.data()};
  ExpectNames(transport::VerifyAdapterBlob(blob), "adapter");
  // A mutation never finds the fingerprint by itself.
  blob.manifest.set_fingerprint(Fingerprint(blob.bytes));
  const bool verified = transport::VerifyAdapterBlob(blob).ok();
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    // Also what was not verified may not take the process along.
    const auto adapter =
        Adapter::Unpack(blob.manifest, blob.bytes, SmallestModel(), dtype, at::kCPU);
    ExpectNames(adapter.status(), "adapter version");
    if (!adapter.ok() || !verified) return false;
    (void)(*adapter)->CopyAs(at::kDouble);
  }
  return true;
}

}  // namespace wideberth::fuzz
