// SPDX-License-Identifier: Apache-2.0
// UTF-8 repair, normal forms and regular expressions below the tokenizer.
#include "model/unicode_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <utf8proc.h>

#include <cstdlib>

#include "absl/strings/escaping.h"
#include "model/regex.h"
#include "tests/model/random_text.h"

namespace wideberth::model {
namespace {

using ::testing::HasSubstr;
using testing::RandomUnicode;

std::string Shown(absl::string_view text) { return absl::Utf8SafeCEscape(text); }

TEST(UnicodeTextTest, EachMaximalInvalidPartBecomesOneReplacement) {
  const std::pair<std::string, std::string> cases[] = {
      {"", ""},
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
       "A",
       "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"
       "A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF"
       "A",
       "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"
       "A"},
      {"\xF4\x91\x92\x93\xFF"
       "A\x80\xBF"
       "B",
       "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"
       "A\uFFFD\uFFFD"
       "B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
       "A",
       "\uFFFD\uFFFD\uFFFD\uFFFD"
       "A"},
      {"\xF0\x9F\x98\x80\xF4\x8F\xBF\xBF", "\U0001F600\U0010FFFF"}};
  for (const auto& [bytes, text] : cases) EXPECT_EQ(Shown(ReplaceInvalidUtf8(bytes)), Shown(text));
}

TEST(RegexTest, ConstructsThatMeanSomethingElseHereAreRefused) {
  for (absl::string_view pattern :
       {"a.b", "^a", "a$", "\\w+", "\\bx", "[a[b]]", "[a&&b]", "a{2}+", "(?m:a)", "\\p{Han}",
        "[\\P{L}]", "[a", "(?<name>a)", "\\X", "a\\"}) {
    EXPECT_FALSE(Regex::Compile(pattern).ok()) << pattern;
  }
  EXPECT_THAT(std::string(Regex::Compile("(a").status().message()),
              HasSubstr("is wrong at byte 2"));
}

TEST(RegexTest, SpaceIsUnicodesWhiteSpaceInAndOutOfClasses) {
  RegexScratch scratch;
  for (absl::string_view pattern : {"\\s", "[\\s]", "[^\\S]"}) {
    const auto regex = Regex::Compile(pattern);
    ASSERT_TRUE(regex.ok()) << regex.status();
    for (uint32_t point = 0; point < 0x3100; ++point) {
      std::string text;
      AppendUtf8(point, &text);
      size_t begin, end;
      EXPECT_EQ(regex->Find(text, 0, &scratch, &begin, &end), IsWhiteSpace(point))
          << pattern << " " << point;
    }
  }
}

TEST(UnicodeTextTest, WhatCountsAsPlainlyNfcNeverChangesByWhatStandsBeforeIt) {
  const auto nfc = [](const std::string& text) {
    utf8proc_uint8_t* mapped =
        utf8proc_NFC(reinterpret_cast<const utf8proc_uint8_t*>(text.c_str()));
    std::string result = reinterpret_cast<const char*>(mapped);
    std::free(mapped);
    return result;
  };
  int num_plain = 0;
  for (uint32_t point = 1; point < 0x20000; ++point) {
    if (point >= 0xD800 && point <= 0xDFFF) continue;
    std::string one;
    AppendUtf8(point, &one);
    if (!IsPlainlyNfc(one)) continue;
    ++num_plain;
    // Behind letters and marks that compose with many, and with another of its kind behind it.
    for (const std::string before : {"e", "e\u0323", "\u1100", "\uac00", "\u304b", "\u09c7"}) {
      ASSERT_EQ(nfc(before + one + one), nfc(before) + one + one) << point;
    }
  }
  EXPECT_GT(num_plain, 30'000);
}

TEST(UnicodeTextTest, NormalisingInPartsIsNormalisingTheWhole) {
  for (uint64_t i = 0; i < 3000; ++i) {
    // Without the characters that only newer tables know, as in the normalisation's own.
    std::string text;
    const std::string random = RandomUnicode(3'000'000 + i);
    size_t length;
    for (size_t at = 0; at < random.size(); at += length) {
      const uint32_t point = CodePointAt(random, at, &length);
      if (point != 0 && (point < 0x370 || (point >= 0x1100 && point < 0x1200) ||
                         (point >= 0x3040 && point < 0xD7A4))) {
        AppendUtf8(point, &text);
      }
    }
    utf8proc_uint8_t* mapped =
        utf8proc_NFC(reinterpret_cast<const utf8proc_uint8_t*>(text.c_str()));
    const std::string whole = reinterpret_cast<const char*>(mapped);
    std::free(mapped);
    EXPECT_EQ(Shown(Normalize(text, NormalForm::kNfc)), Shown(whole));
  }
}

}  // namespace
}  // namespace wideberth::model
