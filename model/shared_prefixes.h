// SPDX-License-Identifier: Apache-2.0
// A scorer's batch as a token tree: sequences that begin alike (the answers of one group, say)
// share the computation of that beginning. Torch-free; its tree goes to CausalLm::Hidden.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "model/token_tree.h"

namespace wideberth::model {

struct SharedTree {
  TokenTree tree;
  std::vector<int64_t> last_row;  // Of each sequence, in the order given.
};

// Beginnings shared by at least two sequences become a node where they are at least `min_shared`
// tokens longer than what is shared already; each node costs a little, so that a shared word is not
// worth one. Equal sequences share everything. No sequence is empty.
SharedTree ShareBeginnings(const std::vector<absl::Span<const int32_t>>& sequences,
                           int64_t min_shared);

// Length of the longest common beginning.
int64_t CommonPrefix(absl::Span<const int32_t> left, absl::Span<const int32_t> right);

}  // namespace wideberth::model
