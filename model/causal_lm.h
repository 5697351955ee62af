// SPDX-License-Identifier: Apache-2.0
// The language model: a Hugging Face folder and its forward pass over token trees, the same code for sampling, scoring and learning.
// Shapes: N packed tokens, H hidden, V vocabulary, K key/value heads, D head dimension, P prefix tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/adapter.h"
#include "model/model_spec.h"
#include "model/token_tree.h"
#include "proto/config.pb.h"

namespace wideberth::model {

// Keys and values of consecutive positions 0..P-1, per layer [K, P, D], rotary applied. Immutable once made, shared freely.
struct KvPrefix {
  std::vector<at::Tensor> keys_KPD;
  std::vector<at::Tensor> values_KPD;
  int64_t length = 0;
};

struct ForwardOptions {
  const Adapter* adapter = nullptr;            // Null: the base model (reference policy).
  const KvPrefix* prefix = nullptr;            // Stands before every root of the tree.
  // When set: receives one KvPrefix per *root* node of the tree (without `prefix`), in order.
  std::vector<KvPrefix>* root_kv = nullptr;
};

// Not thread-safe: one thread per process owns the device and does all torch work. Weights are read-only and memory-mapped where the
// stored dtype is the running one, so processes on one host share them.
class CausalLm {
 public:
  virtual ~CausalLm() = default;

  // Errors name file, tensor or field, found and expected.
  static absl::StatusOr<std::unique_ptr<CausalLm>> Load(const proto::ModelConfig& config);

  // Hidden states after the final norm, [N, H]. Differentiable in the adapter's tensors when gradients are on. Throws c10::Error: call it
  // inside CatchTorch.
  virtual at::Tensor Hidden(const TokenTree& tree, const ForwardOptions& options) const = 0;

  // One decode step for B completions, see model/generate.h, its only caller besides tests.
  struct DecodeSequence {
    const KvPrefix* prompt = nullptr;  // Shared by the group.
    int64_t group = 0;                 // Sequences of one group are adjacent in the batch and have equal `group`.
  };
  class DecodeCache;  // model/causal_lm.cc

  const ModelSpec& spec() const { return spec_; }
  at::ScalarType dtype() const { return dtype_; }
  at::Device device() const { return device_; }
  // xxh3-128 over names, dtypes, shapes and bytes of all tensors of the folder: "same base" for the wires.
  const std::string& fingerprint() const { return fingerprint_; }
  // Output head [V, H] (the embedding where tied); for sequence classification the score head [1, H].
  const at::Tensor& head() const { return head_; }

 protected:
  ModelSpec spec_;
  at::ScalarType dtype_ = at::kFloat;
  at::Device device_ = at::kCPU;
  std::string fingerprint_;
  at::Tensor head_;
};

}  // namespace wideberth::model
