// SPDX-License-Identifier: Apache-2.0
#include "model/attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace wideberth::model {
namespace {

using ::at::Tensor;

constexpr int64_t kTileRows = 96;  // Queries of a tile, counted once per head of their key head.

// Adjacent ranges as one.
std::vector<RowRange> AncestorRows(const TokenTree& tree, int node) {
  std::vector<int> chain;
  for (; node >= 0; node = tree.nodes[node].parent) chain.push_back(node);
  std::vector<RowRange> ranges;
  for (auto it = chain.rbegin(); it != chain.rend(); ++it) {
    const TokenTree::Node& ancestor = tree.nodes[*it];
    const auto count = static_cast<int64_t>(ancestor.tokens.size());
    if (!ranges.empty() && ranges.back().first + ranges.back().count == ancestor.first_row) {
      ranges.back().count += count;
    } else {
      ranges.push_back({ancestor.first_row, count});
    }
  }
  return ranges;
}

Tensor RowsOf(const std::vector<RowRange>& ranges, at::Device device) {
  std::vector<int64_t> rows;
  for (const RowRange& range : ranges) {
    for (int64_t i = 0; i < range.count; ++i) rows.push_back(range.first + i);
  }
  return at::tensor(rows, at::TensorOptions(at::kLong)).to(device);
}

int64_t Sum(const std::vector<RowRange>& ranges) {
  int64_t sum = 0;
  for (const RowRange& range : ranges) sum += range.count;
  return sum;
}

}  // namespace

TreeAttention::TreeAttention(const TokenTree& tree, const KvPrefix* prefix, int64_t repeat,
                             at::Device device, Path path)
    : prefix_(prefix != nullptr && prefix->length > 0 ? prefix : nullptr),
      generic_(path == Path::kGeneric || !device.is_cpu()),
      plan_(std::make_shared<AttentionPlan>()) {
  std::map<int, size_t> set_of;  // by parent; -1: the roots
  for (const TokenTree::Node& node : tree.nodes) {
    const RowRange rows{node.first_row, static_cast<int64_t>(node.tokens.size())};
    if (node.parent < 0) roots_.push_back(rows);
    const auto [found, is_new] = set_of.try_emplace(node.parent, sets_.size());
    if (is_new) {
      sets_.emplace_back().ancestors = plan_->ancestors.size();
      plan_->ancestors.push_back(AncestorRows(tree, node.parent));
    }
    sets_[found->second].members.push_back(rows);
  }
  if (generic_) {
    PrepareGeneric(tree.num_tokens, device);
  } else {
    for (const Siblings& set : sets_) PlanTiles(set, std::max<int64_t>(1, kTileRows / repeat));
  }
}

void TreeAttention::PlanTiles(const Siblings& set, int64_t tokens_a_tile) {
  const std::vector<RowRange>& ancestors = plan_->ancestors[set.ancestors];
  int64_t room = 0;
  for (const RowRange& member : set.members) {
    for (int64_t offset = 0; offset < member.count;) {
      if (room == 0) {
        plan_->tiles.push_back({{}, &ancestors, Sum(ancestors)});
        room = tokens_a_tile;
      }
      const int64_t count = std::min(room, member.count - offset);
      plan_->tiles.back().pieces.push_back({member.first, offset, count});
      offset += count;
      room -= count;
    }
  }
}

void TreeAttention::PrepareGeneric(int64_t num_tokens, at::Device device) {
  std::vector<int64_t> order(num_tokens);
  int64_t next = 0;
  bool in_place = true;
  for (Siblings& set : sets_) {
    set.member_rows = RowsOf(set.members, device);
    const std::vector<RowRange>& ancestors = plan_->ancestors[set.ancestors];
    if (!ancestors.empty()) set.ancestor_rows = RowsOf(ancestors, device);
    for (const RowRange& member : set.members) {
      for (int64_t i = 0; i < member.count; ++i) {
        in_place = in_place && next == member.first + i;
        order[member.first + i] = next++;
      }
      Tensor& later = causal_[member.count];
      if (!later.defined()) {
        later = at::ones({member.count, member.count}, at::TensorOptions(at::kBool).device(device))
                    .triu(1)
                    .unsqueeze(1);
      }
    }
  }
  if (!in_place) order_ = at::tensor(order, at::TensorOptions(at::kLong)).to(device);
}

