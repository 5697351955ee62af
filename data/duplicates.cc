// SPDX-License-Identifier: Apache-2.0
#include "data/duplicates.h"

#include <utf8proc.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"

namespace wideberth::data {
namespace {

bool IsOfWord(utf8proc_int32_t character) {
  switch (utf8proc_category(character)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return true;
    default:
      return false;
  }
}

// Kana, Chinese characters, Thai, Lao, Khmer, Burmese.
bool IsWordOfItsOwn(utf8proc_int32_t c) {
  return (c >= 0x0E00 && c <= 0x0EFF) || (c >= 0x1000 && c <= 0x109F) ||
         (c >= 0x1780 && c <= 0x17FF) || (c >= 0x3040 && c <= 0x30FF) ||
         (c >= 0x3400 && c <= 0x9FFF) || (c >= 0x20000 && c <= 0x3FFFF);
}

std::string WordsOf(absl::string_view text) {
  std::string words;
  bool open = false;  // Whether a word has begun that may go on.
  const auto* at = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  for (size_t i = 0; i < text.size();) {
    utf8proc_int32_t c = 0;
    const auto length =
        utf8proc_iterate(at + i, static_cast<utf8proc_ssize_t>(text.size() - i), &c);
    WB_CHECK(length > 0, "utf8proc_map makes valid UTF-8");
    const bool alone = IsWordOfItsOwn(c);
    const bool of_word = IsOfWord(c);
    if (of_word) {
      if ((!open || alone) && !words.empty()) words.push_back(' ');
      words.append(text.data() + i, length);
    }
    open = of_word && !alone;
    i += length;
  }
  return words;
}

}  // namespace

uint64_t StableHash(uint64_t seed, absl::string_view bytes) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

absl::Status CheckUtf8(absl::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    utf8proc_int32_t c = 0;
    const auto length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + i,
                                         static_cast<utf8proc_ssize_t>(text.size() - i), &c);
    if (length <= 0) return absl::InvalidArgumentError(absl::StrCat("is not UTF-8 at byte ", i));
    i += length;
  }
  return absl::OkStatus();
}

std::string Normalized(absl::string_view text) {
  utf8proc_uint8_t* mapped = nullptr;
  const auto length = utf8proc_map(
      reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
      static_cast<utf8proc_ssize_t>(text.size()), &mapped,
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT |
                                     UTF8PROC_CASEFOLD | UTF8PROC_IGNORE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
  WB_CHECK(length >= 0, "the text is UTF-8 and fits into memory");
  std::string words = WordsOf({reinterpret_cast<const char*>(mapped), static_cast<size_t>(length)});
  if (words.empty()) words = std::string(absl::StripAsciiWhitespace(text));
  return words;
}

Signature Sign(absl::string_view normalized, int shingle_words) {
  Signature signature;
  signature.words = StableHash(0, normalized);
  const std::vector<absl::string_view> words = absl::StrSplit(normalized, ' ');
  const size_t size = std::min(words.size(), static_cast<size_t>(shingle_words));
  for (size_t i = 0; i + size <= words.size(); ++i) {
    const char* begin = words[i].data();
    const absl::string_view& last = words[i + size - 1];
    signature.shingles.push_back(
        StableHash(1, absl::string_view(begin, last.data() + last.size() - begin)));
  }
  std::sort(signature.shingles.begin(), signature.shingles.end());
  signature.shingles.erase(std::unique(signature.shingles.begin(), signature.shingles.end()),
                           signature.shingles.end());
  return signature;
}

double Jaccard(const Signature& a, const Signature& b) {
  size_t both = 0;
  for (auto i = a.shingles.begin(), j = b.shingles.begin();
       i != a.shingles.end() && j != b.shingles.end();) {
    both += *i == *j;
    const bool advance_i = *i <= *j, advance_j = *j <= *i;
    i += advance_i;
    j += advance_j;
  }
  return static_cast<double>(both) /
         static_cast<double>(a.shingles.size() + b.shingles.size() - both);
}

size_t DuplicateIndex::PrefixOf(const Signature& signature) const {
  // At least ceil(threshold * size) are shared. The margin keeps a product that rounding put just
  // above a whole number from asking for one more.
  const double size = static_cast<double>(signature.shingles.size());
  const size_t shared = static_cast<size_t>(std::ceil(threshold_ * size - 1e-9));
  return signature.shingles.size() - std::max<size_t>(shared, 1) + 1;
}

Match DuplicateIndex::Find(const Signature& signature) const {
  if (words_.count(signature.words) > 0) return Match::kSame;
  std::unordered_set<uint32_t> seen;
  for (size_t i = 0; i < PrefixOf(signature); ++i) {
    const auto found = holders_.find(signature.shingles[i]);
    if (found == holders_.end()) continue;
    for (uint32_t holder : found->second) {
      if (seen.insert(holder).second && Jaccard(signature, signatures_[holder]) >= threshold_)
        return Match::kNear;
    }
  }
  return Match::kNone;
}

void DuplicateIndex::Add(Signature signature) {
  words_.insert(signature.words);
  const uint32_t holder = static_cast<uint32_t>(signatures_.size());
  for (size_t i = 0; i < PrefixOf(signature); ++i)
    holders_[signature.shingles[i]].push_back(holder);
  signatures_.push_back(std::move(signature));
}

}  // namespace wideberth::data
