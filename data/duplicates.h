// SPDX-License-Identifier: Apache-2.0
// When two texts are the same, or nearly: normalised words, their shingles, and an index that finds
// near duplicates exactly. Used by the mix.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace wideberth::data {

// Of `seed` and the bytes, the same on every machine.
uint64_t StableHash(uint64_t seed, absl::string_view bytes);

// InvalidArgument with the byte where `text` stops being UTF-8.
absl::Status CheckUtf8(absl::string_view text);

// Compatibility form, case folded, words joined by single spaces; what is neither letter, mark nor
// number separates words, and each character of a script without spaces is a word. A text without
// any word stays as it is but for spaces at its ends. `text` is UTF-8.
std::string Normalized(absl::string_view text);

// A normalised text as duplicates see it.
struct Signature {
  uint64_t words = 0;  // Hash of the normalised text.
  std::vector<uint64_t>
      shingles;  // Hashes of its runs of words, ascending, each once; never empty.
};
// A text of fewer than `shingle_words` words is one shingle.
Signature Sign(absl::string_view normalized, int shingle_words);

double Jaccard(const Signature& a, const Signature& b);

enum class Match { kNone, kSame, kNear };

// Signatures, and whether one like another is among them. Not thread-safe.
class DuplicateIndex {
 public:
  // `threshold`: the least Jaccard similarity of near duplicates, in (0, 1].
  explicit DuplicateIndex(double threshold) : threshold_(threshold) {}

  Match Find(const Signature& signature) const;
  void Add(Signature signature);

 private:
  // Two sets as similar as that share one of this many of their smallest hashes, so only those are
  // indexed (prefix filtering; Chaudhuri, Ganti and Kaushik 2006).
  size_t PrefixOf(const Signature& signature) const;

  const double threshold_;
  std::vector<Signature> signatures_;
  std::unordered_set<uint64_t> words_;
  std::unordered_map<uint64_t, std::vector<uint32_t>> holders_;  // Of a shingle in a prefix.
};

}  // namespace wideberth::data
