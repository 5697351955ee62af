// SPDX-License-Identifier: Apache-2.0
#include "model/adapter.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/status.h"
#include "model/peft_config.h"
#include "model/random.h"
#include "model/runtime.h"
#include "model/safetensors.h"

namespace wideberth::model {
namespace {

using ::at::Tensor;
constexpr char kPeftPrefix[] = "base_model.model.";
constexpr char kScoreHead[] = "score.weight";

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

Tensor MetaScoreHead(const ModelSpec& spec) {
  return at::empty({1, spec.hidden}, at::TensorOptions(at::kMeta));
}

}  // namespace

absl::StatusOr<std::shared_ptr<Adapter>> Adapter::Shaped(const ModelSpec& spec,
                                                         const proto::LoraConfig& config,
                                                         bool all_weights) {
  if (all_weights) {
    std::shared_ptr<Adapter> adapter(new Adapter(config, spec));
    adapter->weights_ = LmWeights::Shaped(spec);
    return adapter;
  }
  if (config.rank() < 1)
    return absl::InvalidArgumentError(
        absl::StrCat("lora.rank is ", config.rank(), ", must be at least 1"));
  if (!(config.dropout() >= 0 && config.dropout() < 1))
    return absl::InvalidArgumentError(
        absl::StrCat("lora.dropout is ", config.dropout(), ", must be at least 0 and below 1"));
  WB_ASSIGN_OR_RETURN(const auto wanted, TargetModules(spec, config));
  std::shared_ptr<Adapter> adapter(new Adapter(config, spec));
  for (int64_t i = 0; i < spec.num_layers; ++i) {
    auto& layer = adapter->layers_[i];
    for (int p = 0; p < kNumProjections; ++p) {
      if (!wanted[i][p]) continue;
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
  WB_ASSIGN_OR_RETURN(std::shared_ptr<Adapter> adapter,
                      Shaped(spec, config, /*all_weights=*/false));
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

std::shared_ptr<Adapter> Adapter::AllWeights(const ModelSpec& spec, const LmWeights& base,
                                             at::ScalarType dtype) {
  Adapter adapter(proto::LoraConfig(), spec);
  adapter.weights_ = base;
  return adapter.CopyAs(dtype);
}

std::shared_ptr<Adapter> Adapter::CopyAs(at::ScalarType dtype) const {
  std::shared_ptr<Adapter> copy(new Adapter(*this));
  for (const auto& [name, tensor] : copy->Slots())
    *tensor = tensor->detach().to(dtype, /*non_blocking=*/false, /*copy=*/true);
  return copy;
}

absl::StatusOr<std::shared_ptr<Adapter>> Adapter::Load(absl::string_view folder,
                                                       const ModelSpec& spec, at::ScalarType dtype,
                                                       at::Device device) {
  const std::string config_file = absl::StrCat(folder, "/adapter_config.json");
  WB_ASSIGN_OR_RETURN(const proto::LoraConfig config, ReadPeftConfig(config_file));
  WB_ASSIGN_OR_RETURN(const std::shared_ptr<const WeightFiles> files,
                      WeightFiles::OpenFile(absl::StrCat(folder, "/adapter_model.safetensors")));
  const auto has = [&](const char* name) {
    return files->tensors().count(absl::StrCat(kPeftPrefix, name)) > 0;
  };
  absl::StatusOr<std::shared_ptr<Adapter>> adapter = Shaped(spec, config, has(kEmbeddingName));
  if (!adapter.ok()) return Annotate(adapter.status(), config_file);
  if (has(kScoreHead)) WB_RETURN_IF_ERROR((*adapter)->SetScoreHead(MetaScoreHead(spec)));
  const std::vector<Slot> slots = (*adapter)->Slots();
  for (const auto& [short_name, tensor] : slots) {
    const std::string name = absl::StrCat(kPeftPrefix, short_name);
    WB_ASSIGN_OR_RETURN(const StoredTensor stored, files->Find(name, tensor->sizes().vec()));
    WB_ASSIGN_OR_RETURN(const at::ScalarType type, ScalarTypeOf(stored, name));
    *tensor = CopyOf(stored.data, stored.shape, type, dtype, device);
  }
  if (slots.size() != files->tensors().size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(files->source(), ": has ", files->tensors().size(),
                     " tensors, of which this model and adapter_config.json use ", slots.size()));
  }
  return adapter;
}

absl::Status Adapter::Save(absl::string_view folder, absl::string_view base_model_path) const {
  WB_RETURN_IF_ERROR(MakeDirectories(folder));
  std::vector<Tensor> host;
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, tensor] : NamedTensors()) {
    host.push_back(OnHost(tensor, tensor.scalar_type()));
    tensors.push_back({absl::StrCat(kPeftPrefix, name), StoredName(tensor.scalar_type()),
                       tensor.sizes().vec(), BytesOf(host.back())});
  }
  WB_RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(folder, "/adapter_model.safetensors"),
                                         SerializeSafetensors(tensors, {{"format", "pt"}})));
  return WriteFileAtomically(
      absl::StrCat(folder, "/adapter_config.json"),
      PeftConfigText(config_, base_model_path, /*score_head=*/score_head_.defined(),
                     /*all_weights=*/weights_.has_value()));
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
  const int num_sent = manifest.tensor_size();
  absl::StatusOr<std::shared_ptr<Adapter>> adapter =
      Shaped(spec, manifest.lora(), num_sent > 0 && manifest.tensor(0).name() == kEmbeddingName);
  if (!adapter.ok()) return Annotate(adapter.status(), what);
  const at::ScalarType stored = ScalarTypeOf(manifest.dtype());
  if (num_sent > 0 && manifest.tensor(num_sent - 1).name() == kScoreHead)
    WB_RETURN_IF_ERROR((*adapter)->SetScoreHead(MetaScoreHead(spec)));
  const std::vector<Slot> slots = (*adapter)->Slots();
  if (static_cast<size_t>(manifest.tensor_size()) != slots.size()) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": has ", manifest.tensor_size(),
                                                   " tensors, this model expects ", slots.size()));
  }
  int next = 0;
  for (const auto& [name, tensor] : slots) {
    const proto::TensorSpec& sent = manifest.tensor(next++);
    const std::vector<int64_t> shape(sent.shape().begin(), sent.shape().end());
    if (sent.name() != name || at::IntArrayRef(shape) != tensor->sizes()) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, ": tensor \"", sent.name(), "\" [", absl::StrJoin(shape, ", "),
                       "], expected \"", name, "\" [", absl::StrJoin(tensor->sizes(), ", "), "]"));
    }
    const uint64_t num_bytes = static_cast<uint64_t>(tensor->numel()) * c10::elementSize(stored);
    if (sent.offset_bytes() > bytes.size() || num_bytes > bytes.size() - sent.offset_bytes()) {
      return absl::InvalidArgumentError(absl::StrCat(
          what, ": tensor \"", sent.name(), "\" ends past the buffer of ", bytes.size(), " bytes"));
    }
    *tensor = CopyOf(bytes.data() + sent.offset_bytes(), shape, stored, dtype, device);
  }
  return adapter;
}

