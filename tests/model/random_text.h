// SPDX-License-Identifier: Apache-2.0
// Random Unicode strings by a formula, the same as in tests/golden/make_tokenizer_goldens.py, and
// the hash that its files hold. Used by the tokenizer's test and benchmark.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "model/unicode_text.h"

namespace wideberth::testing {

inline uint64_t SplitMix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

inline std::string RandomUnicode(uint64_t index) {
  struct Class {
    uint64_t share;
    uint32_t first;
    uint32_t last;
  };
  static constexpr Class kClasses[] = {
      {30, 0x21, 0x7E},      {10, 0x20, 0x20},      {5, 0x9, 0xD},      {4, 0x30, 0x39},
      {8, 0xA0, 0x24F},      {6, 0x300, 0x36F},     {6, 0x370, 0x2FFF}, {6, 0x3000, 0xD7A3},
      {6, 0x1F300, 0x1FAFF}, {4, 0x10000, 0x1FFFF}, {9, 0x0, 0x10FFFF}};
  static constexpr absl::string_view kFragments[] = {"'s",
                                                     "'S",
                                                     "'\u017f",
                                                     "'ll",
                                                     "'LL",
                                                     "'re",
                                                     "'VE",
                                                     "'d",
                                                     "'M",
                                                     "'t",
                                                     " the",
                                                     " and",
                                                     "ing",
                                                     "1234567",
                                                     "\u0661\u0662\u0663",
                                                     "don't",
                                                     "e\u0301",
                                                     "\u1112\u1161\u11ab",
                                                     "  \n\n  ",
                                                     "\r\n",
                                                     "\u180e",
                                                     "\u2003",
                                                     "\u2581",
                                                     "<|endoftext|>",
                                                     "<|im_start|>",
                                                     "<|im_end|>",
                                                     "<|eot_id|>",
                                                     "<|begin_of_text|>",
                                                     "<s>",
                                                     "</s>",
                                                     "<unk>",
                                                     "<|im_start",
                                                     "\u0d3c",
                                                     "\u1c89",
                                                     "\U00011de0",
                                                     "\U0001e4ec"};
  uint64_t draws = 0;
  const auto draw = [&](uint64_t size) { return SplitMix64((index << 20) + ++draws) % size; };
  std::string text;
  for (uint64_t left = draw(80); left > 0; --left) {
    uint64_t share = draw(100);
    const Class* found = nullptr;
    for (const Class& c : kClasses) {
      if (share < c.share) {
        found = &c;
        break;
      }
      share -= c.share;
    }
    if (found == nullptr) {
      text += std::string(kFragments[draw(std::size(kFragments))]);
      continue;
    }
    const uint32_t point =
        found->first + static_cast<uint32_t>(draw(found->last - found->first + 1));
    model::AppendUtf8(point >= 0xD800 && point <= 0xDFFF ? point - 0x800 : point, &text);
  }
  if (index % 50 != 0) return text;
  std::string repeated;
  for (int i = 0; i < 20; ++i) repeated += text;
  return repeated;
}

inline constexpr uint64_t kFnvStart = 0xCBF29CE484222325u;
inline uint64_t Fnv(uint64_t hash, uint64_t value) { return (hash ^ value) * 0x100000001B3u; }

}  // namespace wideberth::testing
