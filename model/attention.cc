// SPDX-License-Identifier: Apache-2.0
#include "model/attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

namespace wideberth::model {
namespace {

using ::at::Tensor;

std::vector<int64_t> AncestorRows(const TokenTree& tree, int node) {
  std::vector<int> chain;
  for (; node >= 0; node = tree.nodes[node].parent) chain.push_back(node);
  std::vector<int64_t> rows;
  for (auto it = chain.rbegin(); it != chain.rend(); ++it) {
    const TokenTree::Node& ancestor = tree.nodes[*it];
    for (size_t i = 0; i < ancestor.tokens.size(); ++i)
      rows.push_back(ancestor.first_row + static_cast<int64_t>(i));
  }
  return rows;
}

// The shared part [heads, P, D] in front of every member's own part [S, heads, L, D].
Tensor WithPrefix(const std::vector<Tensor>& shared, const Tensor& own_SKLD) {
  if (shared.empty()) return own_SKLD;
  const Tensor all = shared.size() == 1 ? shared[0] : at::cat(shared, 1);
  return at::cat({all.unsqueeze(0).expand({own_SKLD.size(0), -1, -1, -1}), own_SKLD}, 2);
}

}  // namespace

TreeAttention::TreeAttention(const TokenTree& tree, const KvPrefix* prefix, const CausalLm& model)
    : prefix_(prefix), num_layers_(model.spec().num_layers) {
  std::map<int, std::vector<int>> children;  // by parent; roots under -1
  for (int i = 0; i < static_cast<int>(tree.nodes.size()); ++i) {
    const TokenTree::Node& node = tree.nodes[i];
    children[node.parent].push_back(i);
    if (node.parent < 0)
      roots_.push_back({node.first_row, static_cast<int64_t>(node.tokens.size())});
  }
  std::vector<int64_t> gather(tree.num_tokens);
  int64_t offset = 0;
  for (const auto& [parent, members] : children) {
    Siblings set;
    set.count = static_cast<int64_t>(members.size());
    for (int m : members)
      set.longest = std::max(set.longest, static_cast<int64_t>(tree.nodes[m].tokens.size()));
    std::vector<int64_t> padded;
    for (int m : members) {
      const TokenTree::Node& node = tree.nodes[m];
      const int64_t length = static_cast<int64_t>(node.tokens.size());
      for (int64_t i = 0; i < set.longest; ++i) {
        if (i < length) gather[node.first_row + i] = offset + static_cast<int64_t>(padded.size());
        padded.push_back(node.first_row + std::min(i, length - 1));
      }
    }
    offset += static_cast<int64_t>(padded.size());
    bool adjacent = true;
    for (size_t i = 0; i < padded.size(); ++i)
      adjacent = adjacent && padded[i] == padded[0] + static_cast<int64_t>(i);
    if (adjacent) {
      set.first_row = padded[0];
    } else {
      set.padded_rows = model.Indices(padded);
    }
    int64_t columns = (prefix == nullptr ? 0 : prefix->length) + set.longest;
    if (parent >= 0) {
      const std::vector<int64_t> rows = AncestorRows(tree, parent);
      columns += static_cast<int64_t>(rows.size());
      set.ancestor_rows = model.Indices(rows);
    }
    // -inf strictly above the diagonal that ends in the lower right corner.
    set.mask = at::full({set.longest, columns}, -std::numeric_limits<double>::infinity(),
                        at::TensorOptions(model.dtype()).device(model.device()))
                   .triu(columns - set.longest + 1)
                   .repeat({model.spec().num_heads / model.spec().num_kv_heads, 1});
    sets_.push_back(std::move(set));
  }
  bool in_place =
      offset ==
      tree.num_tokens;  // Padding behind the last sibling moves no row, but is to be left out.
  for (size_t i = 0; i < gather.size(); ++i)
    in_place = in_place && gather[i] == static_cast<int64_t>(i);
  if (!in_place) gather_ = model.Indices(gather);
}

Tensor TreeAttention::Rows(const Siblings& set, const Tensor& packed) {
  const Tensor rows = set.first_row >= 0 ? packed.narrow(0, set.first_row, set.count * set.longest)
                                         : packed.index_select(0, set.padded_rows);
  return rows.view({set.count, set.longest, packed.size(1), packed.size(2)});
}

Tensor TreeAttention::Attend(int64_t layer, const Tensor& q_NQD, const Tensor& k_NKD,
                             const Tensor& v_NKD) const {
  const int64_t kv = k_NKD.size(1), repeat = q_NQD.size(1) / kv, d = q_NQD.size(2);
  std::vector<Tensor> outputs;
  for (const Siblings& set : sets_) {
    std::vector<Tensor> shared_k, shared_v;
    if (prefix_ != nullptr && prefix_->length > 0) {
      shared_k.push_back(prefix_->keys_KPD[layer]);
      shared_v.push_back(prefix_->values_KPD[layer]);
    }
    if (set.ancestor_rows.defined()) {
      shared_k.push_back(k_NKD.index_select(0, set.ancestor_rows).transpose(0, 1));
      shared_v.push_back(v_NKD.index_select(0, set.ancestor_rows).transpose(0, 1));
    }
    // The query heads of one key head are further queries of it, so that keys and values are not
    // repeated.
    const Tensor q = Rows(set, q_NQD)
                         .view({set.count, set.longest, kv, repeat, d})
                         .permute({0, 2, 3, 1, 4})
                         .reshape({set.count, kv, repeat * set.longest, d});
    const Tensor k = WithPrefix(shared_k, Rows(set, k_NKD).transpose(1, 2));
    const Tensor v = WithPrefix(shared_v, Rows(set, v_NKD).transpose(1, 2));
    const Tensor out = at::scaled_dot_product_attention(q, k, v, set.mask);
    outputs.push_back(out.view({set.count, kv, repeat, set.longest, d})
                          .permute({0, 3, 1, 2, 4})
                          .reshape({set.count * set.longest, kv * repeat * d}));
  }
  const Tensor all = outputs.size() == 1 ? outputs[0] : at::cat(outputs, 0);
  return gather_.defined() ? all.index_select(0, gather_) : all;
}

void TreeAttention::PrepareRootKv(std::vector<KvPrefix>* out) const {
  out->assign(roots_.size(), KvPrefix());
  for (size_t r = 0; r < roots_.size(); ++r) {
    (*out)[r].length = roots_[r].length;
    (*out)[r].keys_KPD.resize(num_layers_);
    (*out)[r].values_KPD.resize(num_layers_);
  }
}

void TreeAttention::KeepRootKv(int64_t layer, const Tensor& k_NKD, const Tensor& v_NKD,
                               std::vector<KvPrefix>* out) const {
  for (size_t r = 0; r < roots_.size(); ++r) {
    (*out)[r].keys_KPD[layer] =
        k_NKD.narrow(0, roots_[r].first, roots_[r].length).transpose(0, 1).contiguous();
    (*out)[r].values_KPD[layer] =
        v_NKD.narrow(0, roots_[r].first, roots_[r].length).transpose(0, 1).contiguous();
  }
}

}  // namespace wideberth::model
