// SPDX-License-Identifier: Apache-2.0
// Attention over a token tree: every set of siblings is one batch whose members share the keys and
// values of their ancestors. Used by CausalLm.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/causal_lm.h"
#include "model/token_tree.h"

namespace wideberth::model {

// Made once per forward pass, used by every layer. Keeps references to the prefix.
class TreeAttention {
 public:
  TreeAttention(const TokenTree& tree, const KvPrefix* prefix, const CausalLm& model);

  // q [N, Q, D], k and v [N, K, D] -> [N, Q * D].
  at::Tensor Attend(int64_t layer, const at::Tensor& q_NQD, const at::Tensor& k_NKD,
                    const at::Tensor& v_NKD) const;

  void PrepareRootKv(std::vector<KvPrefix>* out) const;
  void KeepRootKv(int64_t layer, const at::Tensor& k_NKD, const at::Tensor& v_NKD,
                  std::vector<KvPrefix>* out) const;

 private:
  struct Siblings {
    int64_t count = 0;       // S members
    int64_t longest = 0;     // L tokens of the longest member; shorter ones are filled up with rows
                             // that nobody reads
    int64_t first_row = -1;  // Where the members stand one after the other and are equally long:
                             // their first row; else -1 and
    at::Tensor padded_rows;  // [S * L] rows of the members' tokens
    at::Tensor ancestor_rows;  // [A] rows of all ancestors within the tree, or undefined
    at::Tensor mask;  // [Q/K * L, P + A + L] additive, causal in the last L columns; query heads of
                      // one key head one after the other
  };
  struct RootRows {
    int64_t first, length;
  };
  // The members' rows of a packed tensor [N, heads, D] as [S, L, heads, D].
  static at::Tensor Rows(const Siblings& set, const at::Tensor& packed);

  const KvPrefix* const prefix_;
  const int64_t num_layers_;
  std::vector<Siblings> sets_;
  std::vector<RootRows> roots_;
  at::Tensor gather_;  // [N] where each packed row stands in the concatenation of the sets' padded
                       // rows; undefined: where it is
};

}  // namespace wideberth::model
