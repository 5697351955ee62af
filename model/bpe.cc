// SPDX-License-Identifier: Apache-2.0
// See bpe.h. Both merge loops do the same: again and again the pair of the lowest rank, the
// leftmost of equals.
#include "model/bpe.h"

#include <algorithm>
#include <cstring>

#include "absl/numeric/int128.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "model/unicode_text.h"

namespace wideberth::model {
namespace {

// Up to here the quadratic loop without a heap is faster.
constexpr size_t kShortPiece = 48;

struct ByteSpelling {
  std::array<std::string, 256> character;
  std::array<int16_t, 512> byte_of;  // By code point; -1 where it spells no byte.
};

const ByteSpelling& Spelling() {
  static const auto* const spelling = [] {
    auto* result = new ByteSpelling;
    result->byte_of.fill(-1);
    uint32_t next = 256;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      const uint32_t point = printable ? b : next++;
      AppendUtf8(point, &result->character[b]);
      result->byte_of[point] = static_cast<int16_t>(b);
    }
    return result;
  }();
  return *spelling;
}

bool SpellsBytes(absl::string_view token) {
  size_t length;
  for (size_t at = 0; at < token.size(); at += length) {
    const uint32_t point = CodePointAt(token, at, &length);
    if (point >= Spelling().byte_of.size() || Spelling().byte_of[point] < 0) return false;
  }
  return true;
}

uint64_t Mix(uint64_t a, uint64_t b) {
  const absl::uint128 product = absl::uint128(a) * b;
  return absl::Uint128Low64(product) ^ absl::Uint128High64(product);
}

uint64_t HashWord(absl::string_view word) {
  uint64_t hash = word.size() * 0x9E3779B97F4A7C15u;
  const char* at = word.data();
  size_t left = word.size();
  for (; left >= 8; at += 8, left -= 8) {
    uint64_t eight;
    std::memcpy(&eight, at, 8);
    hash = Mix(hash ^ eight, 0xD6E8FEB86659FD93u);
  }
  uint64_t rest = 0;
  std::memcpy(&rest, at, left);
  return Mix(hash ^ rest, 0xA0761D6478BD642Fu) | 1;  // 0 marks an empty slot.
}

uint64_t PairOf(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

const std::string& ByteCharacter(uint8_t byte) { return Spelling().character[byte]; }

std::string BytesOfToken(absl::string_view token) {
  const ByteSpelling& spelling = Spelling();
  if (!SpellsBytes(token)) return std::string(token);
  std::string bytes;
  bytes.reserve(token.size());
  size_t length;
  for (size_t at = 0; at < token.size(); at += length) {
    bytes += static_cast<char>(spelling.byte_of[CodePointAt(token, at, &length)]);
  }
  return bytes;
}

absl::StatusOr<Bpe> Bpe::FromJson(const JsonNode& node, bool byte_level) {
  Bpe bpe;
  bpe.byte_level_ = byte_level;
  WB_RETURN_IF_ERROR(node.OnlyFields({"type", "dropout", "unk_token", "continuing_subword_prefix",
                                      "end_of_word_suffix", "fuse_unk", "byte_fallback",
                                      "ignore_merges", "vocab", "merges"}));
  // Files older than the field "type" of a model have BPE by what they hold.
  WB_ASSIGN_OR_RETURN(const std::string type, node.Field("type").StringOr("BPE"));
  if (type != "BPE") return node.Field("type").Unsupported("BPE");
  const nlohmann::json& dropout = node.Field("dropout").value();
  if (!dropout.is_null() && !(dropout.is_number() && dropout.get<double>() == 0.0)) {
    return node.Field("dropout").Unsupported("null");
  }
  for (absl::string_view field : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    WB_ASSIGN_OR_RETURN(const std::string affix, node.Field(field).StringOr(""));
    if (!affix.empty()) return node.Field(field).Unsupported("null or \"\"");
  }
  WB_ASSIGN_OR_RETURN(bpe.fuse_unknown_, node.Field("fuse_unk").Bool(false));
  WB_ASSIGN_OR_RETURN(bpe.byte_fallback_, node.Field("byte_fallback").Bool(false));
  WB_ASSIGN_OR_RETURN(bpe.ignore_merges_, node.Field("ignore_merges").Bool(false));
  WB_RETURN_IF_ERROR(bpe.ReadVocabulary(node.Field("vocab")));
  WB_ASSIGN_OR_RETURN(const std::string unknown, node.Field("unk_token").StringOr(""));
  if (!unknown.empty()) {
    const auto found = bpe.vocabulary_.find(unknown);
    if (found == bpe.vocabulary_.end()) {
      return node.Field("unk_token").Unsupported("a token of the vocabulary");
    }
    bpe.unknown_id_ = found->second;
  }
  WB_RETURN_IF_ERROR(bpe.ReadMerges(node.Field("merges")));
  return bpe;
}

absl::Status Bpe::ReadVocabulary(const JsonNode& node) {
  if (!node.value().is_object()) return node.Unsupported("an object of token and id");
  vocabulary_.reserve(node.value().size());
  for (const auto& entry : node.value().items()) {
    if (!entry.value().is_number_unsigned() || entry.value().get<uint64_t>() > (1u << 24)) {
      return JsonNode(entry.value(), absl::StrCat(node.place(), "[\"", entry.key(), "\"]"))
          .Unsupported("an id from 0 to 2^24");
    }
    vocabulary_.emplace(entry.key(), entry.value().get<int32_t>());
  }
  byte_ids_.fill(-1);
  for (int b = 0; byte_level_ && b < 256; ++b) {
    const auto found = vocabulary_.find(ByteCharacter(static_cast<uint8_t>(b)));
    if (found != vocabulary_.end()) byte_ids_[b] = found->second;
  }
  if (!ignore_merges_) return absl::OkStatus();
  whole_pieces_.reserve(vocabulary_.size());
  for (const auto& [token, id] : vocabulary_) {
    if (!byte_level_) {
      whole_pieces_.emplace(token, id);
      continue;
    }
    // A token with a character that spells no byte cannot be a piece. Of the others only their own
    // bytes give the token.
    if (!SpellsBytes(token)) continue;
    whole_pieces_.emplace(BytesOfToken(token), id);
  }
  return absl::OkStatus();
}

absl::Status Bpe::ReadMerges(const JsonNode& node) {
  const nlohmann::json& list = node.value();
  if (!list.is_array()) return node.Unsupported("a list");
  size_t capacity = 16;
  while (capacity < 2 * list.size()) capacity *= 2;
  merges_.assign(capacity, Merge{});
  std::string joined;
  for (size_t i = 0; i < list.size(); ++i) {
    const nlohmann::json& merge = list[i];
    const auto here = [&] { return JsonNode(merge, absl::StrCat(node.place(), "[", i, "]")); };
    absl::string_view left, right;
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get_ref<const std::string&>();
      right = merge[1].get_ref<const std::string&>();
    } else {
      absl::string_view text;
      if (merge.is_string()) text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space == text.npos || text.find(' ', space + 1) != text.npos) {
        return here().Unsupported("\"left right\" or [\"left\", \"right\"]");
      }
      left = text.substr(0, space);
      right = text.substr(space + 1);
    }
    joined.assign(left.data(), left.size());
    joined.append(right.data(), right.size());
    const auto left_id = vocabulary_.find(left), right_id = vocabulary_.find(right);
    const auto joined_id = vocabulary_.find(joined), absent = vocabulary_.end();
    if (left_id == absent || right_id == absent || joined_id == absent) {
      return here().Unsupported("two tokens of the vocabulary that join to a third");
    }
    InsertMerge(PairOf(left_id->second, right_id->second), static_cast<uint32_t>(i),
                joined_id->second);
  }
  return absl::OkStatus();
}

