// SPDX-License-Identifier: Apache-2.0
#include "model/conversation.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace wideberth::model {

absl::StatusOr<absl::optional<ChatTemplate>> ChatTemplateOf(absl::string_view folder) {
  auto chat_template = ChatTemplate::FromFolder(folder);
  if (absl::IsNotFound(chat_template.status())) return absl::optional<ChatTemplate>();
  if (!chat_template.ok()) return chat_template.status();
  return absl::make_optional(*std::move(chat_template));
}

absl::StatusOr<std::vector<int32_t>> EncodeConversation(
    const Tokenizer& tokenizer, const absl::optional<ChatTemplate>& chat_template,
    const std::vector<Message>& messages) {
  if (chat_template) {
    WB_ASSIGN_OR_RETURN(const std::string text,
                        chat_template->Render(messages, /*add_generation_prompt=*/true));
    return tokenizer.Encode(text);
  }
  std::string text;
  for (const Message& message : messages)
    absl::StrAppend(&text, text.empty() ? "" : "\n", message.content);
  return tokenizer.Encode(text, /*add_special_tokens=*/true);
}

}  // namespace wideberth::model
