// SPDX-License-Identifier: Apache-2.0
// Tiny model folders for tests: shapes by kind, contents by name, bytes written by hand.
#include "tests/testing/tiny_model.h"

#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "nlohmann/json.hpp"

namespace wideberth::testing {
namespace {

using Json = nlohmann::ordered_json;

struct Shape {
  int64_t hidden, layers, heads, kv_heads, head_dim, ffn, vocab;
  bool qkv_bias, tied, reward;
};

bool FindShape(absl::string_view kind, Shape* shape) {
  if (kind == "qwen2") {
    *shape = {48, 2, 6, 2, 8, 96, 320, true, true, false};
    return true;
  }
  *shape = {64, 3, 4, 2, 16, 112, 320, false, false, kind == "llama_reward"};
  return kind == "llama" || kind == "llama3_rope" || kind == "llama_reward";
}

// Output and input size of a projection.
std::pair<int64_t, int64_t> ProjectionSize(const Shape& s, absl::string_view name) {
  const int64_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  if (name == "q_proj") return {q, s.hidden};
  if (name == "k_proj" || name == "v_proj") return {kv, s.hidden};
  if (name == "o_proj") return {s.hidden, q};
  if (name == "down_proj") return {s.hidden, s.ffn};
  return {s.ffn, s.hidden};
}

std::string ProjectionName(int64_t layer, absl::string_view name) {
  const bool mlp = name == "gate_proj" || name == "up_proj" || name == "down_proj";
  return absl::StrCat("model.layers.", layer, mlp ? ".mlp." : ".self_attn.", name);
}

uint64_t Fnv1a64(absl::string_view name) {
  uint64_t value = 0xCBF29CE484222325u;
  for (unsigned char byte : name) value = (value ^ byte) * 0x100000001B3u;
  return value;
}

TinyTensor MakeTensor(std::string name, std::vector<int64_t> shape, bool adapter = false) {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  std::vector<float> data = TinyUniform(name, count);
  const bool norm = absl::EndsWith(name, "norm.weight");
  for (float& value : data) value = norm ? 1.0f + value * 0.125f : value * (adapter ? 0.25f : 0.5f);
  return {std::move(name), std::move(shape), std::move(data)};
}

uint16_t ToBfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

Json ModelConfig(absl::string_view kind, const Shape& s, const TinyModelOptions& options) {
  Json config;
  config["architectures"] = {kind == "qwen2" ? "Qwen2ForCausalLM"
                             : s.reward      ? "LlamaForSequenceClassification"
                                             : "LlamaForCausalLM"};
  config["model_type"] = kind == "qwen2" ? "qwen2" : "llama";
  config["hidden_size"] = s.hidden;
  config["num_hidden_layers"] = s.layers;
  config["num_attention_heads"] = s.heads;
  config["num_key_value_heads"] = s.kv_heads;
  if (kind != "qwen2") config["head_dim"] = s.head_dim;
  config["intermediate_size"] = s.ffn;
  config["vocab_size"] = s.vocab;
  config["max_position_embeddings"] = 512;
  config["rms_norm_eps"] = kind == "qwen2" ? 1e-6 : 1e-5;
  config["tie_word_embeddings"] = s.tied;
  config["hidden_act"] = "silu";
  config["bos_token_id"] = 1;
  config["eos_token_id"] = 2;
  config["pad_token_id"] = 0;
  if (s.reward) {
    config["id2label"] = {{"0", "LABEL_0"}};
    config["label2id"] = {{"LABEL_0", 0}};
  }
  if (kind == "qwen2") config["use_sliding_window"] = false;
  Json rope = {{"rope_type", "default"}};
  if (kind == "llama3_rope") {
    rope = {{"rope_type", "llama3"},
            {"factor", 8.0},
            {"low_freq_factor", 1.0},
            {"high_freq_factor", 4.0},
            {"original_max_position_embeddings", 64}};
  }
  const double theta = kind == "qwen2" ? 1e6 : 1e4;
  if (options.new_style_config) {
    rope["rope_theta"] = theta;
    config["rope_parameters"] = rope;
  } else {
    config["rope_theta"] = theta;
    config["rope_scaling"] = kind == "llama3_rope" ? rope : Json(nullptr);
  }
  config[options.new_style_config ? "dtype" : "torch_dtype"] =
      options.bfloat16 ? "bfloat16" : "float32";
  return config;
}

absl::Status WriteShards(const std::vector<TinyTensor>& tensors, absl::string_view dir,
                         bool bfloat16) {
  const size_t half = tensors.size() / 2;
  Json map = Json::object();
  int64_t total_bytes = 0;
  for (int shard = 0; shard < 2; ++shard) {
    const std::string file = absl::StrCat("model-0000", shard + 1, "-of-00002.safetensors");
    const std::vector<TinyTensor> part(tensors.begin() + (shard ? half : 0),
                                       shard ? tensors.end() : tensors.begin() + half);
    for (const TinyTensor& tensor : part) {
      map[tensor.name] = file;
      total_bytes += tensor.data.size() * (bfloat16 ? 2 : 4);
    }
    WB_RETURN_IF_ERROR(WriteSafetensors(part, absl::StrCat(dir, "/", file), bfloat16));
  }
  const Json index = {{"metadata", {{"total_size", total_bytes}}}, {"weight_map", map}};
  return WriteFileAtomically(absl::StrCat(dir, "/model.safetensors.index.json"), index.dump(2));
}

}  // namespace

std::vector<float> TinyUniform(absl::string_view name, int64_t count) {
  constexpr uint64_t kGoldenRatio = 0x9E3779B97F4A7C15u;
  uint64_t state = Fnv1a64(name);
  std::vector<float> values(count);
  for (float& value : values) {
    uint64_t z = state + kGoldenRatio;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z = z ^ (z >> 31);
    value = 2.0f * (static_cast<float>(z >> 40) / 16777216.0f) - 1.0f;
    state += kGoldenRatio;
  }
  return values;
}

std::vector<TinyTensor> TinyModelTensors(absl::string_view kind) {
  Shape s;
  std::vector<TinyTensor> tensors;
  if (!FindShape(kind, &s)) return tensors;
  tensors.push_back(MakeTensor("model.embed_tokens.weight", {s.vocab, s.hidden}));
  for (int64_t layer = 0; layer < s.layers; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    for (const char* name :
         {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}) {
      const auto [out, in] = ProjectionSize(s, name);
      const std::string full = ProjectionName(layer, name);
      tensors.push_back(MakeTensor(full + ".weight", {out, in}));
      const bool qkv = name[1] == '_' && name[0] != 'o';
      if (s.qkv_bias && qkv) tensors.push_back(MakeTensor(full + ".bias", {out}));
    }
    tensors.push_back(MakeTensor(prefix + "input_layernorm.weight", {s.hidden}));
    tensors.push_back(MakeTensor(prefix + "post_attention_layernorm.weight", {s.hidden}));
  }
  tensors.push_back(MakeTensor("model.norm.weight", {s.hidden}));
  if (s.reward) tensors.push_back(MakeTensor("score.weight", {1, s.hidden}));
  if (!s.reward && !s.tied) tensors.push_back(MakeTensor("lm_head.weight", {s.vocab, s.hidden}));
  return tensors;
}

std::vector<TinyTensor> TinyAdapterTensors(absl::string_view kind, int64_t rank,
                                           const std::vector<std::string>& targets) {
  Shape s;
  std::vector<TinyTensor> tensors;
  if (!FindShape(kind, &s)) return tensors;
  for (int64_t layer = 0; layer < s.layers; ++layer) {
    for (const std::string& target : targets) {
      const auto [out, in] = ProjectionSize(s, target);
      const std::string full = absl::StrCat("base_model.model.", ProjectionName(layer, target));
      tensors.push_back(MakeTensor(full + ".lora_A.weight", {rank, in}, /*adapter=*/true));
      tensors.push_back(MakeTensor(full + ".lora_B.weight", {out, rank}, /*adapter=*/true));
    }
  }
  return tensors;
}

absl::Status WriteSafetensors(const std::vector<TinyTensor>& tensors, absl::string_view path,
                              bool bfloat16) {
  Json header = Json::object();
  header["__metadata__"] = {{"format", "pt"}};
  std::string data;
  for (const TinyTensor& tensor : tensors) {
    const size_t begin = data.size();
    if (bfloat16) {
      for (float value : tensor.data) {
        const uint16_t half = ToBfloat16(value);
        data.append(reinterpret_cast<const char*>(&half), sizeof(half));
      }
    } else {
      data.append(reinterpret_cast<const char*>(tensor.data.data()),
                  tensor.data.size() * sizeof(float));
    }
    header[tensor.name] = {{"dtype", bfloat16 ? "BF16" : "F32"},
                           {"shape", tensor.shape},
                           {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t header_bytes = text.size();
  std::string file(reinterpret_cast<const char*>(&header_bytes), sizeof(header_bytes));
  return WriteFileAtomically(path, file + text + data);
}

absl::Status WriteTinyModel(absl::string_view kind, absl::string_view dir,
                            const TinyModelOptions& options) {
  Shape shape;
  if (!FindShape(kind, &shape)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tiny model kind is ", kind, ", must be llama, llama3_rope, qwen2 or llama_reward"));
  }
  WB_RETURN_IF_ERROR(MakeDirectories(dir));
  WB_RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(dir, "/config.json"),
                                         ModelConfig(kind, shape, options).dump(2)));
  const Json generation = {{"bos_token_id", 1}, {"eos_token_id", 2}, {"pad_token_id", 0}};
  WB_RETURN_IF_ERROR(
      WriteFileAtomically(absl::StrCat(dir, "/generation_config.json"), generation.dump(2)));
  if (options.tokenizer) WB_RETURN_IF_ERROR(WriteTinyTokenizer(dir));
  const std::vector<TinyTensor> tensors = TinyModelTensors(kind);
  if (options.sharded) return WriteShards(tensors, dir, options.bfloat16);
  return WriteSafetensors(tensors, absl::StrCat(dir, "/model.safetensors"), options.bfloat16);
}

absl::Status WriteTinyAdapter(absl::string_view kind, int64_t rank, int64_t alpha,
                              const std::vector<std::string>& targets, absl::string_view dir) {
  WB_RETURN_IF_ERROR(MakeDirectories(dir));
  const Json config = {{"base_model_name_or_path", std::string(kind)},
                       {"bias", "none"},
                       {"fan_in_fan_out", false},
                       {"inference_mode", true},
                       {"lora_alpha", alpha},
                       {"lora_dropout", 0.0},
                       {"peft_type", "LORA"},
                       {"r", rank},
                       {"target_modules", targets},
                       {"task_type", "CAUSAL_LM"},
                       {"use_dora", false},
                       {"use_rslora", false}};
  WB_RETURN_IF_ERROR(
      WriteFileAtomically(absl::StrCat(dir, "/adapter_config.json"), config.dump(2)));
  return WriteSafetensors(TinyAdapterTensors(kind, rank, targets),
                          absl::StrCat(dir, "/adapter_model.safetensors"));
}

}  // namespace wideberth::testing
