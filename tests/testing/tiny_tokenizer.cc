// SPDX-License-Identifier: Apache-2.0
// The byte-level BPE tokenizer of the tiny models: every text has ids below 320 and decodes to
// itself.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "tests/testing/tiny_model.h"

namespace wideberth::testing {
namespace {

using Json = nlohmann::ordered_json;

// In order of rank; `_` stands for the space that byte-level BPE writes as U+0120.
constexpr const char* kMerges[61] = {
    "_ t",   "h e",   "_ a",  "i n",   "r e", "o n",  "_t he", "e r",  "_ s",  "a t",  "_ w",
    "_ o",   "e n",   "_ c",  "i t",   "i s", "a n",  "o r",   "e s",  "_ b",  "e d",  "_ f",
    "in g",  "_ p",   "o u",  "_a n",  "a l", "a r",  "_t o",  "_ m",  "_o f", "_ in", "_ d",
    "_ h",   "_an d", "i c",  "a s",   "l e", "_t h", "i on",  "o m",  "l l",  "en t", "_ n",
    "_ l",   "s t",   "_ re", "v e",   "_ e", "r o",  "l y",   "_b e", "_ g",  "u t",  "_ y",
    "_y ou", "_ i",   "o w",  "_h ow", "c t", "o t"};

constexpr const char* kChatTemplate =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}";

std::string Utf8(int code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | (code_point >> 6)), static_cast<char>(0x80 | (code_point & 63))};
}

// GPT-2's printable stand-in of each byte: printable Latin-1 stays, the others follow from U+0100
// on.
std::vector<std::string> ByteSymbols() {
  std::vector<std::string> symbols;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    symbols.push_back(Utf8(printable ? byte : next++));
  }
  return symbols;
}

Json SpecialTokens() {
  Json tokens = Json::array();
  int id = 0;
  for (const char* content : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    tokens.push_back({{"id", id++},
                      {"content", content},
                      {"single_word", false},
                      {"lstrip", false},
                      {"rstrip", false},
                      {"normalized", false},
                      {"special", true}});
  }
  return tokens;
}

Json Bpe() {
  Json vocabulary = {{"<|endoftext|>", 0}, {"<|im_start|>", 1}, {"<|im_end|>", 2}};
  const std::vector<std::string> symbols = ByteSymbols();
  int id = 3;
  for (const std::string& symbol : symbols) vocabulary[symbol] = id++;
  Json merges = Json::array();
  for (std::string merge : kMerges) {
    if (merge[0] == '_') merge.replace(0, 1, symbols[' ']);
    const size_t gap = merge.find(' ');
    merges.push_back(merge);
    vocabulary[merge.substr(0, gap) + merge.substr(gap + 1)] = id++;
  }
  return {{"type", "BPE"},          {"dropout", nullptr},
          {"unk_token", nullptr},   {"continuing_subword_prefix", nullptr},
          {"fuse_unk", false},      {"end_of_word_suffix", nullptr},
          {"byte_fallback", false}, {"ignore_merges", false},
          {"vocab", vocabulary},    {"merges", merges}};
}

}  // namespace

absl::Status WriteTinyTokenizer(absl::string_view dir) {
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  const Json digits = {{"type", "Digits"}, {"individual_digits", true}};
  const Json tokenizer = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", SpecialTokens()},
      {"normalizer", nullptr},
      {"pre_tokenizer",
       {{"type", "Sequence"}, {"pretokenizers", Json::array({digits, byte_level})}}},
      {"post_processor", nullptr},
      {"decoder", byte_level},
      {"model", Bpe()}};
  const Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                       {"bos_token", "<|im_start|>"},
                       {"eos_token", "<|im_end|>"},
                       {"pad_token", "<|endoftext|>"},
                       {"model_max_length", 512},
                       {"clean_up_tokenization_spaces", false},
                       {"chat_template", kChatTemplate}};
  WB_RETURN_IF_ERROR(MakeDirectories(dir));
  WB_RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(dir, "/tokenizer.json"), tokenizer.dump(1)));
  return WriteFileAtomically(absl::StrCat(dir, "/tokenizer_config.json"), config.dump(2));
}

}  // namespace wideberth::testing
