// SPDX-License-Identifier: Apache-2.0
#include "model/lm_weights.h"

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"

namespace wideberth::model {
namespace {

at::Tensor Shape(at::IntArrayRef sizes) { return at::empty(sizes, at::TensorOptions(at::kMeta)); }

std::vector<std::pair<std::string, at::Tensor*>> PlacesOf(LmWeights::Layer& layer,
                                                          const std::string& prefix) {
  std::vector<std::pair<std::string, at::Tensor*>> places = {
      {prefix + "input_layernorm.weight", &layer.input_norm},
      {prefix + "post_attention_layernorm.weight", &layer.post_attention_norm}};
  for (int p = 0; p < kNumProjections; ++p) {
    const std::string name = absl::StrCat(prefix, ProjectionModule(static_cast<Projection>(p)));
    places.emplace_back(name + ".weight", &layer.linears[p].weight);
    if (layer.linears[p].bias.defined())
      places.emplace_back(name + ".bias", &layer.linears[p].bias);
  }
  return places;
}

}  // namespace

LmWeights LmWeights::Shaped(const ModelSpec& spec) {
  LmWeights weights;
  weights.embedding = Shape({spec.vocab, spec.hidden});
  weights.final_norm = Shape({spec.hidden});
  if (!spec.tied_embeddings && !spec.sequence_classification)
    weights.lm_head = Shape({spec.vocab, spec.hidden});
  weights.layers.resize(spec.num_layers);
  for (Layer& layer : weights.layers) {
    layer.input_norm = Shape({spec.hidden});
    layer.post_attention_norm = Shape({spec.hidden});
    for (int p = 0; p < kNumProjections; ++p) {
      const auto projection = static_cast<Projection>(p);
      const int64_t out = ProjectionOutputs(spec, projection);
      layer.linears[p].weight = Shape({out, ProjectionInputs(spec, projection)});
      if (spec.qkv_bias && projection <= Projection::kV) layer.linears[p].bias = Shape({out});
    }
  }
  return weights;
}

std::vector<std::pair<std::string, at::Tensor*>> LmWeights::Places() {
  std::vector<std::pair<std::string, at::Tensor*>> places = {{kEmbeddingName, &embedding},
                                                             {"model.norm.weight", &final_norm}};
  if (lm_head.defined()) places.emplace_back("lm_head.weight", &lm_head);
  for (size_t i = 0; i < layers.size(); ++i) {
    for (auto& place : PlacesOf(layers[i], absl::StrCat("model.layers.", i, ".")))
      places.push_back(std::move(place));
  }
  return places;
}

std::vector<at::Tensor> LmWeights::OfLayer(int64_t layer) const {
  std::vector<at::Tensor> tensors;
  // Places hands out places to write to, which this does not.
  for (const auto& [name, tensor] : PlacesOf(const_cast<Layer&>(layers[layer]), ""))
    tensors.push_back(*tensor);
  return tensors;
}

}  // namespace wideberth::model
