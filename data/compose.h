// SPDX-License-Identifier: Apache-2.0
// Requests inside other text: jailbreak templates and long contexts, both of which are data. Used
// by the mix.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace wideberth::data {

using TokenCounter = std::function<int64_t(absl::string_view)>;

bool HasPlaceholder(absl::string_view text, const std::vector<std::string>& placeholders);

// `text` with every occurrence of a placeholder as the request; without one the request stands
// after it, behind an empty line. The request itself is never searched for placeholders.
std::string PutInto(absl::string_view text, const std::vector<std::string>& placeholders,
                    absl::string_view request);

// The `index`-th of the pairs of one of `n` and one of `m`, index in 0 .. n m - 1: no pair comes
// twice, and after any number of them all of the n were used equally often (but for one use), and
// all of the m.
std::pair<int64_t, int64_t> BalancedPair(int64_t index, int64_t n, int64_t m);

// Immutable after creation.
class Filler {
 public:
  Filler(std::vector<std::string> paragraphs, TokenCounter count_tokens);

  // `request`, unchanged and on paragraphs of its own, among paragraphs that follow each other from
  // a place drawn by `draw`, those left out that no longer fit; at most `num_tokens` in all, which
  // leave room for the request. InvalidArgument where all the paragraphs together are too short to
  // fill it.
  absl::StatusOr<std::string> Surround(const std::string& request, int64_t num_tokens,
                                       uint64_t draw) const;

  int64_t num_tokens() const { return num_tokens_; }

 private:
  const std::vector<std::string> paragraphs_;
  const TokenCounter count_tokens_;
  std::vector<int64_t> tokens_;  // Of each paragraph, with the empty line after it.
  int64_t num_tokens_ = 0;
};

}  // namespace wideberth::data
