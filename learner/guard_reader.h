// SPDX-License-Identifier: Apache-2.0
// Guard rows -> the tokens of the question a VERDICT scorer asks about them, cut to a length. The
// same text and tokens as scorer/scoring_model.cc makes. No torch.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"
#include "model/verdict_template.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

// Immutable once made.
class GuardReader {
 public:
  // Errors name the scorer and, for verdict tokens, the text or id at fault.
  static absl::StatusOr<GuardReader> Create(const proto::ScorerConfig& config,
                                            absl::optional<int32_t> bos, int64_t vocab);

  // The question about an exchange, whole.
  absl::StatusOr<std::vector<int32_t>> Read(const std::string& prompt,
                                            const std::string& response) const;
  // The same in at most `max_tokens`: the prompt is cut from the front, down to a quarter of the
  // tokens the template leaves, then the response from the end. `*cut` says whether it was.
  // InvalidArgument where the template alone leaves no room.
  absl::StatusOr<std::vector<int32_t>> ReadWithin(const std::string& prompt,
                                                  const std::string& response, int64_t max_tokens,
                                                  bool* cut) const;
  // What all questions begin with.
  absl::StatusOr<std::vector<int32_t>> ConstantHead() const;

  // Verdict token ids in the configuration's order, texts first; each distinct.
  const std::vector<int64_t>& positive() const { return positive_; }
  const std::vector<int64_t>& negative() const { return negative_; }

 private:
  explicit GuardReader(model::VerdictTemplate question) : question_(std::move(question)) {}
  absl::StatusOr<std::vector<int64_t>> VerdictIds(const proto::ScorerConfig& config, bool positive,
                                                  int64_t vocab) const;

  model::VerdictTemplate question_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  absl::optional<model::ChatTemplate> chat_;
  absl::optional<int32_t> bos_;
  std::vector<int64_t> positive_, negative_;
};

}  // namespace wideberth::learner
