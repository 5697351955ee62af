// SPDX-License-Identifier: Apache-2.0
// See added_tokens.h.
#include "model/added_tokens.h"

#include <algorithm>

#include "base/status.h"
#include "model/unicode_text.h"

namespace wideberth::model {
namespace {

// The code point that ends before byte `at` > 0.
uint32_t CodePointBefore(absl::string_view text, size_t at, size_t* length) {
  size_t start = at - 1;
  while ((static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
  return CodePointAt(text, start, length);
}

bool IsAloneIn(absl::string_view text, size_t begin, size_t end) {
  size_t length;
  if (begin > 0 && IsWordCharacter(CodePointBefore(text, begin, &length))) return false;
  return end == text.size() || !IsWordCharacter(CodePointAt(text, end, &length));
}

}  // namespace

absl::StatusOr<AddedToken> AddedToken::FromJson(const JsonNode& node, int64_t id) {
  WB_RETURN_IF_ERROR(node.OnlyFields(
      {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
  AddedToken token;
  if (id < 0 || id > (1 << 24)) return node.Unsupported("an id from 0 to 2^24");
  token.id = static_cast<int32_t>(id);
  WB_ASSIGN_OR_RETURN(token.content, node.Field("content").String());
  WB_ASSIGN_OR_RETURN(token.single_word, node.Field("single_word").Bool(false));
  WB_ASSIGN_OR_RETURN(token.lstrip, node.Field("lstrip").Bool(false));
  WB_ASSIGN_OR_RETURN(token.rstrip, node.Field("rstrip").Bool(false));
  WB_ASSIGN_OR_RETURN(token.special, node.Field("special").Bool(false));
  WB_ASSIGN_OR_RETURN(token.normalized, node.Field("normalized").Bool(!token.special));
  return token;
}

void AddedTokenFinder::Add(const AddedToken& token, absl::string_view content) {
  if (content.empty()) return;
  can_start_[static_cast<uint8_t>(content[0])] = true;
  uint32_t node = 0;
  for (char c : content) {
    const uint32_t next = static_cast<uint32_t>(token_at_node_.size());
    const auto [edge, added] = edges_.emplace(uint64_t{node} << 8 | static_cast<uint8_t>(c), next);
    if (added) token_at_node_.push_back(-1);
    node = edge->second;
  }
  token_at_node_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
}

int32_t AddedTokenFinder::LongestAt(absl::string_view text, size_t at, size_t* length) const {
  int32_t longest = -1;
  uint32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto edge = edges_.find(uint64_t{node} << 8 | static_cast<uint8_t>(text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    if (token_at_node_[node] >= 0) {
      longest = token_at_node_[node];
      *length = i + 1 - at;
    }
  }
  return longest;
}

void AddedTokenFinder::Split(absl::string_view text, bool parse_special,
                             std::vector<Part>* parts) const {
  parts->clear();
  size_t done = 0;  // Everything before is in `parts`.
  size_t length = 0;
  for (size_t at = 0; at < text.size() && !tokens_.empty();) {
    if (!can_start_[static_cast<uint8_t>(text[at])]) {
      ++at;
      continue;
    }
    const int32_t index = LongestAt(text, at, &length);
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    size_t begin = at, end = at + length;
    // The search goes on behind a match even where the match does not count.
    at = end;
    if (token.special && !parse_special) continue;
    if (token.single_word && !IsAloneIn(text, begin, end)) continue;
    if (token.lstrip) {
      while (begin > done && IsWhiteSpace(CodePointBefore(text, begin, &length))) begin -= length;
    }
    if (token.rstrip) {
      while (end < text.size() && IsWhiteSpace(CodePointAt(text, end, &length))) end += length;
    }
    if (begin > done) parts->push_back({nullptr, text.substr(done, begin - done)});
    parts->push_back({&token, text.substr(begin, end - begin)});
    done = end;
    at = std::max(at, end);
  }
  if (done < text.size()) parts->push_back({nullptr, text.substr(done)});
}

}  // namespace wideberth::model
