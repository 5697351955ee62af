// SPDX-License-Identifier: Apache-2.0
// Conversation -> tokens: a verdict's or a generative guard's question, or the conversation itself
// for a reward model. No torch here.
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
#include "proto/wire.pb.h"

namespace wideberth::scorer {

class ConversationReader {
 public:
  // Loads tokenizer and, where it is used, chat template of the model's folder. Errors name the
  // scorer and file, found and expected.
  static absl::StatusOr<ConversationReader> Create(const proto::ScorerConfig& config);

  // `bos` where the model has one: at most one stands at the beginning.
  absl::StatusOr<std::vector<int32_t>> Read(const proto::ScoreItem& item,
                                            absl::optional<int32_t> bos) const;

  // The tokens that every conversation begins with.
  absl::StatusOr<std::vector<int32_t>> ConstantHead(absl::optional<int32_t> bos) const;

  // Of everything that turns a conversation into tokens.
  std::string Description() const;
  const model::Tokenizer& tokenizer() const { return *tokenizer_; }
  const absl::optional<model::ChatTemplate>& chat() const { return chat_; }

 private:
  ConversationReader() = default;

  std::unique_ptr<model::Tokenizer> tokenizer_;
  absl::optional<model::VerdictTemplate> question_;
  absl::optional<model::ChatTemplate> chat_;
};

}  // namespace wideberth::scorer
