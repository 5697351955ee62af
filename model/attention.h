// SPDX-License-Identifier: Apache-2.0
// Attention over a token tree, packed as it is: siblings are multiplied with the keys of their
// ancestors together, each with its own by itself; nothing is padded and no ancestor's key or value
// is copied for a member. Used by CausalLm for prefill, scoring and learning alike.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "model/attention_kernel.h"
#include "model/causal_lm.h"
#include "model/token_tree.h"

namespace wideberth::model {

// Made once per forward pass, used by every layer, and kept by the graph. Refers to the prefix.
class TreeAttention {
 public:
  // kGeneric: by ATen's operations whatever the device, as on a GPU.
  enum class Path { kBest, kGeneric };
  // `repeat`: query heads of a key head.
  TreeAttention(const TokenTree& tree, const KvPrefix* prefix, int64_t repeat, at::Device device,
                Path path = Path::kBest);

  // q [N, Q, D], k and v [N, K, D] -> [N, Q * D]. On a CPU 16-bit inputs are computed in float32.
  at::Tensor Attend(int64_t layer, const at::Tensor& q_NQD, const at::Tensor& k_NKD,
                    const at::Tensor& v_NKD) const;

  void PrepareRootKv(int64_t num_layers, std::vector<KvPrefix>* out) const;
  void KeepRootKv(int64_t layer, const at::Tensor& k_NKD, const at::Tensor& v_NKD,
                  std::vector<KvPrefix>* out) const;

 private:
  struct Siblings {
    std::vector<RowRange> members;
    size_t ancestors = 0;      // Into the plan's.
    at::Tensor member_rows;    // [T] rows of all members, generic path only, as the next two
    at::Tensor ancestor_rows;  // [A], undefined for roots
  };
  void PlanTiles(const Siblings& set, int64_t tokens_a_tile);
  void PrepareGeneric(int64_t num_tokens, at::Device device);
  at::Tensor AttendGeneric(int64_t layer, const at::Tensor& q_NQD, const at::Tensor& k_NKD,
                           const at::Tensor& v_NKD) const;

  const KvPrefix* const prefix_;
  const bool generic_;
  std::vector<Siblings> sets_;
  std::vector<RowRange> roots_;
  std::shared_ptr<AttentionPlan> plan_;
  at::Tensor order_;  // [N] where each packed row stands in the sets one after the other;
                      // undefined: where it is
  std::map<int64_t, at::Tensor> causal_;  // By length L: [L, 1, L], true where a key comes later.
};

}  // namespace wideberth::model
