// SPDX-License-Identifier: Apache-2.0
// The section `model` of tokenizer.json: byte-pair encoding of one piece of text. Used by the
// tokenizer.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "model/tokenizer_json.h"

namespace wideberth::model {

// GPT-2's spelling of bytes: every byte as one printable character.
// The character of `byte`, in UTF-8.
const std::string& ByteCharacter(uint8_t byte);
// The bytes a token stands for, or the token itself if it has a character that is no byte's.
std::string BytesOfToken(absl::string_view token);

// Working memory of one thread, with the encodings of the words seen last.
struct BpeScratch {
  // One cache line: no allocation for a hit, and a word is replaced by the next one of the same
  // slot.
  struct alignas(64) Word {
    static constexpr size_t kMaxBytes = 22;
    static constexpr size_t kMaxIds = 8;
    uint64_t hash = 0;
    uint8_t num_bytes = 0;
    uint8_t num_ids = 0;
    char bytes[kMaxBytes];
    int32_t ids[kMaxIds];
  };
  static constexpr size_t kWords = 1 << 14;

  struct Symbol {
    int32_t id;
    int32_t previous;
    int32_t next;
  };
  struct Candidate {
    uint32_t rank;
    int32_t position;
    int32_t left_id;
    int32_t right_id;
  };

  BpeScratch() : words(kWords) {}
  std::vector<Word> words;
  std::vector<Symbol> symbols;
  std::vector<uint32_t> ranks;
  std::vector<Candidate> heap;
};

// Thread-safe, given one scratch a thread.
class Bpe {
 public:
  // `byte_level`: pieces are taken byte by byte (after a ByteLevel pre-tokenizer), else character
  // by character.
  static absl::StatusOr<Bpe> FromJson(const JsonNode& node, bool byte_level);

  // Appends the ids of one piece of valid UTF-8. A character that neither the vocabulary, byte
  // fallback nor an unknown token covers is dropped, as the peer does.
  void Encode(absl::string_view piece, BpeScratch* scratch, std::vector<int32_t>* ids) const;

  absl::optional<int32_t> TokenToId(absl::string_view token) const;
  const absl::flat_hash_map<std::string, int32_t>& vocabulary() const { return vocabulary_; }

 private:
  static constexpr uint32_t kNoRank = UINT32_MAX;
  struct Merge {
    uint64_t pair = kNoPair;
    uint32_t rank = kNoRank;
    int32_t id = -1;
  };
  static constexpr uint64_t kNoPair = UINT64_MAX;

  absl::Status ReadVocabulary(const JsonNode& node);
  absl::Status ReadMerges(const JsonNode& node);
  void InsertMerge(uint64_t pair, uint32_t rank, int32_t id);
  const Merge* FindMerge(int32_t left, int32_t right) const;
  uint32_t Rank(int32_t left, int32_t right) const;

  void EncodeUncached(absl::string_view piece, BpeScratch* scratch,
                      std::vector<int32_t>* ids) const;
  void AddSymbols(absl::string_view piece, BpeScratch* scratch) const;
  void AddCharacter(absl::string_view character, bool* unknown_pending, BpeScratch* scratch) const;
  void MergeShort(BpeScratch* scratch) const;
  void MergeLong(BpeScratch* scratch) const;

  bool byte_level_ = false;
  bool ignore_merges_ = false;
  bool byte_fallback_ = false;
  bool fuse_unknown_ = false;
  int32_t unknown_id_ = -1;
  absl::flat_hash_map<std::string, int32_t> vocabulary_;
  absl::flat_hash_map<std::string, int32_t>
      whole_pieces_;                   // With ignore_merges_: what a piece must be.
  std::array<int32_t, 256> byte_ids_;  // Byte level; -1 where the vocabulary lacks the byte.
  std::vector<Merge> merges_;          // Open addressing, a power of two.
};

}  // namespace wideberth::model
