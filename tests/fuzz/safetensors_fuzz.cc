// SPDX-License-Identifier: Apache-2.0
// Weight files. An input is a file, or after a first '#' an index and its one shard, divided by a
// zero byte.
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"
#include "model/safetensors.h"
#include "tests/fuzz/fuzz.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::fuzz {
namespace {

using model::WeightFiles;

// Every byte is read; what was read is written and read again as the same.
void UseAll(const WeightFiles& files) {
  std::vector<model::TensorToWrite> copies;
  for (const auto& [name, tensor] : files.tensors()) {
    WB_CHECK(files.Find(name, tensor.shape).ok(), "a tensor is not found");
    copies.push_back({name, tensor.dtype, tensor.shape,
                      absl::string_view(tensor.data, static_cast<size_t>(tensor.num_bytes))});
  }
  (void)files.Find("absent", {1});
  static const Folder folder;
  const std::string path = folder.Write("copy", model::SerializeSafetensors(copies, {{"a", "b"}}));
  const auto again = WeightFiles::OpenFile(path);
  WB_CHECK(again.ok(), "a file that was written cannot be read");
  WB_CHECK((*again)->Fingerprint() == files.Fingerprint(), "a file that was written has changed");
}

}  // namespace

std::vector<std::string> Seeds() {
  static const Folder folder;
  WB_CHECK(testing::WriteTinyAdapter("llama", 1, 2, {"q_proj"}, folder.path()).ok(), "no adapter");
  const std::string file = FileBytes(folder.path() + "/adapter_model.safetensors");
  return {
      SafetensorsInput(file), absl::StrCat("=", file),
      absl::StrCat(R"(#{"weight_map":{"a":)", DeepJson(), "}}"),
      Joined(
          {R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
           R"("b":{"dtype":"BF16","shape":[],"data_offsets":[8,10]},)"
           R"("c":{"dtype":"I8","shape":[0],"data_offsets":[10,10]}})",
           "0123456789"}),
      Joined({R"(#{"metadata":{},"weight_map":{"a":"model-1.safetensors"}})",
              R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", "abc"})};
}

bool TryOne(absl::string_view input) {
  static const Folder folder;
  absl::StatusOr<std::shared_ptr<const WeightFiles>> files = absl::UnknownError("");
  if (absl::ConsumePrefix(&input, "#")) {
    const std::vector<absl::string_view> parts = Parts(input, 2);
    folder.Write("model.safetensors.index.json", parts[0]);
    folder.Write("model-1.safetensors", SafetensorsBytes(parts[1]));
    files = WeightFiles::OpenFolder(folder.path());
  } else {
    files = WeightFiles::OpenFile(folder.Write("model.safetensors", SafetensorsBytes(input)));
  }
  ExpectNames(files.status(), folder.path());
  if (!files.ok()) return false;
  UseAll(**files);
  return true;
}

}  // namespace wideberth::fuzz
