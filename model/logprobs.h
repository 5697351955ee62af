// SPDX-License-Identifier: Apache-2.0
// Log-probs of given tokens from hidden states, in chunks of rows: logits of all tokens times the
// vocabulary never exist. Used by the learner, its reference pass and `wideberth logprobs`.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/causal_lm.h"

namespace wideberth::model {

struct TokenLogProbs {
  at::Tensor logprob;  // [M] float32 (float64 for a float64 model); differentiable when gradients
                       // are on.
  at::Tensor entropy;  // [M] nats; a gradient only where it was asked for.
};

// Row m: log softmax(hidden[rows[m]] head^T / temperature)[targets[m]]. hidden [N, H], head [V, H].
// Differentiable in a head that requires a gradient, too, for two more products with it.
// `entropy_gradient`: `entropy` is differentiable in `hidden` as well, for one more product with
// the head and [M, H] more memory; not in the head, which must not require a gradient then.
TokenLogProbs LogProbsOfTokens(const at::Tensor& hidden_NH, const at::Tensor& head_VH,
                               const std::vector<int64_t>& rows,
                               const std::vector<int64_t>& targets, double temperature,
                               bool entropy_gradient = false);

// The tree of one group and, for every completion token in order, the row whose logits predict it.
// Completions not empty.
struct GroupTree {
  TokenTree tree;
  std::vector<int64_t> rows;     // [M]
  std::vector<int64_t> targets;  // [M]
};
// Adds a group to what is there, as a tree of its own beside the others; rows and targets follow.
void AddGroup(const std::vector<int32_t>& prompt,
              const std::vector<std::vector<int32_t>>& completions, GroupTree* trees);
GroupTree MakeGroupTree(const std::vector<int32_t>& prompt,
                        const std::vector<std::vector<int32_t>>& completions);

}  // namespace wideberth::model
