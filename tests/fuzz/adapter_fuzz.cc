// SPDX-License-Identifier: Apache-2.0
// A PEFT folder: adapter_config.json, a zero byte, then the weights.
#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/adapter.h"
#include "tests/fuzz/adapter_shape.h"
#include "tests/fuzz/fuzz.h"

namespace wideberth::fuzz {
namespace {

using model::Adapter;

// What Save writes of an adapter.
std::string InputOf(const Adapter& adapter) {
  static const Folder folder;
  WB_CHECK(adapter.Save(folder.path(), "base").ok(), "an adapter cannot be saved");
  return Joined({FileBytes(folder.path() + "/adapter_config.json"),
                 SafetensorsInput(FileBytes(folder.path() + "/adapter_model.safetensors"))});
}

}  // namespace

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  for (const char* target : {"q_proj", "down_proj"}) {
    proto::LoraConfig config;
    config.set_rank(1);
    config.set_alpha(2);
    config.add_target(target);
    auto adapter = Adapter::Initialize(SmallestModel(), config, 1, at::kFloat, at::kCPU);
    WB_CHECK(adapter.ok(), "no adapter");
    seeds.push_back(InputOf(**adapter));
    WB_CHECK((*adapter)->SetScoreHead(at::ones({1, 4})).ok(), "no score head");
    seeds.push_back(InputOf(*(*adapter)->CopyAs(at::kBFloat16)));
  }
  seeds.push_back(absl::StrCat(R"({"bias":)", DeepJson(), "}"));
  return seeds;
}

bool TryOne(absl::string_view input) {
  static const Folder folder;
  const std::vector<absl::string_view> parts = Parts(input, 2);
  folder.Write("adapter_config.json", parts[0]);
  folder.Write("adapter_model.safetensors", SafetensorsBytes(parts[1]));
  const auto adapter = Adapter::Load(folder.path(), SmallestModel(), at::kFloat, at::kCPU);
  ExpectNames(adapter.status(), folder.path());
  if (!adapter.ok()) return false;
  (void)(*adapter)->scaling();
  proto::AdapterManifest manifest;
  const std::string bytes = (*adapter)->Pack(at::kFloat, &manifest);
  WB_CHECK(Adapter::Unpack(manifest, bytes, SmallestModel(), at::kFloat, at::kCPU).ok(),
           "an adapter that was packed cannot be unpacked");
  static const Folder copy;
  WB_CHECK((*adapter)->Save(copy.path(), "base").ok(), "an adapter cannot be saved");
  WB_CHECK(Adapter::Load(copy.path(), SmallestModel(), at::kFloat, at::kCPU).ok(),
           "an adapter that was saved cannot be loaded");
  return true;
}

}  // namespace wideberth::fuzz
