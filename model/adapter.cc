// SPDX-License-Identifier: Apache-2.0
#include "model/adapter.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/status.h"
#include "model/random.h"
#include "model/runtime.h"
#include "model/safetensors.h"

namespace wideberth::model {
namespace {

using ::at::Tensor;
constexpr char kPeftPrefix[] = "base_model.model.";

std::string DTypeName(at::ScalarType type) {
  switch (type) {
    case at::kBFloat16:
      return "BF16";
    case at::kHalf:
      return "F16";
    case at::kDouble:
      return "F64";
    default:
      return "F32";
  }
}

absl::string_view BytesOf(const Tensor& contiguous_cpu) {
  return absl::string_view(static_cast<const char*>(contiguous_cpu.data_ptr()),
                           contiguous_cpu.nbytes());
}

Tensor OnHost(const Tensor& tensor, at::ScalarType dtype) {
  return tensor.detach().to(at::kCPU, dtype).contiguous();
}

Tensor CopyOf(const char* bytes, const std::vector<int64_t>& shape, at::ScalarType stored,
              at::ScalarType dtype, at::Device device) {
  Tensor tensor = at::empty(shape, at::TensorOptions(stored));
  std::memcpy(tensor.data_ptr(), bytes, tensor.nbytes());
  return tensor.to(device, dtype);
}

std::string TensorName(int64_t layer, int projection, bool is_a) {
  return absl::StrCat("model.layers.", layer, ".",
                      ProjectionModule(static_cast<Projection>(projection)),
                      is_a ? ".lora_A.weight" : ".lora_B.weight");
}

absl::StatusOr<proto::LoraConfig> ReadPeftConfig(const std::string& file) {
  WB_ASSIGN_OR_RETURN(const std::string text, ReadFile(file));
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object())
    return absl::InvalidArgumentError(absl::StrCat(file, ": is not a JSON object"));
  proto::LoraConfig config;
  try {
    if (json.value("peft_type", "LORA") != "LORA") {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": peft_type is ", json["peft_type"].dump(), ", expected \"LORA\""));
    }
    for (const char* unsupported : {"use_dora", "use_rslora", "fan_in_fan_out"}) {
      if (json.contains(unsupported) && json[unsupported].is_boolean() &&
          json[unsupported].get<bool>()) {
        return absl::InvalidArgumentError(
            absl::StrCat(file, ": ", unsupported, " is true, which is not supported"));
      }
    }
    if (json.contains("bias") && json["bias"] != "none") {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": bias is ", json["bias"].dump(), ", expected \"none\""));
    }
    config.set_rank(json.at("r").get<int>());
    config.set_alpha(json.at("lora_alpha").get<double>());
    const auto& targets = json.at("target_modules");
    if (targets.is_array()) {
      for (const auto& target : targets) config.add_target(target.get<std::string>());
    } else if (targets != "all-linear") {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": target_modules is ", targets.dump(),
                       ", expected a list of names or \"all-linear\""));
    }
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": r, lora_alpha and target_modules are needed: ", error.what()));
  }
  return config;
}

absl::StatusOr<std::array<bool, kNumProjections>> Targets(const proto::LoraConfig& config) {
  std::array<bool, kNumProjections> wanted;
  wanted.fill(config.target_size() == 0);
  for (const std::string& target : config.target()) {
    int found = -1;
    std::vector<absl::string_view> names;
    for (int p = 0; p < kNumProjections; ++p) {
      names.push_back(ProjectionName(static_cast<Projection>(p)));
      if (target == names.back()) found = p;
    }
    if (found < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "lora.target \"", target, "\" is no projection of this model, expected some of ",
          absl::StrJoin(names, ", ")));
    }
    wanted[found] = true;
  }
  return wanted;
}

}  // namespace

absl::StatusOr<std::shared_ptr<Adapter>> Adapter::Shaped(const ModelSpec& spec,
                                                         const proto::LoraConfig& config) {
  if (config.rank() < 1)
    return absl::InvalidArgumentError(
        absl::StrCat("lora.rank is ", config.rank(), ", must be at least 1"));
  WB_ASSIGN_OR_RETURN(const auto wanted, Targets(config));
  std::shared_ptr<Adapter> adapter(new Adapter(config, spec.num_layers));
  for (auto& layer : adapter->layers_) {
    for (int p = 0; p < kNumProjections; ++p) {
      if (!wanted[p]) continue;
      const auto projection = static_cast<Projection>(p);
      layer[p].a = at::empty({config.rank(), ProjectionInputs(spec, projection)},
                             at::TensorOptions(at::kMeta));
      layer[p].b = at::empty({ProjectionOutputs(spec, projection), config.rank()},
                             at::TensorOptions(at::kMeta));
    }
  }
  return adapter;
}

