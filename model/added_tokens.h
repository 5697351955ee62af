// SPDX-License-Identifier: Apache-2.0
// The section `added_tokens` of tokenizer.json: tokens found in the text before it is split. Used
// by the tokenizer.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/tokenizer_json.h"

namespace wideberth::model {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // Only where no word character is beside it.
  bool lstrip = false;       // Takes the white space before it.
  bool rstrip = false;       // Takes the white space behind it.
  bool normalized = false;   // Looked for in normalised text.
  bool special = false;

  // An entry of added_tokens; in tokenizer_config.json the id is a key outside.
  static absl::StatusOr<AddedToken> FromJson(const JsonNode& node, int64_t id);
};

// Finds a set of tokens in text: from left to right, of those that start at a place the longest.
// Thread-safe.
class AddedTokenFinder {
 public:
  struct Part {
    const AddedToken* token;  // Null for the text between.
    absl::string_view text;   // Never empty for text between.
  };

  // `content` is how the token looks in the text that is searched.
  void Add(const AddedToken& token, absl::string_view content);
  bool empty() const { return tokens_.empty(); }
  // With `parse_special` false, special tokens are text.
  void Split(absl::string_view text, bool parse_special, std::vector<Part>* parts) const;

 private:
  int32_t LongestAt(absl::string_view text, size_t at, size_t* length) const;

  std::vector<AddedToken> tokens_;
  // A trie: node 0 is the root; node * 256 + byte -> node; the token that ends at a node, or -1.
  absl::flat_hash_map<uint64_t, uint32_t> edges_;
  std::vector<int32_t> token_at_node_ = {-1};
  std::array<bool, 256> can_start_{};
};

}  // namespace wideberth::model
