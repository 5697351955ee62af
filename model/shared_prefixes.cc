// SPDX-License-Identifier: Apache-2.0
// Sorted, sequences with a common beginning are neighbours; the tree follows from the common
// lengths of neighbours.
#include "model/shared_prefixes.h"

#include <algorithm>
#include <numeric>

#include "base/status.h"

namespace wideberth::model {
namespace {

class Builder {
 public:
  Builder(const std::vector<absl::Span<const int32_t>>& sequences, int64_t min_shared)
      : sequences_(sequences), min_shared_(min_shared) {
    order_.resize(sequences.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(),
                     [&](size_t left, size_t right) { return sequences[left] < sequences[right]; });
    result_.last_row.resize(sequences.size());
    common_.resize(sequences.size(), 0);
    for (size_t i = 1; i < order_.size(); ++i)
      common_[i] = CommonPrefix(Sequence(i - 1), Sequence(i));
  }

  SharedTree Build() {
    AddRange(0, order_.size(), 0, -1);
    return std::move(result_);
  }

 private:
  absl::Span<const int32_t> Sequence(size_t i) const { return sequences_[order_[i]]; }
  int64_t Length(size_t i) const { return static_cast<int64_t>(Sequence(i).size()); }

  // Whether sorted sequence i belongs into one node with its predecessor, `depth` tokens being
  // shared already.
  bool JoinsPrevious(size_t i, int64_t depth) const {
    return common_[i] - depth >= min_shared_ ||
           (common_[i] == Length(i) && common_[i] == Length(i - 1));
  }

  // Nodes below `parent` for the sorted sequences [first, last), all longer than `depth`.
  void AddRange(size_t first, size_t last, int64_t depth, int parent) {
    while (first < last) {
      size_t end = first + 1;
      int64_t shared = Length(first);
      while (end < last && JoinsPrevious(end, depth)) {
        shared = std::min(shared, common_[end]);
        ++end;
      }
      AddRun(first, end, shared, depth, parent);
      first = end;
    }
  }

  // One node for what all of [first, last) share; those that end there are done, the others go on
  // below it.
  void AddRun(size_t first, size_t last, int64_t shared, int64_t depth, int parent) {
    const absl::Span<const int32_t> tokens = Sequence(first).subspan(depth, shared - depth);
    const int node = result_.tree.Add(std::vector<int32_t>(tokens.begin(), tokens.end()), parent);
    while (first < last && Length(first) == shared)
      result_.last_row[order_[first++]] = result_.tree.LastRow(node);
    AddRange(first, last, shared, node);
  }

  const std::vector<absl::Span<const int32_t>>& sequences_;
  const int64_t min_shared_;
  std::vector<size_t> order_;
  std::vector<int64_t> common_;  // Of sorted sequences i - 1 and i.
  SharedTree result_;
};

}  // namespace

int64_t CommonPrefix(absl::Span<const int32_t> left, absl::Span<const int32_t> right) {
  const size_t shorter = std::min(left.size(), right.size());
  return std::mismatch(left.begin(), left.begin() + shorter, right.begin()).first - left.begin();
}

SharedTree ShareBeginnings(const std::vector<absl::Span<const int32_t>>& sequences,
                           int64_t min_shared) {
  for (absl::Span<const int32_t> sequence : sequences)
    WB_CHECK(!sequence.empty(), "a sequence to score has tokens");
  return Builder(sequences, std::max<int64_t>(min_shared, 1)).Build();
}

}  // namespace wideberth::model
