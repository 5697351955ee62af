// SPDX-License-Identifier: Apache-2.0
#include "learner/prompts.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/excerpt.h"
#include "base/file.h"
#include "base/redact.h"
#include "base/status.h"

namespace wideberth::learner {
namespace {

using nlohmann::json;

// SplitMix64's finaliser: a bijection whose output bits all depend on all input bits.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

absl::Status Bad(absl::string_view origin, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(origin, ": ", what));
}

absl::Status ParseMessages(const json& messages, absl::string_view origin, proto::Prompt* prompt) {
  if (!messages.is_array() || messages.empty()) {
    return Bad(origin, "\"messages\" must be a list of at least one {\"role\", \"content\"}");
  }
  for (const json& message : messages) {
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string() ||
        !message.contains("content") || !message["content"].is_string()) {
      return Bad(origin,
                 absl::StrCat("message ", prompt->message_size(),
                              " of \"messages\" must have the texts \"role\" and \"content\""));
    }
    const std::string role = message["role"];
    if (role != "system" && role != "user" && role != "assistant") {
      return Bad(origin,
                 absl::StrCat("role is ", Excerpt(role), ", must be system, user or assistant"));
    }
    proto::ChatMessage* added = prompt->add_message();
    added->set_role(role);
    added->set_content(message["content"].get<std::string>());
  }
  if (prompt->message(prompt->message_size() - 1).role() != "user") {
    return Bad(origin, "the last of \"messages\" must be the user's, it is what gets answered");
  }
  return absl::OkStatus();
}

absl::StatusOr<proto::Prompt> ParseLine(const std::string& line, absl::string_view origin) {
  const json object = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object())
    return Bad(origin,
               "not a JSON object, expected {\"prompt\": \"...\"} or {\"messages\": [...]}");
  proto::Prompt prompt;
  for (const auto& [key, value] : object.items()) {
    if (key == "prompt") {
      if (!value.is_string()) return Bad(origin, "\"prompt\" must be a text");
    } else if (key == "id") {
      if (!value.is_string() && !value.is_number_integer())
        return Bad(origin, "\"id\" must be a text or a whole number");
      prompt.set_id(value.is_string() ? value.get<std::string>() : value.dump());
    } else if (key == "unsafe") {
      if (!value.is_boolean()) return Bad(origin, "\"unsafe\" must be true or false");
      prompt.set_unsafe(value.get<bool>());
    } else if (key == "category" || key == "source") {
      if (!value.is_string()) return Bad(origin, absl::StrCat("\"", key, "\" must be a text"));
      (key == "category" ? *prompt.mutable_category() : *prompt.mutable_source()) =
          value.get<std::string>();
    } else if (key != "messages") {
      return Bad(origin,
                 absl::StrCat("unknown field \"", key,
                              "\", expected prompt, messages, id, unsafe, category or source"));
    }
  }
  if (object.contains("prompt") == object.contains("messages")) {
    return Bad(origin, "needs either \"prompt\" or \"messages\"");
  }
  if (object.contains("messages")) {
    WB_RETURN_IF_ERROR(ParseMessages(object["messages"], origin, &prompt));
  } else {
    proto::ChatMessage* user = prompt.add_message();
    user->set_role("user");
    user->set_content(object["prompt"].get<std::string>());
    if (user->content().empty()) return Bad(origin, "\"prompt\" is empty");
  }
  return prompt;
}

void AddSystemMessage(const std::string& system, proto::Prompt* prompt) {
  if (prompt->message(0).role() == "system") return;
  proto::Prompt with_system = *prompt;
  with_system.clear_message();
  proto::ChatMessage* first = with_system.add_message();
  first->set_role("system");
  first->set_content(system);
  with_system.mutable_message()->MergeFrom(prompt->message());
  *prompt = std::move(with_system);
}

}  // namespace

std::string LastUserText(const proto::Prompt& prompt) {
  for (int i = prompt.message_size() - 1; i >= 0; --i) {
    if (prompt.message(i).role() == "user") return prompt.message(i).content();
  }
  return prompt.message_size() > 0 ? prompt.message(prompt.message_size() - 1).content() : "";
}

std::string ShownText(const proto::Prompt& prompt, bool redact) {
  return redact ? Redacted(LastUserText(prompt)) : LastUserText(prompt);
}

