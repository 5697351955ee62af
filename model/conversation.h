// SPDX-License-Identifier: Apache-2.0
// Prompts -> token ids, as actors sample from them and the learner expects them.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"

namespace wideberth::model {

// A conversation as token ids: the model's chat template with the generation prompt, or, for a
// model that has none, the contents as plain text with whatever the tokenizer puts around one
// sequence. Thread-safe.
absl::StatusOr<std::vector<int32_t>> EncodeConversation(
    const Tokenizer& tokenizer, const absl::optional<ChatTemplate>& chat_template,
    const std::vector<Message>& messages);

// The folder's template; nullopt where it has none. Other errors are the template's.
absl::StatusOr<absl::optional<ChatTemplate>> ChatTemplateOf(absl::string_view folder);

}  // namespace wideberth::model
