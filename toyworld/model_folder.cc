// SPDX-License-Identifier: Apache-2.0
#include "toyworld/model_folder.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "toyworld/random.h"
#include "toyworld/words.h"

namespace wideberth::toyworld {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kHidden = 96, kLayers = 3, kHeads = 4, kKvHeads = 2, kHeadDim = 24, kFfn = 256;
constexpr int64_t kMaxPositions = 128;
constexpr int32_t kPad = 0, kBos = 1, kEos = 2;
constexpr int kNumSpecial = 4;

Json Config() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", Vocabulary().size()},
          {"hidden_size", kHidden},
          {"intermediate_size", kFfn},
          {"num_hidden_layers", kLayers},
          {"num_attention_heads", kHeads},
          {"num_key_value_heads", kKvHeads},
          {"head_dim", kHeadDim},
          {"max_position_embeddings", kMaxPositions},
          {"hidden_act", "silu"},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 10000.0},
          {"attention_bias", false},
          {"mlp_bias", false},
          {"tie_word_embeddings", true},
          {"bos_token_id", kBos},
          {"eos_token_id", kEos},
          {"pad_token_id", kPad},
          {"torch_dtype", "float32"}};
}

// Every word is one piece with its space in front, also the first one of a text, and with
// ignore_merges a piece of the vocabulary is its token: no merge is needed. U+0120 is ByteLevel's
// spelling of the space.
Json Tokenizer() {
  Json vocabulary = Json::object(), added = Json::array();
  const Words& words = Vocabulary();
  for (size_t id = 0; id < words.size(); ++id) {
    const bool special = id < kNumSpecial;
    vocabulary[special ? words[id] : absl::StrCat("\xC4\xA0", words[id])] = id;
    if (!special) continue;
    added.push_back({{"id", id},
                     {"content", words[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", true},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", true},
            {"vocab", vocabulary},
            {"merges", Json::array()}}}};
}

Json TokenizerConfig() {
  return {{"tokenizer_class", "PreTrainedTokenizerFast"},
          {"bos_token", "<bos>"},
          {"eos_token", "<eos>"},
          {"pad_token", "<pad>"},
          {"clean_up_tokenization_spaces", false},
          {"model_max_length", kMaxPositions},
          {"chat_template", kChatTemplate}};
}

InitialTensor Gaussian(std::string name, int64_t outputs, int64_t inputs, double deviation,
                       Random& random) {
  InitialTensor tensor = {std::move(name), {outputs, inputs}, {}};
  tensor.values.resize(outputs * inputs);
  for (float& value : tensor.values) value = static_cast<float>(deviation * random.Normal());
  return tensor;
}

}  // namespace

std::map<std::string, std::string> ModelFolderFiles() {
  const Json generation = {
      {"bos_token_id", kBos}, {"eos_token_id", kEos}, {"pad_token_id", kPad}, {"do_sample", true}};
  return {{"config.json", Config().dump(2) + "\n"},
          {"generation_config.json", generation.dump(2) + "\n"},
          {"tokenizer.json", Tokenizer().dump(2) + "\n"},
          {"tokenizer_config.json", TokenizerConfig().dump(2) + "\n"}};
}

std::vector<InitialTensor> InitialTensors(uint64_t seed) {
  Random random(seed);
  std::vector<InitialTensor> tensors;
  const auto linear = [&](std::string name, int64_t outputs, int64_t inputs, double divisor = 1) {
    tensors.push_back(
        Gaussian(std::move(name), outputs, inputs, 1 / std::sqrt(inputs) / divisor, random));
  };
  const auto norm = [&](std::string name) {
    tensors.push_back({std::move(name), {kHidden}, std::vector<float>(kHidden, 1.0f)});
  };
  linear("model.embed_tokens.weight", static_cast<int64_t>(Vocabulary().size()), kHidden);
  const double residual = std::sqrt(2.0 * kLayers);
  for (int64_t i = 0; i < kLayers; ++i) {
    const std::string layer = absl::StrCat("model.layers.", i, ".");
    norm(layer + "input_layernorm.weight");
    linear(layer + "self_attn.q_proj.weight", kHeads * kHeadDim, kHidden);
    linear(layer + "self_attn.k_proj.weight", kKvHeads * kHeadDim, kHidden);
    linear(layer + "self_attn.v_proj.weight", kKvHeads * kHeadDim, kHidden);
    linear(layer + "self_attn.o_proj.weight", kHidden, kHeads * kHeadDim, residual);
    norm(layer + "post_attention_layernorm.weight");
    linear(layer + "mlp.gate_proj.weight", kFfn, kHidden);
    linear(layer + "mlp.up_proj.weight", kFfn, kHidden);
    linear(layer + "mlp.down_proj.weight", kHidden, kFfn, residual);
  }
  norm("model.norm.weight");
  return tensors;
}

}  // namespace wideberth::toyworld
