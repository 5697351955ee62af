// SPDX-License-Identifier: Apache-2.0
// Loading, and the layers. What the attention of a token tree or of a decode step looks like is in
// attention.cc and decode.cc.
#include "model/causal_lm.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "model/attention.h"
#include "model/catch_torch.h"
#include "model/fused.h"
#include "model/lora_linear.h"
#include "model/recompute.h"
#include "model/runtime.h"
#include "model/safetensors.h"
#include "model/small_gemm.h"

namespace wideberth::model {
namespace {

using ::at::Tensor;

double Llama3Frequency(double frequency, const Llama3RopeScaling& scaling) {
  const double original = static_cast<double>(scaling.original_max_positions);
  const double wavelength = 2 * M_PI / frequency;
  if (wavelength < original / scaling.high_freq_factor) return frequency;
  if (wavelength > original / scaling.low_freq_factor) return frequency / scaling.factor;
  const double smooth = (original / wavelength - scaling.low_freq_factor) /
                        (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1 - smooth) * frequency / scaling.factor + smooth * frequency;
}

}  // namespace

struct CausalLm::TensorReader {
  std::shared_ptr<const WeightFiles> files;
  at::ScalarType dtype;
  at::Device device;
  std::set<std::string> used;

  absl::StatusOr<Tensor> Read(const std::string& name, const std::vector<int64_t>& shape) {
    WB_ASSIGN_OR_RETURN(const StoredTensor stored, files->Find(name, shape));
    WB_ASSIGN_OR_RETURN(const at::ScalarType type, ScalarTypeOf(stored, name));
    used.insert(name);
    // The mapping is read-only; nothing in the model writes to a weight.
    Tensor tensor = at::from_blob(
        const_cast<char*>(stored.data), stored.shape, [keep = files](void*) {},
        at::TensorOptions(type));
    return tensor.to(device, dtype);
  }
  bool Has(const std::string& name) const { return files->tensors().count(name) > 0; }

