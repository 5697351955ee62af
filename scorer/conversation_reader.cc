// SPDX-License-Identifier: Apache-2.0
#include "scorer/conversation_reader.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/shared_prefixes.h"

namespace wideberth::scorer {

absl::StatusOr<ConversationReader> ConversationReader::Create(const proto::ScorerConfig& config) {
  ConversationReader reader;
  const std::string& folder = config.model().path();
  const std::string who = absl::StrCat("scorer \"", config.name(), "\"");
  auto tokenizer = model::Tokenizer::FromFolder(folder);
  WB_RETURN_IF_ERROR(Annotate(tokenizer.status(), who));
  reader.tokenizer_ = *std::move(tokenizer);
  if (config.kind() != proto::ScorerConfig::REWARD) {
    WB_ASSIGN_OR_RETURN(reader.question_, model::VerdictTemplate::From(config));
  }
  if (config.kind() == proto::ScorerConfig::REWARD || config.kind() == proto::ScorerConfig::JUDGE ||
      config.chat()) {
    auto chat = model::ChatTemplate::FromFolder(folder);
    WB_RETURN_IF_ERROR(Annotate(chat.status(), who));
    reader.chat_ = *std::move(chat);
  }
  return reader;
}

absl::StatusOr<std::vector<int32_t>> ConversationReader::Read(const proto::ScoreItem& item,
                                                              absl::optional<int32_t> bos) const {
  std::vector<model::Message> messages;
  bool add_special_tokens = true;
  std::string text;
  if (question_) {
    text = question_->Render(item);
    if (chat_) {
      add_special_tokens = false;  // The chat template writes the BOS where the model wants one.
      messages.push_back({"user", std::move(text)});
      WB_ASSIGN_OR_RETURN(text, chat_->Render(messages, /*add_generation_prompt=*/true));
    }
  } else {
    for (const proto::ChatMessage& message : item.prompt())
      messages.push_back({message.role(), message.content()});
    messages.push_back({"assistant", item.completion()});
    WB_ASSIGN_OR_RETURN(text, chat_->Render(messages, /*add_generation_prompt=*/false));
  }
  std::vector<int32_t> tokens = tokenizer_->Encode(text, add_special_tokens);
  // Both the chat template and the tokenizer's post-processor may bring one.
  if (bos && tokens.size() >= 2 && tokens[0] == *bos && tokens[1] == *bos)
    tokens.erase(tokens.begin());
  return tokens;
}

// Found by trying: conversations that begin in different ways are tokenised whole, so that a token
// that spans the border between template and prompt is never counted as constant.
absl::StatusOr<std::vector<int32_t>> ConversationReader::ConstantHead(
    absl::optional<int32_t> bos) const {
  std::vector<int32_t> head;
  bool first = true;
  for (const char* probe : {"a", "Z", "7", "\xC3\xA9", "(", "\n\nb", " c", "\xE6\x97\xA5"}) {
    proto::ScoreItem item;
    proto::ChatMessage* message = item.add_prompt();
    message->set_role("user");
    message->set_content(probe);
    item.set_completion(probe);
    WB_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, Read(item, bos));
    if (!first) tokens.resize(model::CommonPrefix(tokens, head));
    head = std::move(tokens);
    first = false;
  }
  return head;
}

std::string ConversationReader::Description() const {
  return absl::StrCat(question_ ? question_->text() : "", "\n", chat_ ? chat_->fingerprint() : "",
                      "\n", tokenizer_->fingerprint());
}

}  // namespace wideberth::scorer