const Adapter::Pair* Adapter::Find(int64_t layer, Projection projection) const {
  const Pair& pair = layers_[layer][static_cast<int>(projection)];
  return pair.a.defined() ? &pair : nullptr;
}

double Adapter::scaling() const {
  const double rank = config_.rank();
  return config_.alpha() / (config_.rslora() ? std::sqrt(rank) : rank);
}

absl::Status Adapter::SetScoreHead(Tensor head) {
  if (head.sizes() != at::IntArrayRef({1, hidden_})) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a score head is [", absl::StrJoin(head.sizes(), ", "), "], expected [1, ", hidden_, "]"));
  }
  score_head_ = std::move(head);
  if (weights_.has_value()) weights_->lm_head.reset();
  return absl::OkStatus();
}

std::vector<Adapter::Slot> Adapter::Slots() {
  std::vector<Slot> slots;
  if (weights_.has_value()) slots = weights_->Places();
  for (size_t i = 0; i < layers_.size(); ++i) {
    for (int p = 0; p < kNumProjections; ++p) {
      Pair& pair = layers_[i][p];
      if (!pair.a.defined()) continue;
      slots.emplace_back(TensorName(static_cast<int64_t>(i), p, true), &pair.a);
      slots.emplace_back(TensorName(static_cast<int64_t>(i), p, false), &pair.b);
    }
  }
  if (score_head_.defined()) slots.emplace_back(kScoreHead, &score_head_);
  return slots;
}

std::vector<std::pair<std::string, Tensor>> Adapter::NamedTensors() const {
  std::vector<std::pair<std::string, Tensor>> tensors;
  // Slots hands out places to write to, which this does not.
  for (const auto& [name, tensor] : const_cast<Adapter*>(this)->Slots())
    tensors.emplace_back(name, *tensor);
  return tensors;
}

std::vector<Tensor> Adapter::Parameters() const {
  std::vector<Tensor> parameters;
  for (auto& [name, tensor] : NamedTensors()) parameters.push_back(tensor);
  return parameters;
}

std::vector<Tensor> Adapter::LayerParameters(int64_t layer) const {
  if (weights_.has_value()) return weights_->OfLayer(layer);
  std::vector<Tensor> parameters;
  for (const Pair& pair : layers_[layer]) {
    if (pair.a.defined()) parameters.insert(parameters.end(), {pair.a, pair.b});
  }
  return parameters;
}

}  // namespace wideberth::model
