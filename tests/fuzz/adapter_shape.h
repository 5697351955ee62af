// SPDX-License-Identifier: Apache-2.0
// A model so small that mutations of an adapter for it go somewhere. Used by the two targets that
// read adapters.
#pragma once

#include "model/model_spec.h"

namespace wideberth::fuzz {

inline model::ModelSpec SmallestModel() {
  model::ModelSpec spec;
  spec.hidden = 4;
  spec.num_layers = 1;
  spec.num_heads = 2;
  spec.num_kv_heads = 1;
  spec.head_dim = 2;
  spec.ffn = 4;
  spec.vocab = 6;
  spec.max_positions = 16;
  return spec;
}

}  // namespace wideberth::fuzz