void Bpe::InsertMerge(uint64_t pair, uint32_t rank, int32_t id) {
  size_t slot = Mix(pair, 0x9E3779B97F4A7C15u) & (merges_.size() - 1);
  while (merges_[slot].pair != kNoPair && merges_[slot].pair != pair) {
    slot = (slot + 1) & (merges_.size() - 1);
  }
  merges_[slot] = {pair, rank, id};
}

const Bpe::Merge* Bpe::FindMerge(int32_t left, int32_t right) const {
  const uint64_t pair = PairOf(left, right);
  size_t slot = Mix(pair, 0x9E3779B97F4A7C15u) & (merges_.size() - 1);
  for (; merges_[slot].pair != kNoPair; slot = (slot + 1) & (merges_.size() - 1)) {
    if (merges_[slot].pair == pair) return &merges_[slot];
  }
  return nullptr;
}

uint32_t Bpe::Rank(int32_t left, int32_t right) const {
  const Merge* merge = FindMerge(left, right);
  return merge == nullptr ? kNoRank : merge->rank;
}

absl::optional<int32_t> Bpe::TokenToId(absl::string_view token) const {
  const auto found = vocabulary_.find(token);
  if (found == vocabulary_.end()) return absl::nullopt;
  return found->second;
}

void Bpe::Encode(absl::string_view piece, BpeScratch* scratch, std::vector<int32_t>* ids) const {
  using Word = BpeScratch::Word;
  if (piece.size() > Word::kMaxBytes) return EncodeUncached(piece, scratch, ids);
  const uint64_t hash = HashWord(piece);
  Word& word = scratch->words[hash >> 8 & (BpeScratch::kWords - 1)];
  if (word.hash == hash && word.num_bytes == piece.size() &&
      std::memcmp(word.bytes, piece.data(), piece.size()) == 0) {
    ids->insert(ids->end(), word.ids, word.ids + word.num_ids);
    return;
  }
  const size_t before = ids->size();
  EncodeUncached(piece, scratch, ids);
  const size_t num_ids = ids->size() - before;
  if (num_ids > Word::kMaxIds) return;
  word.hash = hash;
  word.num_bytes = static_cast<uint8_t>(piece.size());
  word.num_ids = static_cast<uint8_t>(num_ids);
  std::memcpy(word.bytes, piece.data(), piece.size());
  std::copy(ids->begin() + static_cast<ptrdiff_t>(before), ids->end(), word.ids);
}

