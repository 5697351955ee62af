// SPDX-License-Identifier: Apache-2.0
// The language model: a Hugging Face folder and its forward pass over token trees, the same code
// for sampling, scoring and learning. Shapes: N packed tokens, H hidden, V vocabulary, Q query
// heads, K key/value heads, D head dimension, P prefix tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "model/adapter.h"
#include "model/lm_weights.h"
#include "model/model_spec.h"
#include "model/token_tree.h"
#include "proto/config.pb.h"

namespace wideberth::model {

// Keys and values of consecutive positions 0..P-1, per layer [K, P, D], rotary applied. Immutable
// once made, shared freely.
struct KvPrefix {
  std::vector<at::Tensor> keys_KPD;
  std::vector<at::Tensor> values_KPD;
  int64_t length = 0;
};

struct ForwardOptions {
  const Adapter* adapter = nullptr;  // Null: the base model (reference policy).
  const KvPrefix* prefix = nullptr;  // Stands before every root of the tree.
  // Set in the pass that trains: the adapter's inputs are dropped with its config's probability,
  // which elements is a function of this seed, layer, projection and row alone. Otherwise nothing
  // is.
  absl::optional<uint64_t> dropout_seed;
  // Every layer keeps only its input and is computed again in the backward pass, until whose end
  // adapter, prefix and model must live. Gradients are the same to the last bit. Not with root_kv.
  bool checkpoint_layers = false;
  // When set: receives one KvPrefix per *root* node of the tree (without `prefix`), in order.
  std::vector<KvPrefix>* root_kv = nullptr;
};

// One thread per process computes with it; const methods keep no state.
// Weights are read-only and memory-mapped where the stored dtype is the running one, so processes
// on one host share them.
class CausalLm final {
 public:
  // Errors name file, tensor or field, found and expected.
  static absl::StatusOr<std::unique_ptr<CausalLm>> Load(const proto::ModelConfig& config);

  // Hidden states after the final norm, [N, H], through the adapter's own weights where it has
  // them. Differentiable in the adapter's tensors when gradients are on. Throws c10::Error: call it
  // inside CatchTorch.
  at::Tensor Hidden(const TokenTree& tree, const ForwardOptions& options) const;

  // The layers themselves, attention and with it prefix and root_kv left to the caller: Hidden and
  // DecodeBatch are the two callers. ids and positions int64 [N]; attend(layer, q [N, Q, D], k [N,
  // K, D], v [N, K, D]), rotary applied, returns [N, Q * D].
  using Attend =
      std::function<at::Tensor(int64_t, const at::Tensor&, const at::Tensor&, const at::Tensor&)>;
  at::Tensor RunLayers(const at::Tensor& ids_N, const at::Tensor& positions_N,
                       const ForwardOptions& options, const Attend& attend) const;

  const ModelSpec& spec() const { return spec_; }
  at::ScalarType dtype() const { return dtype_; }
  at::Device device() const { return device_; }
  // xxh3-128 over names, dtypes, shapes and bytes of all tensors of the folder: "same base" for the
  // wires.
  const std::string& fingerprint() const { return fingerprint_; }
  // Output head [V, H] (the embedding where tied); for sequence classification the score head [1,
  // H]. The base's own: what goes through an adapter goes through HeadOf.
  const at::Tensor& head() const { return head_; }
  // The output head with this adapter (null: without); of one with a score head it means nothing.
  const at::Tensor& HeadOf(const Adapter* adapter) const {
    return adapter == nullptr || adapter->weights() == nullptr ? head_
                                                               : adapter->weights()->OutputHead();
  }
  const LmWeights& weights() const { return weights_; }
  // A vector of token ids or rows as an int64 tensor on the model's device.
  at::Tensor Indices(const std::vector<int64_t>& values) const;

 private:
  struct TensorReader;
  CausalLm() = default;
  absl::Status LoadTensors(TensorReader& reader);
  void MakeInverseFrequencies();
  // What a pass goes through: the adapter's weights or the folder's.
  const LmWeights& WeightsOf(const ForwardOptions& options) const {
    const bool own = options.adapter != nullptr && options.adapter->weights() != nullptr;
    return own ? *options.adapter->weights() : weights_;
  }
  at::Tensor Project(int64_t layer, Projection projection, const at::Tensor& x_NI,
                     const ForwardOptions& options) const;
  at::Tensor RunLayer(int64_t layer, const at::Tensor& x_NH, const at::Tensor& cos_NE,
                      const at::Tensor& sin_NE, const ForwardOptions& options,
                      const Attend& attend) const;

  ModelSpec spec_;
  at::ScalarType dtype_ = at::kFloat;
  at::Device device_ = at::kCPU;
  std::string fingerprint_;
  LmWeights weights_;
  at::Tensor head_;
  at::Tensor inverse_frequencies_;  // [D / 2] float32, rotary scaling applied
};

}  // namespace wideberth::model
