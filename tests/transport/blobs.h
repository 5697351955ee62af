// SPDX-License-Identifier: Apache-2.0
// Adapter versions with arbitrary bytes for the tests of the weight wire.
#pragma once

#include <cstdint>
#include <memory>
#include <random>

#include "base/hash.h"
#include "transport/adapter_blob.h"

namespace wideberth::testing {

// Two float32 tensors, seeded bytes; `num_floats` in all, at least 2.
inline std::shared_ptr<transport::AdapterBlob> MakeBlob(uint64_t version, int64_t num_floats = 64) {
  auto blob = std::make_shared<transport::AdapterBlob>();
  std::minstd_rand random(static_cast<unsigned>(version + 1));
  blob->bytes.resize(num_floats * 4);
  for (char& byte : blob->bytes) byte = static_cast<char>(random());
  proto::AdapterManifest& manifest = blob->manifest;
  manifest.set_run_id("run");
  manifest.set_version(version);
  manifest.set_dtype(proto::FLOAT32);
  proto::TensorSpec* first = manifest.add_tensor();
  first->set_name("a");
  first->add_shape(1);
  first->set_offset_bytes(0);
  proto::TensorSpec* second = manifest.add_tensor();
  second->set_name("b");
  second->add_shape(num_floats - 1);
  second->set_offset_bytes(4);
  manifest.set_num_bytes(blob->bytes.size());
  manifest.set_fingerprint(Fingerprint(blob->bytes));
  return blob;
}

}  // namespace wideberth::testing