void Bpe::EncodeUncached(absl::string_view piece, BpeScratch* scratch,
                         std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    const auto whole = whole_pieces_.find(piece);
    if (whole != whole_pieces_.end()) {
      ids->push_back(whole->second);
      return;
    }
  }
  AddSymbols(piece, scratch);
  std::vector<BpeScratch::Symbol>& symbols = scratch->symbols;
  if (symbols.size() <= kShortPiece) {
    MergeShort(scratch);
    for (const BpeScratch::Symbol& symbol : symbols) ids->push_back(symbol.id);
    return;
  }
  MergeLong(scratch);
  for (int32_t i = 0; i >= 0; i = symbols[i].next) ids->push_back(symbols[i].id);
}

void Bpe::AddSymbols(absl::string_view piece, BpeScratch* scratch) const {
  scratch->symbols.clear();
  bool unknown_pending = false;
  const auto flush = [&] {
    if (unknown_pending) scratch->symbols.push_back({unknown_id_, 0, 0});
    unknown_pending = false;
  };
  if (byte_level_) {
    for (char c : piece) {
      const uint8_t byte = static_cast<uint8_t>(c);
      if (byte_ids_[byte] < 0) {
        AddCharacter(ByteCharacter(byte), &unknown_pending, scratch);
        continue;
      }
      flush();
      scratch->symbols.push_back({byte_ids_[byte], 0, 0});
    }
  } else {
    size_t length;
    for (size_t at = 0; at < piece.size(); at += length) {
      CodePointAt(piece, at, &length);
      const auto found = vocabulary_.find(piece.substr(at, length));
      if (found == vocabulary_.end()) {
        AddCharacter(piece.substr(at, length), &unknown_pending, scratch);
        continue;
      }
      flush();
      scratch->symbols.push_back({found->second, 0, 0});
    }
  }
  flush();
}