Tensor TreeAttention::Attend(int64_t layer, const Tensor& q_NQD, const Tensor& k_NKD,
                             const Tensor& v_NKD) const {
  if (generic_) return AttendGeneric(layer, q_NQD, k_NKD, v_NKD);
  const at::ScalarType type = q_NQD.scalar_type(),
                       wide = type == at::kDouble ? at::kDouble : at::kFloat;
  Tensor prefix_keys, prefix_values;
  if (prefix_ != nullptr) {
    prefix_keys = prefix_->keys_KPD[layer].to(wide).contiguous();
    prefix_values = prefix_->values_KPD[layer].to(wide).contiguous();
  }
  return AttendOnCpu(plan_, q_NQD.to(wide), k_NKD.to(wide), v_NKD.to(wide), prefix_keys,
                     prefix_values)
      .to(type);
}

Tensor TreeAttention::AttendGeneric(int64_t layer, const Tensor& q_NQD, const Tensor& k_NKD,
                                    const Tensor& v_NKD) const {
  const int64_t kv = k_NKD.size(1), repeat = q_NQD.size(1) / kv, d = q_NQD.size(2);
  const at::ScalarType type = q_NQD.scalar_type(),
                       wide = type == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor scaled_NQD = q_NQD * (1.0 / std::sqrt(static_cast<double>(d)));
  std::vector<Tensor> outputs;  // [tokens, Q * D] of each set
  for (const Siblings& set : sets_) {
    std::vector<Tensor> keys, values;
    if (prefix_ != nullptr) {
      keys.push_back(prefix_->keys_KPD[layer]);
      values.push_back(prefix_->values_KPD[layer]);
    }
    if (set.ancestor_rows.defined()) {
      keys.push_back(k_NKD.index_select(0, set.ancestor_rows).transpose(0, 1));
      values.push_back(v_NKD.index_select(0, set.ancestor_rows).transpose(0, 1));
    }
    const int64_t tokens = set.member_rows.size(0);
    // The query heads of one key head are further queries of it.
    const Tensor q_KMD = scaled_NQD.index_select(0, set.member_rows)
                             .view({tokens, kv, repeat, d})
                             .transpose(0, 1)
                             .reshape({kv, tokens * repeat, d});
    Tensor shared_KMS, values_KSD;
    if (!keys.empty()) {
      shared_KMS = at::bmm(q_KMD, at::cat(keys, 1).transpose(1, 2)).to(wide);
      values_KSD = at::cat(values, 1);
    }
    const int64_t s = keys.empty() ? 0 : shared_KMS.size(2);
    std::vector<Tensor> own_out, shared_probabilities;
    int64_t first = 0;
    for (const RowRange& member : set.members) {
      const int64_t l = member.count, rows = l * repeat;
      const Tensor own_keys = k_NKD.narrow(0, member.first, l).permute({1, 2, 0}),
                   own_values = v_NKD.narrow(0, member.first, l).transpose(0, 1);
      const Tensor own_KML =
          at::bmm(q_KMD.narrow(1, first, rows), own_keys)
              .to(wide)
              .view({kv, l, repeat, l})
              .masked_fill(causal_.at(l), -std::numeric_limits<double>::infinity())
              .view({kv, rows, l});
      const Tensor scores =
          s == 0 ? own_KML : at::cat({shared_KMS.narrow(1, first, rows), own_KML}, 2);
      const Tensor p = at::softmax(scores, -1).to(type);
      own_out.push_back(at::bmm(p.narrow(2, s, l), own_values));
      if (s > 0) shared_probabilities.push_back(p.narrow(2, 0, s));
      first += rows;
    }
    Tensor out_KMD = at::cat(own_out, 1);
    if (s > 0) out_KMD = out_KMD + at::bmm(at::cat(shared_probabilities, 1), values_KSD);
    outputs.push_back(
        out_KMD.view({kv, tokens, repeat, d}).transpose(0, 1).reshape({tokens, kv * repeat * d}));
  }
  const Tensor all = outputs.size() == 1 ? outputs[0] : at::cat(outputs, 0);
  return order_.defined() ? all.index_select(0, order_) : all;
}

void TreeAttention::PrepareRootKv(int64_t num_layers, std::vector<KvPrefix>* out) const {
  out->assign(roots_.size(), KvPrefix());
  for (size_t r = 0; r < roots_.size(); ++r) {
    (*out)[r].length = roots_[r].count;
    (*out)[r].keys_KPD.resize(num_layers);
    (*out)[r].values_KPD.resize(num_layers);
  }
}

void TreeAttention::KeepRootKv(int64_t layer, const Tensor& k_NKD, const Tensor& v_NKD,
                               std::vector<KvPrefix>* out) const {
  for (size_t r = 0; r < roots_.size(); ++r) {
    (*out)[r].keys_KPD[layer] =
        k_NKD.narrow(0, roots_[r].first, roots_[r].count).transpose(0, 1).contiguous();
    (*out)[r].values_KPD[layer] =
        v_NKD.narrow(0, roots_[r].first, roots_[r].count).transpose(0, 1).contiguous();
  }
}

}  // namespace wideberth::model
