// SPDX-License-Identifier: Apache-2.0
// Preference pairs as tokens, and how they are packed: the two answers of a pair hang below its
// prompt, which so passes the layers once. What DPO and reward models train on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "learner/row_tokens.h"
#include "learner/supervised.h"
#include "model/causal_lm.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

struct PreferencePair {
  std::vector<int32_t> prompt;            // Not empty; both answers follow it.
  std::vector<int32_t> chosen, rejected;  // Not empty.
  double weight = 1;                      // Of DPO's sigmoid term.
  double margin = 0;                      // By which a reward model should tell them apart.
};

struct PreferenceData {
  std::vector<PreferencePair> train, validation;
  const std::vector<PreferencePair>& rows(Split split) const {
    return split == Split::kTrain ? train : validation;
  }
};

// Splits two tokenised answers to one prompt into what they share and what they do not. Where they
// differ within the prompt (tokens that merge with the answer), the prompt ends there. A pair of
// which one is longer than `max_tokens` loses the front of its prompt, of which one token stays,
// and where that does not do, the ends of its answers.
PreferencePair MakePair(const AnsweredTokens& chosen, const AnsweredTokens& rejected,
                        int64_t max_tokens);

// Reads and tokenises config.data with the policy's tokenizer and chat template. Errors name
// file:line.
absl::StatusOr<PreferenceData> ReadPreferenceData(const proto::RunConfig& config,
                                                  const model::CausalLm& model);

// Passes over the log-probs of all tokens of the answers; `lengths` are those of the chosen and the
// rejected answer of every member in turn. One pair is never split.
std::vector<Pass> PackForLogProbs(const std::vector<PreferencePair>& pairs,
                                  absl::Span<const int64_t> rows, int64_t max_tokens);

// Passes over the last tokens: `rows` has two entries a member, chosen and rejected, `targets` and
// `lengths` are empty.
std::vector<Pass> PackForScores(const std::vector<PreferencePair>& pairs,
                                absl::Span<const int64_t> rows, int64_t max_tokens);

}  // namespace wideberth::learner
