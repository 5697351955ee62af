// SPDX-License-Identifier: Apache-2.0
// Rows of text -> tokens, and which of them an answer consists of, under the policy's tokenizer and
// chat template. Used by SFT and by preference training. No torch.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "learner/dataset.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"

namespace wideberth::learner {

struct AnsweredTokens {
  std::vector<int32_t> tokens;
  std::vector<bool> answer;   // One a token: it is trained on. Never the first one.
  int64_t prompt_tokens = 0;  // Before the first token of an answer.
  int64_t num_answer_tokens() const;
};

// Immutable once made.
class RowReader {
 public:
  // `eos`: ends a completion that is a plain text. InvalidArgument where the tokenizer has more
  // tokens than `vocab`.
  static absl::StatusOr<RowReader> Create(const std::string& model_folder, int64_t vocab,
                                          absl::optional<int32_t> eos);

  // A chat: every answer of the assistant is trained on, with what the template writes to end it.
  // InvalidArgument naming `origin`: no chat template, one that refuses the chat, a chat without an
  // answer.
  absl::StatusOr<AnsweredTokens> Chat(const std::vector<proto::ChatMessage>& messages,
                                      const std::string& origin) const;
  // A prompt with its completion, as TRL tokenises them: texts joined with the end-of-text token
  // after them; messages as one chat, of which all behind the prompt's generation prompt is
  // trained on.
  absl::StatusOr<AnsweredTokens> Completion(const TextOrChat& prompt, const TextOrChat& completion,
                                            const std::string& origin) const;

 private:
  RowReader() = default;
  absl::StatusOr<std::string> Render(const std::vector<proto::ChatMessage>& messages, size_t count,
                                     bool generation_prompt, const std::string& origin) const;

  std::unique_ptr<model::Tokenizer> tokenizer_;
  absl::optional<model::ChatTemplate> chat_;
  absl::optional<int32_t> eos_;
  std::string folder_;
};

// At most `max_tokens` (at least 2): tokens go from the front of the prompt, of which one stays;
// where the answer alone is too long, then from the end.
AnsweredTokens CutToLength(AnsweredTokens row, int64_t max_tokens);

}  // namespace wideberth::learner
