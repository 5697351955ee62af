// SPDX-License-Identifier: Apache-2.0
// Attention of packed siblings over the keys they share and their own, on a CPU: tiles of queries,
// scores of one tile at a time, nothing copied or padded but the tile's queries. Used by
// TreeAttention.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace wideberth::model {

// Rows of the packed tensors that belong together.
struct RowRange {
  int64_t first = 0, count = 0;
};

// Queries that are multiplied with the shared keys together.
struct QueryTile {
  // Part of one node: tokens `offset`, ... of the node whose rows begin at `node_row`. Each sees
  // the node's tokens up to itself.
  struct Piece {
    int64_t node_row = 0, offset = 0, count = 0;
  };
  std::vector<Piece> pieces;
  const std::vector<RowRange>* ancestors = nullptr;  // What all of them see, beside the prefix.
  int64_t num_ancestor_rows = 0;
};

struct AttentionPlan {
  std::vector<std::vector<RowRange>> ancestors;  // Referred to by the tiles.
  std::vector<QueryTile> tiles;
};

// q [N, Q, D], k and v [N, K, D], one dtype of float32 and float64; prefix keys and values [K, P,
// D] constant, undefined where there is none. Returns [N, Q * D], differentiable in q, k and v; the
// scores are computed again in the backward pass. `plan` is kept until the graph goes.
at::Tensor AttendOnCpu(std::shared_ptr<const AttentionPlan> plan, const at::Tensor& q_NQD,
                       const at::Tensor& k_NKD, const at::Tensor& v_NKD,
                       const at::Tensor& prefix_keys_KPD, const at::Tensor& prefix_values_KPD);

}  // namespace wideberth::model