  absl::Status CheckAllUsed(const ModelSpec& spec) const {
    std::vector<std::string> unexpected;
    for (const auto& [name, unused] : files->tensors()) {
      const bool known =
          used.count(name) || absl::EndsWith(name, "rotary_emb.inv_freq") ||
          (name == "lm_head.weight" && (spec.tied_embeddings || spec.sequence_classification));
      if (!known) unexpected.push_back(name);
    }
    if (unexpected.empty()) return absl::OkStatus();
    const size_t shown = std::min<size_t>(unexpected.size(), 3);
    return absl::InvalidArgumentError(
        absl::StrCat(files->source(), ": ", unexpected.size(), " tensor(s) that a ",
                     spec.architecture, " of this config.json does not have: ",
                     absl::StrJoin(unexpected.begin(), unexpected.begin() + shown, ", "),
                     unexpected.size() > shown ? ", ..." : ""));
  }
};

absl::Status CausalLm::LoadTensors(TensorReader& reader) {
  weights_ = LmWeights::Shaped(spec_);
  for (const auto& [name, tensor] : weights_.Places()) {
    WB_ASSIGN_OR_RETURN(*tensor, reader.Read(name, tensor->sizes().vec()));
  }
  head_ = weights_.OutputHead();
  if (spec_.sequence_classification) {
    WB_ASSIGN_OR_RETURN(head_, reader.Read("score.weight", {1, spec_.hidden}));
  }
  return reader.CheckAllUsed(spec_);
}

void CausalLm::MakeInverseFrequencies() {
  const int64_t half = spec_.head_dim / 2;
  // float32 throughout, as transformers computes them.
  Tensor inverse = 1.0 / at::pow(at::scalar_tensor(spec_.rope_theta, at::kFloat),
                                 at::arange(0, spec_.head_dim, 2, at::kLong).to(at::kFloat) /
                                     static_cast<double>(spec_.head_dim));
  if (spec_.rope_scaling) {
    float* values = inverse.data_ptr<float>();
    for (int64_t i = 0; i < half; ++i)
      values[i] = static_cast<float>(Llama3Frequency(values[i], *spec_.rope_scaling));
  }
  inverse_frequencies_ = inverse.to(device_);
}

absl::StatusOr<std::unique_ptr<CausalLm>> CausalLm::Load(const proto::ModelConfig& config) {
  if (config.path().empty())
    return absl::InvalidArgumentError("model.path is empty, expected a Hugging Face folder");
  WB_ASSIGN_OR_RETURN(ModelSpec spec, ReadModelSpec(config.path()));
  WB_ASSIGN_OR_RETURN(const at::Device device, ParseDevice(config.device()));
  WB_ASSIGN_OR_RETURN(std::shared_ptr<const WeightFiles> files,
                      WeightFiles::OpenFolder(config.path()));
  std::unique_ptr<CausalLm> model(new CausalLm);
  model->spec_ = std::move(spec);
  model->dtype_ = ScalarTypeOf(config.dtype());
  model->device_ = device;
  model->fingerprint_ = files->Fingerprint();
  TensorReader reader{files, model->dtype_, device, {}};
  WB_RETURN_IF_ERROR(CatchTorch(absl::StrCat("loading ", config.path()), [&]() -> absl::Status {
    const c10::AutoGradMode no_gradient(false);
    WB_RETURN_IF_ERROR(model->LoadTensors(reader));
    model->MakeInverseFrequencies();
    return absl::OkStatus();
  }));
  return model;
}

Tensor CausalLm::Indices(const std::vector<int64_t>& values) const {
  return at::tensor(values, at::TensorOptions(at::kLong)).to(device_);
}

Tensor CausalLm::Project(int64_t layer, Projection projection, const Tensor& x_NI,
                         const ForwardOptions& options) const {
  const int p = static_cast<int>(projection);
  const LmWeights::Linear& linear = WeightsOf(options).layers[layer].linears[p];
  const Adapter* adapter = options.adapter;
  const Adapter::Pair* lora = adapter == nullptr ? nullptr : adapter->Find(layer, projection);
  if (lora == nullptr) {
    const Tensor y = TimesTransposed(x_NI, linear.weight);
    return linear.bias.defined() ? y + linear.bias : y;
  }
  Dropout dropout;
  if (options.dropout_seed) {
    dropout = {adapter->config().dropout(), *options.dropout_seed,
               static_cast<uint32_t>(layer * kNumProjections + p)};
  }
  return LoraLinear(x_NI, linear.weight, linear.bias, lora->a, lora->b, adapter->scaling(),
                    dropout);
}

Tensor CausalLm::RunLayer(int64_t i, const Tensor& x_NH, const Tensor& cos_NE, const Tensor& sin_NE,
                          const ForwardOptions& options, const Attend& attend) const {
  const LmWeights::Layer& layer = WeightsOf(options).layers[i];
  const int64_t n = x_NH.size(0), d = spec_.head_dim;
  const Tensor attention_in = RmsNorm(x_NH, layer.input_norm, spec_.norm_epsilon);
  const Tensor q =
      Rotate(Project(i, Projection::kQ, attention_in, options).view({n, spec_.num_heads, d}),
             cos_NE, sin_NE);
  const Tensor k =
      Rotate(Project(i, Projection::kK, attention_in, options).view({n, spec_.num_kv_heads, d}),
             cos_NE, sin_NE);
  const Tensor v =
      Project(i, Projection::kV, attention_in, options).view({n, spec_.num_kv_heads, d});
  const Tensor attended_NH = x_NH + Project(i, Projection::kO, attend(i, q, k, v), options);
  const Tensor mlp_in = RmsNorm(attended_NH, layer.post_attention_norm, spec_.norm_epsilon);
  const Tensor gated = SwiGlu(Project(i, Projection::kGate, mlp_in, options),
                              Project(i, Projection::kUp, mlp_in, options));
  return attended_NH + Project(i, Projection::kDown, gated, options);
}

Tensor CausalLm::RunLayers(const Tensor& ids_N, const Tensor& positions_N,
                           const ForwardOptions& options, const Attend& attend) const {
  const Tensor angles_NE = at::outer(positions_N.to(at::kFloat), inverse_frequencies_);
  const Tensor cos_NE = angles_NE.cos(), sin_NE = angles_NE.sin();
  const LmWeights& weights = WeightsOf(options);
  Tensor x_NH = weights.embedding.index_select(0, ids_N);
  for (int64_t i = 0; i < spec_.num_layers; ++i) {
    if (options.checkpoint_layers && options.adapter != nullptr) {
      x_NH = Recomputed(
          [=, this](const Tensor& input) {
            return RunLayer(i, input, cos_NE, sin_NE, options, attend);
          },
          x_NH, options.adapter->LayerParameters(i));
    } else {
      x_NH = RunLayer(i, x_NH, cos_NE, sin_NE, options, attend);
    }
  }
  return RmsNorm(x_NH, weights.final_norm, spec_.norm_epsilon);
}

Tensor CausalLm::Hidden(const TokenTree& tree, const ForwardOptions& options) const {
  WB_CHECK(tree.num_tokens > 0, "a token tree has at least one node");
  const int64_t prefix_length = options.prefix == nullptr ? 0 : options.prefix->length;
  std::vector<int64_t> ids, positions;
  ids.reserve(tree.num_tokens);
  positions.reserve(tree.num_tokens);
  for (const TokenTree::Node& node : tree.nodes) {
    for (size_t i = 0; i < node.tokens.size(); ++i) {
      ids.push_back(node.tokens[i]);
      positions.push_back(prefix_length + node.first_position + static_cast<int64_t>(i));
    }
  }
  WB_CHECK(!options.checkpoint_layers || options.root_kv == nullptr,
           "layers that are computed twice would hand out their keys twice");
  // Shared with the graph where layers are computed again.
  const auto attention = std::make_shared<const TreeAttention>(
      tree, options.prefix, spec_.num_heads / spec_.num_kv_heads, device_);
  if (options.root_kv != nullptr) attention->PrepareRootKv(spec_.num_layers, options.root_kv);
  return RunLayers(Indices(ids), Indices(positions), options,
                   [attention, root_kv = options.root_kv](int64_t layer, const Tensor& q,
                                                          const Tensor& k, const Tensor& v) {
                     if (root_kv != nullptr) attention->KeepRootKv(layer, k, v, root_kv);
                     return attention->Attend(layer, q, k, v);
                   });
}

}  // namespace wideberth::model
