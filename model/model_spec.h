// SPDX-License-Identifier: Apache-2.0
// What config.json of a Hugging Face folder says about an architecture, checked and in one shape
// for all of them. Used by the loader, LoRA and the forward pass. A further architecture is one
// more branch in ParseModelSpec and the fields it needs here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace wideberth::model {

// Rotary frequency scaling of type "llama3" (Llama-3.1 and later).
struct Llama3RopeScaling {
  double factor = 8;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_max_positions = 8192;
};

struct ModelSpec {
  std::string folder;
  std::string architecture;  // As written, e.g. "Qwen2ForCausalLM".
  int64_t hidden = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t ffn = 0;
  int64_t vocab = 0;
  int64_t max_positions = 0;
  double rope_theta = 10000;
  absl::optional<Llama3RopeScaling> rope_scaling;
  double norm_epsilon = 1e-6;
  bool qkv_bias = false;
  bool tied_embeddings = false;
  bool sequence_classification = false;  // One label, `score.weight` in place of the output head.
  std::vector<int32_t> eos_token_ids;    // generation_config.json where present, else config.json.
  absl::optional<int32_t> bos_token_id;
};

// Reads config.json and generation_config.json. Errors name file, field, found and expected.
absl::StatusOr<ModelSpec> ReadModelSpec(absl::string_view folder);

// The seven linear projections of a decoder layer, in the order of the forward pass.
enum class Projection { kQ, kK, kV, kO, kGate, kUp, kDown };
inline constexpr int kNumProjections = 7;
absl::string_view ProjectionName(Projection projection);    // "q_proj"
absl::string_view ProjectionModule(Projection projection);  // "self_attn.q_proj"
int64_t ProjectionInputs(const ModelSpec& spec, Projection projection);
int64_t ProjectionOutputs(const ModelSpec& spec, Projection projection);

}  // namespace wideberth::model
