// SPDX-License-Identifier: Apache-2.0
#include "data/duplicates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"

namespace wideberth::data {
namespace {

TEST(DuplicatesTest, NormalisesCasePunctuationSpacesAndForms) {
  EXPECT_EQ(Normalized("  Hello,\n\tWORLD!! It's 5 o'clock "), "hello world it s 5 o clock");
  EXPECT_EQ(Normalized("Stra\u00DFe \uFF21\uFF22 \uFB01n"), "strasse ab fin");
  EXPECT_EQ(Normalized("e\u0301t\u00E9"), Normalized("\u00C9TE\u0301"));
  EXPECT_EQ(Normalized("in\u00ADvi\u200Bsible"), "invisible");  // Soft hyphen, zero width space.
  EXPECT_EQ(Normalized("\u6D77\u306Ea1"), "\u6D77 \u306E a1");
  EXPECT_EQ(Normalized(" ?! "), "?!");
}

TEST(DuplicatesTest, SaysWhereUtf8Ends) {
  EXPECT_TRUE(CheckUtf8("caf\u00E9").ok());
  EXPECT_EQ(CheckUtf8("caf\xE9 x").message(), "is not UTF-8 at byte 3");
  EXPECT_EQ(CheckUtf8("\u00E9\xED\xA0\x80").message(), "is not UTF-8 at byte 2");  // A surrogate.
}

TEST(DuplicatesTest, JaccardIsOfSetsOfShingles) {
  const Signature a = Sign("a b c d e", 3);  // abc bcd cde
  EXPECT_EQ(a.shingles.size(), 3u);
  EXPECT_DOUBLE_EQ(Jaccard(a, a), 1);
  EXPECT_DOUBLE_EQ(Jaccard(a, Sign("x b c d e", 3)), 2.0 / 4);
  EXPECT_DOUBLE_EQ(Jaccard(a, Sign("e d c b a", 3)), 0);
  EXPECT_EQ(Sign("a b a b a b", 2).shingles.size(), 2u);
  EXPECT_EQ(Sign("a b", 3).shingles.size(), 1u);
}

TEST(DuplicatesTest, TheIndexFindsExactlyWhatComparingAllPairsFinds) {
  std::mt19937_64 random(1);
  for (double threshold : {0.3, 0.5, 0.6, 0.75, 0.8, 1.0}) {
    DuplicateIndex index(threshold);
    std::vector<Signature> added;
    int num_near = 0;
    for (int i = 0; i < 400; ++i) {
      std::string text;
      for (size_t k = 0, n = 2 + random() % 6; k < n; ++k)
        absl::StrAppend(&text, k == 0 ? "" : " ", "w", random() % 5);
      const Signature one = Sign(text, 2);
      Match expected = Match::kNone;
      for (const Signature& other : added) {
        if (other.words == one.words) expected = Match::kSame;
        if (expected == Match::kNone && Jaccard(one, other) >= threshold) expected = Match::kNear;
      }
      ASSERT_EQ(index.Find(one), expected) << threshold << ": " << text;
      num_near += expected == Match::kNear;
      index.Add(one);
      added.push_back(one);
    }
    EXPECT_GT(num_near, 0) << threshold;
  }
}

TEST(DuplicatesTest, FindsATextThatIsJustNearEnough) {
  // 0.55 * 100 is a little more than 55 in binary.
  Signature all, most;
  all.words = 1;
  for (uint64_t shingle = 1; shingle <= 100; ++shingle) all.shingles.push_back(shingle);
  most.shingles.assign(all.shingles.begin() + 45, all.shingles.end());
  DuplicateIndex index(0.55);
  index.Add(most);
  EXPECT_EQ(index.Find(all), Match::kNear);
}

TEST(DuplicatesTest, HashesAreTheSameEverywhere) {
  // xxhsum -H3 of the empty input; with another seed it is another.
  EXPECT_EQ(StableHash(0, ""), 0x2d06800538d394c2u);
  EXPECT_NE(StableHash(1, ""), StableHash(0, ""));
}

}  // namespace
}  // namespace wideberth::data
