// SPDX-License-Identifier: Apache-2.0
// The weights of a decoder, by place and by Hugging Face name. CausalLm runs through one such set:
// its folder's, or that of an adapter that trains all of them. Shapes: H hidden, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "model/model_spec.h"

namespace wideberth::model {

inline constexpr char kEmbeddingName[] = "model.embed_tokens.weight";

struct LmWeights {
  struct Linear {
    at::Tensor weight;  // [out, in]
    at::Tensor bias;    // [out] or undefined
  };
  struct Layer {
    at::Tensor input_norm, post_attention_norm;  // [H]
    std::array<Linear, kNumProjections> linears;
  };
  at::Tensor embedding;   // [V, H]
  at::Tensor final_norm;  // [H]
  at::Tensor lm_head;     // [V, H]; undefined where tied to the embedding or where a score head
                          // stands in its place.
  std::vector<Layer> layers;

  // All that a model of `spec` has, without storage (meta tensors).
  static LmWeights Shaped(const ModelSpec& spec);
  // Every defined tensor under its name: embedding, final norm, head, then layer by layer norms and
  // projections, weight before bias.
  std::vector<std::pair<std::string, at::Tensor*>> Places();
  std::vector<at::Tensor> OfLayer(int64_t layer) const;
  const at::Tensor& OutputHead() const { return lm_head.defined() ? lm_head : embedding; }
};

}  // namespace wideberth::model
