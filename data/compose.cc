// SPDX-License-Identifier: Apache-2.0
#include "data/compose.h"

#include <algorithm>
#include <numeric>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace wideberth::data {

bool HasPlaceholder(absl::string_view text, const std::vector<std::string>& placeholders) {
  return std::any_of(placeholders.begin(), placeholders.end(), [&](const std::string& placeholder) {
    return absl::StrContains(text, placeholder);
  });
}

std::string PutInto(absl::string_view text, const std::vector<std::string>& placeholders,
                    absl::string_view request) {
  if (!HasPlaceholder(text, placeholders)) return absl::StrCat(text, "\n\n", request);
  std::vector<std::pair<absl::string_view, absl::string_view>> replacements;
  for (const std::string& placeholder : placeholders)
    replacements.push_back({placeholder, request});
  return absl::StrReplaceAll(text, replacements);
}

std::pair<int64_t, int64_t> BalancedPair(int64_t index, int64_t n, int64_t m) {
  // Walking both circles at once meets every pair once only where n and m have no common divisor;
  // else the walk closes after their least common multiple, and the next lap starts one further on.
  return {index % n, (index + index / std::lcm(n, m)) % m};
}

Filler::Filler(std::vector<std::string> paragraphs, TokenCounter count_tokens)
    : paragraphs_(std::move(paragraphs)), count_tokens_(std::move(count_tokens)) {
  for (const std::string& paragraph : paragraphs_) {
    tokens_.push_back(count_tokens_(absl::StrCat(paragraph, "\n\n")));
    num_tokens_ += tokens_.back();
  }
}

absl::StatusOr<std::string> Filler::Surround(const std::string& request, int64_t num_tokens,
                                             uint64_t draw) const {
  int64_t left = num_tokens - count_tokens_(absl::StrCat(request, "\n\n"));
  if (num_tokens_ < left) {
    return absl::InvalidArgumentError(
        absl::StrCat("the filler has ", num_tokens_, " tokens, expected at least ", left));
  }
  std::vector<std::string> parts;
  for (size_t i = 0, start = draw % paragraphs_.size(); i < paragraphs_.size(); ++i) {
    const size_t which = (start + i) % paragraphs_.size();
    if (tokens_[which] > left) continue;
    left -= tokens_[which];
    parts.push_back(paragraphs_[which]);
  }
  const size_t place = (draw >> 32) % (parts.size() + 1);
  parts.insert(parts.begin() + place, request);
  std::string whole = absl::StrJoin(parts, "\n\n");
  // Tokens of the whole may be a few more than those of its parts.
  while (parts.size() > 1 && count_tokens_(whole) > num_tokens) {
    parts.erase(parts.back() == request ? parts.begin() : parts.end() - 1);
    whole = absl::StrJoin(parts, "\n\n");
  }
  return whole;
}

}  // namespace wideberth::data