absl::StatusOr<std::shared_ptr<Adapter>> Adapter::Initialize(const ModelSpec& spec,
                                                             const proto::LoraConfig& config,
                                                             uint64_t seed, at::ScalarType dtype,
                                                             at::Device device) {
  WB_ASSIGN_OR_RETURN(std::shared_ptr<Adapter> adapter, Shaped(spec, config));
  for (int64_t i = 0; i < spec.num_layers; ++i) {
    for (int p = 0; p < kNumProjections; ++p) {
      Pair& pair = adapter->layers_[i][p];
      if (!pair.a.defined()) continue;
      Tensor a = at::empty(pair.a.sizes(), at::TensorOptions(at::kDouble));
      const double bound = 1.0 / std::sqrt(static_cast<double>(a.size(1)));
      double* values = a.data_ptr<double>();
      const auto stream = static_cast<uint64_t>(i * kNumProjections + p);
      for (int64_t j = 0; j < a.numel(); ++j) {
        values[j] =
            bound * (2 * UniformAt(seed, kAdapterStream + stream, static_cast<uint32_t>(j >> 32),
                                   static_cast<uint32_t>(j)) -
                     1);
      }
      pair.a = a.to(device, dtype);
      pair.b = at::zeros(pair.b.sizes(), at::TensorOptions(dtype).device(device));
    }
  }
  return adapter;
}

absl::StatusOr<std::shared_ptr<Adapter>> Adapter::Load(absl::string_view folder,
                                                       const ModelSpec& spec, at::ScalarType dtype,
                                                       at::Device device) {
  const std::string config_file = absl::StrCat(folder, "/adapter_config.json");
  WB_ASSIGN_OR_RETURN(const proto::LoraConfig config, ReadPeftConfig(config_file));
  absl::StatusOr<std::shared_ptr<Adapter>> adapter = Shaped(spec, config);
  if (!adapter.ok()) return Annotate(adapter.status(), config_file);
  WB_ASSIGN_OR_RETURN(const std::shared_ptr<const WeightFiles> files,
                      WeightFiles::OpenFile(absl::StrCat(folder, "/adapter_model.safetensors")));
  size_t used = 0;
  for (int64_t i = 0; i < spec.num_layers; ++i) {
    for (int p = 0; p < kNumProjections; ++p) {
      Pair& pair = (*adapter)->layers_[i][p];
      if (!pair.a.defined()) continue;
      for (bool is_a : {true, false}) {
        Tensor& tensor = is_a ? pair.a : pair.b;
        const std::string name = absl::StrCat(kPeftPrefix, TensorName(i, p, is_a));
        WB_ASSIGN_OR_RETURN(const StoredTensor stored, files->Find(name, tensor.sizes().vec()));
        const at::ScalarType type = stored.dtype == "BF16"  ? at::kBFloat16
                                    : stored.dtype == "F16" ? at::kHalf
                                    : stored.dtype == "F64" ? at::kDouble
                                                            : at::kFloat;
        if (DTypeName(type) != stored.dtype) {
          return absl::InvalidArgumentError(absl::StrCat(stored.file, ": tensor \"", name, "\" is ",
                                                         stored.dtype,
                                                         ", expected F32, BF16, F16 or F64"));
        }
        tensor = CopyOf(stored.data, stored.shape, type, dtype, device);
        ++used;
      }
    }
  }
  if (used != files->tensors().size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(files->source(), ": has ", files->tensors().size(),
                     " tensors, of which this model and ", "adapter_config.json use ", used));
  }
  return adapter;
}

absl::Status Adapter::Save(absl::string_view folder, absl::string_view base_model_path) const {
  WB_RETURN_IF_ERROR(MakeDirectories(folder));
  std::vector<Tensor> host;
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, tensor] : NamedTensors()) {
    host.push_back(OnHost(tensor, tensor.scalar_type()));
    tensors.push_back({absl::StrCat(kPeftPrefix, name), DTypeName(tensor.scalar_type()),
                       tensor.sizes().vec(), BytesOf(host.back())});
  }
  WB_RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(folder, "/adapter_model.safetensors"),
                                         SerializeSafetensors(tensors, {{"format", "pt"}})));
  std::vector<std::string> targets(config_.target().begin(), config_.target().end());
  if (targets.empty()) {
    for (int p = 0; p < kNumProjections; ++p)
      targets.emplace_back(ProjectionName(static_cast<Projection>(p)));
  }
  nlohmann::ordered_json json = {{"peft_type", "LORA"},
                                 {"task_type", "CAUSAL_LM"},
                                 {"base_model_name_or_path", std::string(base_model_path)},
                                 {"r", config_.rank()},
                                 {"lora_alpha", config_.alpha()},
                                 {"lora_dropout", 0.0},
                                 {"target_modules", targets},
                                 {"bias", "none"},
                                 {"fan_in_fan_out", false},
                                 {"init_lora_weights", true},
                                 {"inference_mode", true},
                                 {"use_rslora", false},
                                 {"use_dora", false},
                                 {"modules_to_save", nullptr}};
  if (config_.alpha() == std::floor(config_.alpha()))
    json["lora_alpha"] = static_cast<int64_t>(config_.alpha());
  return WriteFileAtomically(absl::StrCat(folder, "/adapter_config.json"), json.dump(2) + "\n");
}

