// SPDX-License-Identifier: Apache-2.0
// Tiny Llama and Qwen2 folders whose weights follow from the tensors' names alone, for tests. The
// twin of tests/golden/tiny_models.py: the same kinds, the same bytes, so that the numbers of
// transformers and PEFT in tests/golden hold for them. Needs no torch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace wideberth::testing {

struct TinyTensor {
  std::string name;  // Hugging Face name
  std::vector<int64_t> shape;
  std::vector<float> data;  // row-major
};

struct TinyModelOptions {
  bool new_style_config = false;  // `rope_parameters` as transformers 5 writes, instead of
                                  // `rope_theta` and `rope_scaling`
  bool sharded = false;   // model-0000N-of-00002.safetensors with model.safetensors.index.json
  bool bfloat16 = false;  // the same values rounded to nearest even
  bool tokenizer = true;  // tokenizer.json, see WriteTinyTokenizer
};

// `count` numbers of [-1, 1) that depend on `name` only; formula in tests/golden/README.md.
std::vector<float> TinyUniform(absl::string_view name, int64_t count);

// Weights of kind `llama`, `llama3_rope`, `qwen2` or `llama_reward`, in the order of the
// checkpoint; empty for another kind.
std::vector<TinyTensor> TinyModelTensors(absl::string_view kind);

// LoRA tensors of rank `rank` on `targets` (`q_proj`, ...) of every layer, under the names PEFT
// saves.
std::vector<TinyTensor> TinyAdapterTensors(absl::string_view kind, int64_t rank,
                                           const std::vector<std::string>& targets);

// Writes config.json, generation_config.json, weights and a tokenizer into `dir`, which is made.
// InvalidArgument for an unknown kind.
absl::Status WriteTinyModel(absl::string_view kind, absl::string_view dir,
                            const TinyModelOptions& options = {});

// Writes adapter_config.json and adapter_model.safetensors as PEFT would.
absl::Status WriteTinyAdapter(absl::string_view kind, int64_t rank, int64_t alpha,
                              const std::vector<std::string>& targets, absl::string_view dir);

// A byte-level BPE of 320 tokens: 0 `<|endoftext|>`, 1 `<|im_start|>`, 2 `<|im_end|>`, 3-258 the
// bytes, 259-319 merges of English pairs; pre-tokenizer as in SmolLM2 (single digits, then GPT-2's
// regex), ChatML in tokenizer_config.json.
absl::Status WriteTinyTokenizer(absl::string_view dir);

// A safetensors file in float32, or bfloat16 when asked.
absl::Status WriteSafetensors(const std::vector<TinyTensor>& tensors, absl::string_view path,
                              bool bfloat16 = false);

}  // namespace wideberth::testing
