// SPDX-License-Identifier: Apache-2.0
#include "data/compose.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace wideberth::data {
namespace {

using ::testing::HasSubstr;

int64_t CountWords(absl::string_view text) {
  int64_t count = 0;
  for (absl::string_view word : absl::StrSplit(text, absl::ByAnyChar(" \n")))
    count += !word.empty();
  return count;
}

TEST(ComposeTest, EveryPlaceholderBecomesTheRequestAndTheRequestStaysWhole) {
  const std::vector<std::string> placeholders = {"[ASK]", "[ask here]"};
  EXPECT_EQ(PutInto("Say [ASK]. Again: [ask here]", placeholders, "why [ASK]?"),
            "Say why [ASK]?. Again: why [ASK]?");
  EXPECT_EQ(PutInto("No place", placeholders, "why"), "No place\n\nwhy");
  EXPECT_FALSE(HasPlaceholder("[Ask]", placeholders));
}

TEST(ComposeTest, PairsAreAllDifferentAndBalanced) {
  for (const auto& [n, m] :
       std::vector<std::pair<int64_t, int64_t>>{{4, 6}, {5, 7}, {3, 3}, {1, 4}}) {
    std::set<std::pair<int64_t, int64_t>> seen;
    std::map<int64_t, int> of_n, of_m;
    for (int64_t i = 0; i < n * m; ++i) {
      const auto pair = BalancedPair(i, n, m);
      EXPECT_TRUE(seen.insert(pair).second) << n << " " << m << " " << i;
      ++of_n[pair.first];
      ++of_m[pair.second];
      EXPECT_LE(of_n[pair.first], i / n + 1);
      EXPECT_LE(of_m[pair.second], i / m + 1);
    }
  }
}

TEST(FillerTest, SurroundsTheRequestUpToTheLength) {
  std::vector<std::string> paragraphs;
  for (int i = 0; i < 40; ++i) paragraphs.push_back(absl::StrCat("p", i, " two three four five"));
  const Filler filler(paragraphs, CountWords);
  EXPECT_EQ(filler.num_tokens(), 200);
  std::set<std::string> first, places;
  for (uint64_t draw = 0; draw < 50; ++draw) {
    const auto whole = filler.Surround("the request\nof two lines", 63, draw << 32 | draw);
    ASSERT_TRUE(whole.ok()) << whole.status();
    EXPECT_EQ(CountWords(*whole), 60);  // 5 of the request and 11 paragraphs of 5.
    const std::vector<std::string> parts = absl::StrSplit(*whole, "\n\n");
    const auto at = std::find(parts.begin(), parts.end(), "the request\nof two lines");
    ASSERT_NE(at, parts.end()) << *whole;
    places.insert(absl::StrCat(at - parts.begin()));
    first.insert(at == parts.begin() ? parts[1] : parts[0]);
    EXPECT_EQ(*whole, *filler.Surround("the request\nof two lines", 63, draw << 32 | draw));
  }
  EXPECT_EQ(places.size(), 12u);
  EXPECT_EQ(first.size(), 40u);
}

TEST(FillerTest, LeavesParagraphsOutWhereTheWholeHasMoreTokensThanItsParts) {
  // A tokenizer that needs one token more for every place where two parts meet.
  const auto count = [](absl::string_view text) {
    int64_t joints = 0;
    for (size_t at = text.find("\n\n"); at != text.npos; at = text.find("\n\n", at + 2))
      joints += at + 2 < text.size();
    return CountWords(text) + joints;
  };
  const Filler filler({"a b c", "d e f", "g h i", "j k l"}, count);
  const auto whole = filler.Surround("r", 10, 0);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_LE(count(*whole), 10);
  EXPECT_THAT(*whole, HasSubstr("r"));
  EXPECT_GE(CountWords(*whole), 7);
}

TEST(FillerTest, SaysThatItIsTooShort) {
  const auto whole = Filler({"a b", "c d"}, CountWords).Surround("r", 10, 0);
  ASSERT_FALSE(whole.ok());
  EXPECT_EQ(whole.status().message(), "the filler has 4 tokens, expected at least 9");
}

TEST(FillerTest, ARequestThatLeavesNoRoomStaysAlone) {
  EXPECT_EQ(*Filler({"a b", "c d"}, CountWords).Surround("r s t", 4, 0), "r s t");
}

}  // namespace
}  // namespace wideberth::data
