// SPDX-License-Identifier: Apache-2.0
#include "learner/row_tokens.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace wideberth::learner {
namespace {

absl::Status Bad(const std::string& origin, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(origin, ": ", what));
}

AnsweredTokens AllBehind(std::vector<int32_t> tokens, size_t num_prompt) {
  AnsweredTokens row;
  row.answer.assign(tokens.size(), false);
  // Nothing predicts the first token.
  const size_t first = std::max<size_t>(1, std::min(num_prompt, tokens.size()));
  std::fill(row.answer.begin() + static_cast<int64_t>(std::min(first, tokens.size())),
            row.answer.end(), true);
  row.prompt_tokens = static_cast<int64_t>(first);
  row.tokens = std::move(tokens);
  return row;
}

}  // namespace

int64_t AnsweredTokens::num_answer_tokens() const {
  return std::count(answer.begin(), answer.end(), true);
}

absl::StatusOr<RowReader> RowReader::Create(const std::string& model_folder, int64_t vocab,
                                            absl::optional<int32_t> eos) {
  RowReader reader;
  reader.folder_ = model_folder;
  reader.eos_ = eos;
  WB_ASSIGN_OR_RETURN(reader.tokenizer_, model::Tokenizer::FromFolder(model_folder));
  if (reader.tokenizer_->vocab_size() > vocab) {
    return absl::InvalidArgumentError(absl::StrCat(
        model_folder, ": tokenizer.json has ", reader.tokenizer_->vocab_size(),
        " tokens, the model's embedding ", vocab, " rows; they belong to different models"));
  }
  absl::StatusOr<model::ChatTemplate> chat = model::ChatTemplate::FromFolder(model_folder);
  if (!chat.ok() && !absl::IsNotFound(chat.status())) return chat.status();
  if (chat.ok()) reader.chat_ = *std::move(chat);
  return reader;
}

absl::StatusOr<std::string> RowReader::Render(const std::vector<proto::ChatMessage>& messages,
                                              size_t count, bool generation_prompt,
                                              const std::string& origin) const {
  if (!chat_.has_value()) {
    return Bad(origin, absl::StrCat("is a chat, but ", folder_,
                                    " has no chat template; expected \"prompt\" and "
                                    "\"completion\" as texts"));
  }
  std::vector<model::Message> shown;
  for (size_t i = 0; i < count; ++i) shown.push_back({messages[i].role(), messages[i].content()});
  absl::StatusOr<std::string> text = chat_->Render(shown, generation_prompt);
  if (!text.ok()) return Annotate(text.status(), origin);
  return text;
}

absl::StatusOr<AnsweredTokens> RowReader::Chat(const std::vector<proto::ChatMessage>& messages,
                                               const std::string& origin) const {
  WB_ASSIGN_OR_RETURN(const std::string whole,
                      Render(messages, messages.size(), /*generation_prompt=*/false, origin));
  AnsweredTokens row;
  row.tokens = tokenizer_->Encode(whole);
  row.answer.assign(row.tokens.size(), false);
  for (size_t i = 1; i < messages.size(); ++i) {
    if (messages[i].role() != "assistant") continue;
    WB_ASSIGN_OR_RETURN(const std::string before,
                        Render(messages, i, /*generation_prompt=*/true, origin));
    WB_ASSIGN_OR_RETURN(const std::string with,
                        Render(messages, i + 1, /*generation_prompt=*/false, origin));
    if (!absl::StartsWith(whole, with) || !absl::StartsWith(with, before)) {
      return Bad(origin, absl::StrCat("the chat template writes messages[", i,
                                      "] differently when more messages follow, so its tokens "
                                      "cannot be told from the others"));
    }
    const size_t begin = std::max<size_t>(1, tokenizer_->Encode(before).size());
    const size_t end = std::min(row.tokens.size(), tokenizer_->Encode(with).size());
    for (size_t t = begin; t < end; ++t) row.answer[t] = true;
  }
  const auto first = std::find(row.answer.begin(), row.answer.end(), true);
  if (first == row.answer.end()) return Bad(origin, "has no token of an answer");
  row.prompt_tokens = first - row.answer.begin();
  return row;
}

absl::StatusOr<AnsweredTokens> RowReader::Completion(const TextOrChat& prompt,
                                                     const TextOrChat& completion,
                                                     const std::string& origin) const {
  std::vector<int32_t> before, whole;
  if (prompt.is_chat()) {
    std::vector<proto::ChatMessage> messages = prompt.messages;
    messages.insert(messages.end(), completion.messages.begin(), completion.messages.end());
    WB_ASSIGN_OR_RETURN(const std::string asked, Render(messages, prompt.messages.size(),
                                                        /*generation_prompt=*/true, origin));
    WB_ASSIGN_OR_RETURN(const std::string answered,
                        Render(messages, messages.size(), /*generation_prompt=*/false, origin));
    before = tokenizer_->Encode(asked);
    whole = tokenizer_->Encode(answered);
  } else {
    before = tokenizer_->Encode(prompt.text, /*add_special_tokens=*/true);
    whole = tokenizer_->Encode(absl::StrCat(prompt.text, completion.text),
                               /*add_special_tokens=*/true);
    if (eos_.has_value() && (whole.empty() || whole.back() != *eos_)) whole.push_back(*eos_);
  }
  if (whole.size() <= std::max<size_t>(1, before.size()))
    return Bad(origin, "has no token behind its prompt, expected an answer");
  return AllBehind(std::move(whole), before.size());
}

AnsweredTokens CutToLength(AnsweredTokens row, int64_t max_tokens) {
  const auto size = static_cast<int64_t>(row.tokens.size());
  const int64_t front = std::min(std::max<int64_t>(0, size - max_tokens), row.prompt_tokens - 1);
  row.tokens.erase(row.tokens.begin(), row.tokens.begin() + front);
  row.answer.erase(row.answer.begin(), row.answer.begin() + front);
  row.prompt_tokens -= front;
  if (static_cast<int64_t>(row.tokens.size()) > max_tokens) {
    row.tokens.resize(max_tokens);
    row.answer.resize(max_tokens);
  }
  return row;
}

}  // namespace wideberth::learner