std::string Adapter::Pack(at::ScalarType dtype, proto::AdapterManifest* manifest) const {
  std::string bytes;
  *manifest->mutable_lora() = config_;
  manifest->set_dtype(dtype == at::kBFloat16 ? proto::BFLOAT16
                      : dtype == at::kDouble ? proto::FLOAT64
                                             : proto::FLOAT32);
  manifest->clear_tensor();
  for (const auto& [name, tensor] : NamedTensors()) {
    proto::TensorSpec* spec = manifest->add_tensor();
    spec->set_name(name);
    for (int64_t extent : tensor.sizes()) spec->add_shape(extent);
    spec->set_offset_bytes(bytes.size());
    const Tensor host = OnHost(tensor, dtype);
    const absl::string_view view = BytesOf(host);
    bytes.append(view.data(), view.size());
  }
  manifest->set_num_bytes(bytes.size());
  manifest->set_fingerprint(Fingerprint(bytes));
  return bytes;
}

absl::StatusOr<std::shared_ptr<Adapter>> Adapter::Unpack(const proto::AdapterManifest& manifest,
                                                         absl::string_view bytes,
                                                         const ModelSpec& spec,
                                                         at::ScalarType dtype, at::Device device) {
  const std::string what = absl::StrCat("adapter version ", manifest.version());
  absl::StatusOr<std::shared_ptr<Adapter>> adapter = Shaped(spec, manifest.lora());
  if (!adapter.ok()) return Annotate(adapter.status(), what);
  const at::ScalarType stored = ScalarTypeOf(manifest.dtype());
  const auto wanted = (*adapter)->NamedTensors();
  if (static_cast<size_t>(manifest.tensor_size()) != wanted.size()) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": has ", manifest.tensor_size(),
                                                   " tensors, this model expects ", wanted.size()));
  }
  int next = 0;
  for (auto& layer : (*adapter)->layers_) {
    for (Pair& pair : layer) {
      if (!pair.a.defined()) continue;
      for (Tensor* tensor : {&pair.a, &pair.b}) {
        const proto::TensorSpec& sent = manifest.tensor(next);
        const std::vector<int64_t> shape(sent.shape().begin(), sent.shape().end());
        if (sent.name() != wanted[next].first || at::IntArrayRef(shape) != tensor->sizes()) {
          return absl::InvalidArgumentError(
              absl::StrCat(what, ": tensor \"", sent.name(), "\" [", absl::StrJoin(shape, ", "),
                           "], expected \"", wanted[next].first, "\" [",
                           absl::StrJoin(tensor->sizes(), ", "), "]"));
        }
        const uint64_t num_bytes =
            static_cast<uint64_t>(tensor->numel()) * c10::elementSize(stored);
        if (sent.offset_bytes() > bytes.size() || num_bytes > bytes.size() - sent.offset_bytes()) {
          return absl::InvalidArgumentError(absl::StrCat(what, ": tensor \"", sent.name(),
                                                         "\" ends past the buffer of ",
                                                         bytes.size(), " bytes"));
        }
        *tensor = CopyOf(bytes.data() + sent.offset_bytes(), shape, stored, dtype, device);
        ++next;
      }
    }
  }
  return adapter;
}

const Adapter::Pair* Adapter::Find(int64_t layer, Projection projection) const {
  const Pair& pair = layers_[layer][static_cast<int>(projection)];
  return pair.a.defined() ? &pair : nullptr;
}

std::vector<std::pair<std::string, Tensor>> Adapter::NamedTensors() const {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (size_t i = 0; i < layers_.size(); ++i) {
    for (int p = 0; p < kNumProjections; ++p) {
      const Pair& pair = layers_[i][p];
      if (!pair.a.defined()) continue;
      tensors.emplace_back(TensorName(static_cast<int64_t>(i), p, true), pair.a);
      tensors.emplace_back(TensorName(static_cast<int64_t>(i), p, false), pair.b);
    }
  }
  return tensors;
}

std::vector<Tensor> Adapter::Parameters() const {
  std::vector<Tensor> parameters;
  for (auto& [name, tensor] : NamedTensors()) parameters.push_back(tensor);
  return parameters;
}

}  // namespace wideberth::model
