// SPDX-License-Identifier: Apache-2.0
#include "learner/guard_reader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "base/status.h"
#include "model/shared_prefixes.h"

namespace wideberth::learner {
namespace {

std::string Who(const proto::ScorerConfig& config) {
  return absl::StrCat("scorer \"", config.name(), "\"");
}

}  // namespace

absl::StatusOr<GuardReader> GuardReader::Create(const proto::ScorerConfig& config,
                                                absl::optional<int32_t> bos, int64_t vocab) {
  WB_ASSIGN_OR_RETURN(model::VerdictTemplate question, model::VerdictTemplate::From(config));
  GuardReader reader(std::move(question));
  reader.bos_ = bos;
  absl::StatusOr<std::unique_ptr<model::Tokenizer>> tokenizer =
      model::Tokenizer::FromFolder(config.model().path());
  WB_RETURN_IF_ERROR(Annotate(tokenizer.status(), Who(config)));
  reader.tokenizer_ = *std::move(tokenizer);
  if (config.chat()) {
    absl::StatusOr<model::ChatTemplate> chat =
        model::ChatTemplate::FromFolder(config.model().path());
    WB_RETURN_IF_ERROR(Annotate(chat.status(), Who(config)));
    reader.chat_ = *std::move(chat);
  }
  WB_ASSIGN_OR_RETURN(reader.positive_, reader.VerdictIds(config, /*positive=*/true, vocab));
  WB_ASSIGN_OR_RETURN(reader.negative_, reader.VerdictIds(config, /*positive=*/false, vocab));
  for (const int64_t id : reader.positive_) {
    if (std::find(reader.negative_.begin(), reader.negative_.end(), id) != reader.negative_.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(Who(config), ": verdict token id ", id, " is positive and negative"));
    }
  }
  return reader;
}

absl::StatusOr<std::vector<int64_t>> GuardReader::VerdictIds(const proto::ScorerConfig& config,
                                                             bool positive, int64_t vocab) const {
  const model::VerdictTokens texts = model::VerdictTokensOf(config);
  std::vector<int64_t> ids;
  const auto add = [&](int64_t id) {
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  };
  for (const std::string& text : positive ? texts.positive : texts.negative) {
    const std::vector<int32_t> tokens = tokenizer_->Encode(text);
    if (tokens.size() != 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          Who(config), ": verdict text \"", text, "\" is ", tokens.size(), " tokens of ",
          config.model().path(), " (", absl::StrJoin(tokens, ", "), "), must be exactly one"));
    }
    add(tokens[0]);
  }
  for (const int32_t id : positive ? config.positive_id() : config.negative_id()) add(id);
  for (const int64_t id : ids) {
    if (id < vocab) continue;
    return absl::InvalidArgumentError(absl::StrCat(Who(config), ": verdict token id ", id,
                                                   " is beyond the vocabulary of ", vocab,
                                                   " tokens of ", config.model().path()));
  }
  return ids;
}

absl::StatusOr<std::vector<int32_t>> GuardReader::Read(const std::string& prompt,
                                                       const std::string& response) const {
  proto::ScoreItem item;
  proto::ChatMessage* const message = item.add_prompt();
  message->set_role("user");
  message->set_content(prompt);
  item.set_completion(response);
  std::string text = question_.Render(item);
  bool add_special_tokens = true;
  if (chat_.has_value()) {
    add_special_tokens = false;
    const std::vector<model::Message> messages = {{"user", std::move(text)}};
    WB_ASSIGN_OR_RETURN(text, chat_->Render(messages, /*add_generation_prompt=*/true));
  }
  std::vector<int32_t> tokens = tokenizer_->Encode(text, add_special_tokens);
  if (bos_ && tokens.size() >= 2 && tokens[0] == *bos_ && tokens[1] == *bos_)
    tokens.erase(tokens.begin());
  return tokens;
}

absl::StatusOr<std::vector<int32_t>> GuardReader::ReadWithin(const std::string& prompt,
                                                             const std::string& response,
                                                             int64_t max_tokens, bool* cut) const {
  *cut = false;
  WB_ASSIGN_OR_RETURN(std::vector<int32_t> whole, Read(prompt, response));
  if (static_cast<int64_t>(whole.size()) <= max_tokens) return whole;
  *cut = true;
  WB_ASSIGN_OR_RETURN(const std::vector<int32_t> alone, Read("", ""));
  const std::vector<int32_t> asked = tokenizer_->Encode(prompt);
  const std::vector<int32_t> answered = tokenizer_->Encode(response);
  const auto num_asked = static_cast<int64_t>(asked.size());
  const auto num_answered = static_cast<int64_t>(answered.size());
  // Texts that are joined may give another token or two than their parts.
  for (int64_t room = max_tokens - static_cast<int64_t>(alone.size()); room >= 4; --room) {
    const int64_t of_prompt = std::min(num_asked, std::max(room / 4, room - num_answered));
    const int64_t of_response = std::min(num_answered, room - of_prompt);
    const absl::Span<const int32_t> last_asked =
        absl::MakeConstSpan(asked).subspan(num_asked - of_prompt);
    const absl::Span<const int32_t> first_answered =
        absl::MakeConstSpan(answered).first(of_response);
    WB_ASSIGN_OR_RETURN(std::vector<int32_t> tokens,
                        Read(tokenizer_->Decode(last_asked, /*skip_special_tokens=*/false),
                             tokenizer_->Decode(first_answered, /*skip_special_tokens=*/false)));
    if (static_cast<int64_t>(tokens.size()) <= max_tokens) return tokens;
  }
  return absl::InvalidArgumentError(absl::StrCat("data.max_tokens is ", max_tokens,
                                                 ", must leave room beside the ", alone.size(),
                                                 " tokens of the verdict template"));
}

// Found by trying conversations that begin in different ways, so that a token across the border
// between template and prompt does not count.
absl::StatusOr<std::vector<int32_t>> GuardReader::ConstantHead() const {
  std::vector<int32_t> head;
  bool first = true;
  for (const char* probe : {"a", "Z", "7", "\xC3\xA9", "(", "\n\nb", " c", "\xE6\x97\xA5"}) {
    WB_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, Read(probe, probe));
    if (!first) tokens.resize(model::CommonPrefix(tokens, head));
    head = std::move(tokens);
    first = false;
  }
  return head;
}

}  // namespace wideberth::learner