std::vector<int64_t> ShuffledOrder(int64_t n, uint64_t seed, uint64_t epoch) {
  const uint64_t key = Mix(Mix(seed) ^ epoch);
  std::vector<std::pair<uint64_t, int64_t>> keyed(n);
  for (int64_t i = 0; i < n; ++i) keyed[i] = {Mix(key ^ Mix(static_cast<uint64_t>(i))), i};
  std::sort(keyed.begin(), keyed.end());
  std::vector<int64_t> order(n);
  for (int64_t i = 0; i < n; ++i) order[i] = keyed[i].second;
  return order;
}

absl::StatusOr<PromptSet> PromptSet::Load(const proto::PromptsConfig& config, uint64_t seed,
                                          bool evaluate) {
  PromptSet set;
  set.shuffle_ = config.shuffle();
  set.seed_ = seed;
  std::map<std::string, std::string> origin_of_id;
  for (const std::string& path : config.path()) {
    WB_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
    int line_number = 0;
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      ++line_number;
      if (absl::StripAsciiWhitespace(line).empty()) continue;
      PromptRecord record;
      record.origin = absl::StrCat(path, ":", line_number);
      WB_ASSIGN_OR_RETURN(record.prompt, ParseLine(std::string(line), record.origin));
      if (!record.prompt.has_id()) record.prompt.set_id(record.origin);
      if (config.has_system()) AddSystemMessage(config.system(), &record.prompt);
      const auto [it, inserted] = origin_of_id.emplace(record.prompt.id(), record.origin);
      if (!inserted)
        return Bad(record.origin,
                   absl::StrCat("id \"", it->first, "\" is already used at ", it->second));
      set.records_.push_back(std::move(record));
    }
  }
  const int64_t n = static_cast<int64_t>(set.records_.size());
  if (evaluate && config.num_held_out() == 0) {
    if (n == 0)
      return absl::InvalidArgumentError("prompts.path: there is no prompt in the file(s)");
    set.held_out_.resize(n);
    std::iota(set.held_out_.begin(), set.held_out_.end(), 0);
    return set;
  }
  if (n <= config.num_held_out()) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompts.num_held_out is ", config.num_held_out(), ", must be less than the ",
                     n, " prompts of prompts.path, so that some are left to train on"));
  }
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  if (set.shuffle_) order = ShuffledOrder(n, seed, 0);
  set.held_out_.assign(order.end() - config.num_held_out(), order.end());
  set.train_.assign(order.begin(), order.end() - config.num_held_out());
  std::sort(set.train_.begin(), set.train_.end());
  return set;
}

const PromptRecord& PromptSet::Train(uint64_t group) const {
  const uint64_t n = train_.size();
  const uint64_t place = group % n;
  if (!shuffle_) return records_[train_[place]];
  // Sorting an epoch's keys again for every group costs microseconds per thousand prompts and keeps
  // the set free of state.
  return records_[train_[ShuffledOrder(static_cast<int64_t>(n), seed_, group / n)[place]]];
}

absl::Status PromptSet::CheckLabels() const {
  for (const PromptRecord& record : records_) {
    if (!record.prompt.has_unsafe())
      return Bad(record.origin,
                 "has no \"unsafe\" label, which reward.form PROMPT_AWARE needs on every prompt");
  }
  return absl::OkStatus();
}

absl::Status PromptSet::CheckLengths(
    const std::function<absl::StatusOr<int64_t>(const proto::Prompt&)>& count_tokens,
    int64_t max_new_tokens, int64_t context) const {
  const int64_t limit = context - max_new_tokens;
  const PromptRecord* first = nullptr;
  int64_t first_tokens = 0;
  int64_t num_too_long = 0;
  for (const PromptRecord& record : records_) {
    absl::StatusOr<int64_t> tokens = count_tokens(record.prompt);
    if (!tokens.ok()) return Annotate(tokens.status(), record.origin);
    if (*tokens <= limit) continue;
    if (first == nullptr) {
      first = &record;
      first_tokens = *tokens;
    }
    ++num_too_long;
  }
  if (first == nullptr) return absl::OkStatus();
  return Bad(first->origin,
             absl::StrCat(
                 "prompt has ", first_tokens, " tokens, must have at most ", limit, " (context ",
                 context, " less generation.max_new_tokens ", max_new_tokens, ")",
                 num_too_long > 1
                     ? absl::StrCat("; ", num_too_long - 1, " further prompts are too long as well")
                     : ""));
}

}  // namespace wideberth::learner
