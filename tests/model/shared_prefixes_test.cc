// SPDX-License-Identifier: Apache-2.0
// A batch as a tree: every sequence can be read off it, and what is shared stands in it once.
#include "model/shared_prefixes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace wideberth::model {
namespace {

using ::testing::ElementsAre;
using Sequences = std::vector<std::vector<int32_t>>;

SharedTree Share(const Sequences& sequences, int64_t min_shared) {
  std::vector<absl::Span<const int32_t>> spans(sequences.begin(), sequences.end());
  return ShareBeginnings(spans, min_shared);
}

// The sequence that ends in `row`: its node's tokens up to there, after those of all ancestors.
std::vector<int32_t> ReadBack(const TokenTree& tree, int64_t row) {
  std::vector<int32_t> tokens;
  for (size_t n = 0; n < tree.nodes.size(); ++n) {
    const auto& end_node = tree.nodes[n];
    if (row < end_node.first_row || row > tree.LastRow(static_cast<int>(n))) continue;
    tokens.assign(end_node.tokens.begin(),
                  end_node.tokens.begin() + (row - end_node.first_row + 1));
    for (int parent = end_node.parent; parent >= 0; parent = tree.nodes[parent].parent) {
      tokens.insert(tokens.begin(), tree.nodes[parent].tokens.begin(),
                    tree.nodes[parent].tokens.end());
    }
  }
  return tokens;
}

TEST(SharedPrefixesTest, TheAnswersOfAGroupHangBelowTheirPrompt) {
  const SharedTree shared = Share({{1, 2, 3, 4, 5}, {1, 2, 3, 6}, {9, 8}, {1, 2, 3, 4, 7}}, 2);
  ASSERT_EQ(shared.tree.nodes.size(), 5);
  EXPECT_THAT(shared.tree.nodes[0].tokens, ElementsAre(1, 2, 3));
  EXPECT_THAT(shared.tree.nodes[1].tokens, ElementsAre(4, 5));
  EXPECT_EQ(shared.tree.nodes[1].parent, 0);
  EXPECT_EQ(shared.tree.nodes[4].parent, -1);
  EXPECT_EQ(shared.tree.num_tokens, 3 + 2 + 2 + 1 + 2);
}

TEST(SharedPrefixesTest, ASharedWordIsNotWorthANode) {
  EXPECT_EQ(Share({{1, 2, 3}, {1, 2, 4}}, 3).tree.nodes.size(), 2);
  EXPECT_EQ(Share({{1, 2, 3}, {1, 2, 4}}, 2).tree.nodes.size(), 3);
}

TEST(SharedPrefixesTest, EqualSequencesShareTheirRow) {
  const SharedTree shared = Share({{1, 2}, {1, 2}, {1, 3}}, 16);
  EXPECT_EQ(shared.tree.num_tokens, 4);
  EXPECT_EQ(shared.last_row[0], shared.last_row[1]);
  EXPECT_NE(shared.last_row[0], shared.last_row[2]);
}

TEST(SharedPrefixesTest, ASequenceMayEndWhereAnotherGoesOn) {
  const SharedTree shared = Share({{1, 2, 3, 4}, {1, 2}}, 1);
  EXPECT_EQ(shared.tree.num_tokens, 4);
  EXPECT_THAT(shared.last_row, ElementsAre(3, 1));
}

TEST(SharedPrefixesTest, EveryRandomSequenceCanBeReadOffTheTree) {
  std::mt19937 random(7);
  for (int trial = 0; trial < 300; ++trial) {
    Sequences sequences(1 + random() % 12);
    for (auto& sequence : sequences) {
      sequence.resize(1 + random() % 9);
      for (int32_t& token : sequence) token = static_cast<int32_t>(random() % 2);
    }
    const SharedTree shared = Share(sequences, 1 + trial % 4);
    int64_t num_rows = 0, num_all = 0;
    for (const auto& node : shared.tree.nodes) num_rows += static_cast<int64_t>(node.tokens.size());
    ASSERT_EQ(num_rows, shared.tree.num_tokens);
    for (size_t i = 0; i < sequences.size(); ++i) {
      num_all += static_cast<int64_t>(sequences[i].size());
      ASSERT_EQ(ReadBack(shared.tree, shared.last_row[i]), sequences[i])
          << "trial " << trial << " sequence " << i;
    }
    ASSERT_LE(num_rows, num_all);
    if (trial % 4 != 0) continue;
    // With min_shared 1 no two siblings begin alike.
    for (size_t a = 0; a < shared.tree.nodes.size(); ++a) {
      for (size_t b = 0; b < a; ++b) {
        if (shared.tree.nodes[a].parent != shared.tree.nodes[b].parent) continue;
        ASSERT_NE(shared.tree.nodes[a].tokens[0], shared.tree.nodes[b].tokens[0]);
      }
    }
  }
}

}  // namespace
}  // namespace wideberth::model
