// SPDX-License-Identifier: Apache-2.0
// Token sequences that share beginnings, packed without padding: a group is its prompt with G
// completions as children; a scorer's batch is a constant head with prompts below it and answers
// below those. Built by actor, scorer and learner, consumed by CausalLm.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/status.h"

namespace wideberth::model {

// A node's tokens see all tokens of its ancestors and, causally, its own. Rows of every packed
// tensor follow the order of `nodes`.
struct TokenTree {
  struct Node {
    std::vector<int32_t> tokens;  // Not empty.
    int parent = -1;              // Index of an earlier node, or -1.
    int64_t first_row = 0;        // Where its tokens stand in packed tensors.
    int64_t first_position = 0;   // Rotary position of its first token.
  };
  std::vector<Node> nodes;
  int64_t num_tokens = 0;

  int Add(std::vector<int32_t> tokens, int parent = -1) {
    WB_CHECK(!tokens.empty(), "a node of a token tree has at least one token");
    WB_CHECK(parent < static_cast<int>(nodes.size()), "a parent precedes its children");
    Node node;
    node.first_row = num_tokens;
    if (parent >= 0)
      node.first_position =
          nodes[parent].first_position + static_cast<int64_t>(nodes[parent].tokens.size());
    node.parent = parent;
    num_tokens += static_cast<int64_t>(tokens.size());
    node.tokens = std::move(tokens);
    nodes.push_back(std::move(node));
    return static_cast<int>(nodes.size()) - 1;
  }
  int64_t LastRow(int node) const {
    return nodes[node].first_row + static_cast<int64_t>(nodes[node].tokens.size()) - 1;
  }
};

}  // namespace wideberth::model
