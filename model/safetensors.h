// SPDX-License-Identifier: Apache-2.0
// Weight files: model.safetensors or a sharded index, memory-mapped and checked; and a writer. Used
// by CausalLm and Adapter. No torch here.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace wideberth::model {

struct StoredTensor {
  std::string dtype;  // "F32", "BF16", "F16", "F64", ... as in the header.
  std::vector<int64_t> shape;
  const char* data = nullptr;  // Into the mapping; valid as long as the WeightFiles lives.
  int64_t num_bytes = 0;
  std::string file;  // For messages.
};

// One or more mapped files. Thread-safe after opening.
class WeightFiles {
 public:
  // `folder`/model.safetensors, or the shards of `folder`/model.safetensors.index.json. Checks
  // header length, JSON, dtypes, that offsets are in range, contiguous and as long as shape and
  // dtype say, that no name is twice and every indexed name is where the index says.
  static absl::StatusOr<std::shared_ptr<const WeightFiles>> OpenFolder(absl::string_view folder);
  static absl::StatusOr<std::shared_ptr<const WeightFiles>> OpenFile(absl::string_view path);

  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  // NotFound names the tensor and the file(s); InvalidArgument names found and expected shape.
  absl::StatusOr<StoredTensor> Find(absl::string_view name,
                                    const std::vector<int64_t>& shape) const;
  // xxh3-128 over names, dtypes, shapes and bytes in order of name.
  std::string Fingerprint() const;
  const std::string& source() const { return source_; }

  ~WeightFiles();
  WeightFiles(const WeightFiles&) = delete;
  WeightFiles& operator=(const WeightFiles&) = delete;

 private:
  struct Mapping {
    void* address;
    size_t size;
  };
  WeightFiles() = default;
  absl::Status Map(const std::string& path);

  std::string source_;
  std::vector<Mapping> mappings_;
  std::map<std::string, StoredTensor> tensors_;
};

struct TensorToWrite {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  absl::string_view bytes;
};

// The bytes of a safetensors file, header padded to 8 bytes, tensors in the order given.
std::string SerializeSafetensors(const std::vector<TensorToWrite>& tensors,
                                 const std::map<std::string, std::string>& metadata);

// Bytes of one element; 0 for a dtype the format does not know.
int64_t DTypeBytes(absl::string_view dtype);

}  // namespace wideberth::model