// A character the vocabulary lacks.
void Bpe::AddCharacter(absl::string_view character, bool* unknown_pending,
                       BpeScratch* scratch) const {
  if (byte_fallback_) {
    // An unknown token that is pending stays so and comes after these bytes: the peer's order.
    const size_t before = scratch->symbols.size();
    for (char c : character) {
      const auto found = vocabulary_.find(
          absl::StrFormat("<0x%02X>", static_cast<unsigned>(static_cast<uint8_t>(c))));
      if (found == vocabulary_.end()) {
        scratch->symbols.resize(before);
        break;
      }
      scratch->symbols.push_back({found->second, 0, 0});
    }
    if (scratch->symbols.size() > before) return;
  }
  if (unknown_id_ < 0) return;
  if (*unknown_pending && !fuse_unknown_) scratch->symbols.push_back({unknown_id_, 0, 0});
  *unknown_pending = true;
}

void Bpe::MergeShort(BpeScratch* scratch) const {
  std::vector<BpeScratch::Symbol>& symbols = scratch->symbols;
  std::vector<uint32_t>& ranks = scratch->ranks;
  if (symbols.size() < 2) return;
  // ranks[i]: of the pair (i, i + 1).
  ranks.resize(symbols.size() - 1);
  for (size_t i = 0; i < ranks.size(); ++i) ranks[i] = Rank(symbols[i].id, symbols[i + 1].id);
  while (!ranks.empty()) {
    const size_t best =
        static_cast<size_t>(std::min_element(ranks.begin(), ranks.end()) - ranks.begin());
    if (ranks[best] == kNoRank) return;
    symbols[best].id = FindMerge(symbols[best].id, symbols[best + 1].id)->id;
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
    ranks.erase(ranks.begin() + static_cast<ptrdiff_t>(best));
    if (best < ranks.size()) ranks[best] = Rank(symbols[best].id, symbols[best + 1].id);
    if (best > 0) ranks[best - 1] = Rank(symbols[best - 1].id, symbols[best].id);
  }
}

void Bpe::MergeLong(BpeScratch* scratch) const {
  using Candidate = BpeScratch::Candidate;
  std::vector<BpeScratch::Symbol>& symbols = scratch->symbols;
  std::vector<Candidate>& heap = scratch->heap;
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  const auto add = [&](int32_t position) {
    const int32_t next = symbols[position].next;
    if (next < 0) return;
    const uint32_t rank = Rank(symbols[position].id, symbols[next].id);
    if (rank == kNoRank) return;
    heap.push_back({rank, position, symbols[position].id, symbols[next].id});
    std::push_heap(heap.begin(), heap.end(), later);
  };
  heap.clear();
  const int32_t num_symbols = static_cast<int32_t>(symbols.size());
  for (int32_t i = 0; i < num_symbols; ++i) {
    symbols[i].previous = i - 1;
    symbols[i].next = i + 1 < num_symbols ? i + 1 : -1;
  }
  for (int32_t i = 0; i < num_symbols; ++i) add(i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Candidate top = heap.back();
    heap.pop_back();
    BpeScratch::Symbol& left = symbols[top.position];
    // Outdated if either side has merged with something else since; a symbol merged away has id -1.
    if (left.id != top.left_id || left.next < 0 || symbols[left.next].id != top.right_id) continue;
    BpeScratch::Symbol& right = symbols[left.next];
    left.id = FindMerge(top.left_id, top.right_id)->id;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = top.position;
    add(top.position);
    if (left.previous >= 0) add(left.previous);
  }
}

}  // namespace wideberth::model
