// SPDX-License-Identifier: Apache-2.0
// The toy world's language model before any training, as the files of a Hugging Face folder: a
// small Llama with a tokenizer of one token a word.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace wideberth::toyworld {

// Prompt and answer as `<bos>PROMPT<sep>ANSWER<eos>`.
inline constexpr char kChatTemplate[] =
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<bos>' + "
    "message['content'] + '<sep>' }}{% else %}{{ message['content'] + '<eos>' }}{% endif %}{% "
    "endfor %}";

// config.json, generation_config.json, tokenizer.json and tokenizer_config.json: name -> bytes.
std::map<std::string, std::string> ModelFolderFiles();

struct InitialTensor {
  std::string name;  // As in transformers' Llama.
  std::vector<int64_t> shape;
  std::vector<float> values;
};
// Embedding N(0, 1/hidden), linear layers N(0, 1/inputs), o_proj and down_proj divided by
// sqrt(2 layers) besides, norms 1. By `seed` alone.
std::vector<InitialTensor> InitialTensors(uint64_t seed);

}  // namespace wideberth::toyworld
