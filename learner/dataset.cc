// SPDX-License-Identifier: Apache-2.0
#include "learner/dataset.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/excerpt.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "learner/prompts.h"

namespace wideberth::learner {
namespace {

using nlohmann::json;
using Paths = google::protobuf::RepeatedPtrField<std::string>;

absl::Status Bad(absl::string_view origin, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(origin, ": ", what));
}

// What was found, short enough for a sentence.
std::string Found(const json& value) {
  const std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  const bool shown = text.size() <= 40 && !ExcerptsAreRedacted();
  return shown ? text : absl::StrCat(value.type_name(), " of ", text.size(), " bytes");
}

struct Selection {
  std::string path, field, value;  // `field` empty: every row.
  int first_line = 1, last_line = std::numeric_limits<int>::max();
};

// "1-2080" or "2081-".
bool ParseLines(absl::string_view text, Selection* selection) {
  const std::pair<absl::string_view, absl::string_view> ends = absl::StrSplit(text, '-');
  const bool open = ends.second.empty() && absl::StrContains(text, '-');
  return absl::SimpleAtoi(ends.first, &selection->first_line) && selection->first_line >= 1 &&
         (open || absl::SimpleAtoi(ends.second, &selection->last_line)) &&
         selection->last_line >= selection->first_line;
}

absl::StatusOr<Selection> Parse(const std::string& path) {
  Selection selection;
  const size_t mark = path.rfind('#');
  selection.path = path.substr(0, mark);
  if (mark == std::string::npos) return selection;
  const size_t equals = path.find('=', mark);
  if (equals == std::string::npos || equals == mark + 1) {
    return absl::InvalidArgumentError(absl::StrCat("data path ", path, " ends in \"",
                                                   path.substr(mark),
                                                   "\", expected #FIELD=VALUE after the file"));
  }
  selection.field = path.substr(mark + 1, equals - mark - 1);
  selection.value = path.substr(equals + 1);
  if (selection.field != "lines") return selection;
  selection.field.clear();
  if (ParseLines(selection.value, &selection)) return selection;
  return absl::InvalidArgumentError(absl::StrCat("data path ", path, " chooses lines \"",
                                                 selection.value,
                                                 "\", expected FIRST-LAST or FIRST-, from 1"));
}

using TakeRow = std::function<absl::Status(const json& row, const std::string& origin)>;

absl::Status ReadFileRows(const Selection& from, const TakeRow& take, int64_t* num_rows) {
  WB_ASSIGN_OR_RETURN(const std::string text, ReadFile(from.path));
  absl::string_view rest(text);
  for (int line_number = 1; !rest.empty(); ++line_number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const absl::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line_number < from.first_line || line_number > from.last_line) continue;
    const std::string origin = absl::StrCat(from.path, ":", line_number);
    if (absl::StripAsciiWhitespace(line).empty())
      return Bad(origin, "the line is empty, expected a JSON object");
    // Values deep within each other are no row, and writing one into a sentence ends the stack.
    const json row =
        CheckJsonNesting(line, origin).ok()
            ? json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false)
            : json(json::value_t::discarded);
    if (!row.is_object()) {
      return Bad(origin,
                 absl::StrCat("found ", row.is_discarded() ? "a line that is not JSON" : Found(row),
                              ", expected a JSON object"));
    }
    if (!from.field.empty()) {
      const auto value = row.find(from.field);
      if (value == row.end() || !value->is_string()) {
        return Bad(origin, absl::StrCat("\"", from.field, "\" is ",
                                        value == row.end() ? "missing" : Found(*value),
                                        ", expected a text, by which rows are chosen"));
      }
      if (value->get_ref<const std::string&>() != from.value) continue;
    }
    WB_RETURN_IF_ERROR(take(row, origin));
    ++*num_rows;
  }
  return absl::OkStatus();
}

absl::Status ReadRows(const Paths& paths, const TakeRow& take) {
  int64_t num_rows = 0;
  for (const std::string& path : paths) {
    WB_ASSIGN_OR_RETURN(const Selection from, Parse(path));
    WB_RETURN_IF_ERROR(ReadFileRows(from, take, &num_rows));
  }
  if (num_rows > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(absl::StrJoin(paths, ", "), ": no row found, expected at least one"));
}

absl::StatusOr<std::string> NonEmptyText(const json& row, const std::string& field,
                                         const std::string& origin) {
  const auto value = row.find(field);
  if (value == row.end() || !value->is_string()) {
    return Bad(origin,
               absl::StrCat("\"", field, "\" is ", value == row.end() ? "missing" : Found(*value),
                            ", expected a text"));
  }
  if (absl::StripAsciiWhitespace(value->get_ref<const std::string&>()).empty())
    return Bad(origin, absl::StrCat("\"", field, "\" is empty, expected a text"));
  return value->get<std::string>();
}

absl::StatusOr<proto::ChatMessage> ParseMessage(const json& value, const std::string& what,
                                                const std::string& origin) {
  proto::ChatMessage message;
  if (!value.is_object()) {
    return Bad(origin, absl::StrCat(what, " is ", Found(value),
                                    ", expected {\"role\": ..., \"content\": ...}"));
  }
  for (const char* field : {"role", "content"}) {
    const auto found = value.find(field);
    if (found == value.end() || !found->is_string()) {
      return Bad(origin, absl::StrCat(what, ".", field, " is ",
                                      found == value.end() ? "missing" : Found(*found),
                                      ", expected a text"));
    }
  }
  message.set_role(value["role"].get<std::string>());
  message.set_content(value["content"].get<std::string>());
  if (message.role() != "system" && message.role() != "user" && message.role() != "assistant") {
    return Bad(origin, absl::StrCat(what, ".role is \"", message.role(),
                                    "\", expected system, user or assistant"));
  }
  return message;
}

absl::StatusOr<std::vector<proto::ChatMessage>> ParseMessages(const json& list,
                                                              const std::string& field,
                                                              const std::string& origin) {
  if (!list.is_array() || list.empty()) {
    return Bad(origin,
               absl::StrCat("\"", field, "\" is ", Found(list), ", expected a list of messages"));
  }
  std::vector<proto::ChatMessage> messages;
  for (size_t i = 0; i < list.size(); ++i) {
    WB_ASSIGN_OR_RETURN(proto::ChatMessage message,
                        ParseMessage(list[i], absl::StrCat(field, "[", i, "]"), origin));
    messages.push_back(std::move(message));
  }
  return messages;
}

absl::StatusOr<TextOrChat> ParseTextOrChat(const json& row, const std::string& field,
                                           const std::string& origin) {
  TextOrChat parsed;
  const auto value = row.find(field);
  if (value != row.end() && value->is_array()) {
    WB_ASSIGN_OR_RETURN(parsed.messages, ParseMessages(*value, field, origin));
    return parsed;
  }
  if (value == row.end() || !value->is_string()) {
    return Bad(origin,
               absl::StrCat("\"", field, "\" is ", value == row.end() ? "missing" : Found(*value),
                            ", expected a text or a list of messages"));
  }
  WB_ASSIGN_OR_RETURN(parsed.text, NonEmptyText(row, field, origin));
  return parsed;
}

// An answer under chat messages is messages of the assistant.
absl::Status CheckAnswer(const TextOrChat& prompt, const TextOrChat& answer,
                         const std::string& field, const std::string& origin) {
  if (prompt.is_chat() != answer.is_chat()) {
    return Bad(origin, absl::StrCat("\"", field, "\" is ", answer.is_chat() ? "messages" : "a text",
                                    ", expected ", prompt.is_chat() ? "messages" : "a text",
                                    " as \"prompt\""));
  }
  for (const proto::ChatMessage& message : answer.messages) {
    if (message.role() == "assistant") return absl::OkStatus();
  }
  if (!answer.is_chat()) return absl::OkStatus();
  return Bad(origin, absl::StrCat("\"", field,
                                  "\" has no message of the assistant, expected at least one"));
}

absl::StatusOr<SftRow> ParseSftRow(const json& row, const std::string& origin) {
  SftRow parsed;
  parsed.origin = origin;
  const bool chat = row.contains("messages");
  if (chat == (row.contains("prompt") || row.contains("completion"))) {
    return Bad(origin, absl::StrCat("has ", chat ? "both" : "neither",
                                    " \"messages\" and \"prompt\" with \"completion\", expected "
                                    "one of them"));
  }
  if (!chat) {
    WB_ASSIGN_OR_RETURN(parsed.prompt, ParseTextOrChat(row, "prompt", origin));
    WB_ASSIGN_OR_RETURN(parsed.completion, ParseTextOrChat(row, "completion", origin));
    WB_RETURN_IF_ERROR(CheckAnswer(parsed.prompt, parsed.completion, "completion", origin));
    return parsed;
  }
  WB_ASSIGN_OR_RETURN(parsed.messages, ParseMessages(row["messages"], "messages", origin));
  for (size_t i = 0; i < parsed.messages.size(); ++i) {
    if (parsed.messages[i].role() != "assistant") continue;
    if (i == 0) return Bad(origin, "messages[0].role is \"assistant\", expected a prompt first");
    return parsed;
  }
  return Bad(origin, "\"messages\" has none of the assistant, expected at least one");
}

absl::Status ParseNumber(const json& row, const char* field, bool may_be_negative,
                         const std::string& origin, absl::optional<double>* number) {
  const auto value = row.find(field);
  if (value == row.end() || value->is_null()) return absl::OkStatus();
  if (value->is_number()) {
    *number = value->get<double>();
    if (std::isfinite(**number) && (may_be_negative || **number >= 0)) return absl::OkStatus();
  }
  return Bad(origin, absl::StrCat("\"", field, "\" is ", Found(*value), ", expected a number",
                                  may_be_negative ? "" : " of at least 0"));
}

// A whole dialogue in the form of HH-RLHF, "\n\nHuman: ...\n\nAssistant: ...", as messages.
absl::StatusOr<std::vector<proto::ChatMessage>> ParseDialogue(const json& row,
                                                              const std::string& field,
                                                              const std::string& origin) {
  constexpr absl::string_view kHuman = "\n\nHuman:", kAssistant = "\n\nAssistant:";
  WB_ASSIGN_OR_RETURN(const std::string text, NonEmptyText(row, field, origin));
  std::vector<proto::ChatMessage> messages;
  for (absl::string_view rest = text; !rest.empty();) {
    const absl::string_view turn = rest;
    const bool human = absl::ConsumePrefix(&rest, kHuman);
    if (!human && !absl::ConsumePrefix(&rest, kAssistant)) {
      return Bad(origin, absl::StrCat("\"", field, "\" begins with ",
                                      Found(std::string(turn.substr(0, 16))),
                                      ", expected a dialogue of \\n\\nHuman: and \\n\\nAssistant: "
                                      "turns where there is no \"prompt\""));
    }
    const size_t end = std::min({rest.find(kHuman), rest.find(kAssistant), rest.size()});
    proto::ChatMessage& message = messages.emplace_back();
    message.set_role(human ? "user" : "assistant");
    message.set_content(std::string(absl::StripAsciiWhitespace(rest.substr(0, end))));
    rest.remove_prefix(end);
  }
  if (messages.size() < 2 || messages.back().role() != "assistant" ||
      messages.front().role() != "user") {
    return Bad(origin, absl::StrCat("\"", field, "\" is a dialogue of ", messages.size(),
                                    " turns, expected one from Human to Assistant"));
  }
  return messages;
}

// Nothing where the two dialogues answer different prompts.
absl::StatusOr<absl::optional<PreferenceRow>> ParseDialoguePair(const json& row,
                                                                const std::string& origin) {
  PreferenceRow parsed;
  WB_ASSIGN_OR_RETURN(parsed.prompt.messages, ParseDialogue(row, "chosen", origin));
  WB_ASSIGN_OR_RETURN(std::vector<proto::ChatMessage> other,
                      ParseDialogue(row, "rejected", origin));
  parsed.chosen.messages = {parsed.prompt.messages.back()};
  parsed.rejected.messages = {other.back()};
  parsed.prompt.messages.pop_back();
  other.pop_back();
  const bool same = std::equal(other.begin(), other.end(), parsed.prompt.messages.begin(),
                               parsed.prompt.messages.end(), [](const auto& a, const auto& b) {
                                 return a.role() == b.role() && a.content() == b.content();
                               });
  if (!same) return absl::optional<PreferenceRow>();
  return absl::make_optional(std::move(parsed));
}

absl::StatusOr<absl::optional<PreferenceRow>> ParsePreferenceRow(const json& row,
                                                                 const std::string& origin) {
  PreferenceRow parsed;
  if (row.contains("prompt")) {
    WB_ASSIGN_OR_RETURN(parsed.prompt, ParseTextOrChat(row, "prompt", origin));
    WB_ASSIGN_OR_RETURN(parsed.chosen, ParseTextOrChat(row, "chosen", origin));
    WB_ASSIGN_OR_RETURN(parsed.rejected, ParseTextOrChat(row, "rejected", origin));
  } else {
    WB_ASSIGN_OR_RETURN(absl::optional<PreferenceRow> pair, ParseDialoguePair(row, origin));
    if (!pair.has_value()) return pair;
    parsed = *std::move(pair);
  }
  parsed.origin = origin;
  WB_RETURN_IF_ERROR(CheckAnswer(parsed.prompt, parsed.chosen, "chosen", origin));
  WB_RETURN_IF_ERROR(CheckAnswer(parsed.prompt, parsed.rejected, "rejected", origin));
  absl::optional<double> weight;
  WB_RETURN_IF_ERROR(ParseNumber(row, "weight", /*may_be_negative=*/false, origin, &weight));
  parsed.weight = weight.value_or(1);
  WB_RETURN_IF_ERROR(ParseNumber(row, "margin", /*may_be_negative=*/true, origin, &parsed.margin));
  return absl::make_optional(std::move(parsed));
}

absl::StatusOr<bool> IsPositive(const json& label, const proto::DataConfig& config,
                                const std::string& origin) {
  const std::string text = label.is_string() ? label.get<std::string>() : label.dump();
  const bool plain = label.is_string() || label.is_boolean() || label.is_number();
  if (plain && config.positive_label_size() > 0) {
    return std::find(config.positive_label().begin(), config.positive_label().end(), text) !=
           config.positive_label().end();
  }
  const auto any_of = [&](std::initializer_list<const char*> texts) {
    return std::find(texts.begin(), texts.end(), text) != texts.end();
  };
  if (plain && any_of({"unsafe", "harmful", "true", "1"})) return true;
  if (plain && any_of({"safe", "unharmful", "harmless", "false", "0"})) return false;
  return Bad(origin, absl::StrCat("\"", config.label_field(), "\" is ", Found(label), ", expected ",
                                  plain ? "\"unsafe\" or \"safe\", true or false, 1 or 0 (or set "
                                          "data.positive_label)"
                                        : "a text, a boolean or a number"));
}

}  // namespace

absl::StatusOr<std::vector<SftRow>> ReadSftRows(const Paths& paths) {
  std::vector<SftRow> rows;
  WB_RETURN_IF_ERROR(ReadRows(paths, [&](const json& row, const std::string& origin) {
    absl::StatusOr<SftRow> parsed = ParseSftRow(row, origin);
    if (parsed.ok()) rows.push_back(*std::move(parsed));
    return parsed.status();
  }));
  return rows;
}

absl::StatusOr<std::vector<PreferenceRow>> ReadPreferenceRows(const Paths& paths) {
  std::vector<PreferenceRow> rows;
  std::vector<std::string> apart;
  WB_RETURN_IF_ERROR(
      ReadRows(paths, [&](const json& row, const std::string& origin) -> absl::Status {
        WB_ASSIGN_OR_RETURN(absl::optional<PreferenceRow> parsed, ParsePreferenceRow(row, origin));
        if (parsed.has_value()) {
          rows.push_back(*std::move(parsed));
        } else {
          apart.push_back(origin);
        }
        return absl::OkStatus();
      }));
  if (!apart.empty()) {
    WB_LOG(WARNING) << apart.size() << " of " << apart.size() + rows.size()
                    << " pairs are left out, their dialogues part before the last answer: "
                    << absl::StrJoin(apart, ", ");
  }
  if (!rows.empty()) return rows;
  return absl::InvalidArgumentError(
      absl::StrCat(absl::StrJoin(paths, ", "),
                   ": no pair answers one prompt, expected dialogues that differ in the last "
                   "answer only"));
}

absl::StatusOr<GuardRows> ReadGuardRows(const Paths& paths, const proto::DataConfig& config) {
  GuardRows all;
  WB_RETURN_IF_ERROR(
      ReadRows(paths, [&](const json& row, const std::string& origin) -> absl::Status {
        const auto label = row.find(config.label_field());
        if (label == row.end()) {
          return Bad(origin, absl::StrCat("\"", config.label_field(),
                                          "\" is missing, expected a label, or null for none"));
        }
        const auto response = row.find(config.response_field());
        if (label->is_null() || (response != row.end() && response->is_null())) {
          ++all.num_unlabelled;
          return absl::OkStatus();
        }
        GuardRow parsed;
        parsed.origin = origin;
        WB_ASSIGN_OR_RETURN(parsed.prompt, NonEmptyText(row, config.prompt_field(), origin));
        WB_ASSIGN_OR_RETURN(parsed.response, NonEmptyText(row, config.response_field(), origin));
        WB_ASSIGN_OR_RETURN(parsed.positive, IsPositive(*label, config, origin));
        const auto source = row.find(config.source_field());
        if (source != row.end() && source->is_string()) parsed.source = source->get<std::string>();
        all.rows.push_back(std::move(parsed));
        return absl::OkStatus();
      }));
  if (!all.rows.empty()) return all;
  return absl::InvalidArgumentError(absl::StrCat(
      absl::StrJoin(paths, ", "), ": all ", all.num_unlabelled, " rows have null as \"",
      config.label_field(), "\" or \"", config.response_field(), "\", expected labels"));
}

absl::Status CheckData(const proto::RunConfig& config) {
  const proto::DataConfig& data = config.data();
  for (const auto* paths : {&data.path(), &data.validation_path()}) {
    if (paths->empty()) continue;
    switch (config.learner().task()) {
      case proto::RL:
      case proto::EVALUATE:
        break;
      case proto::SFT:
        WB_RETURN_IF_ERROR(ReadSftRows(*paths).status());
        break;
      case proto::DPO:
      case proto::REWARD:
        WB_RETURN_IF_ERROR(ReadPreferenceRows(*paths).status());
        break;
      case proto::GUARD:
        WB_RETURN_IF_ERROR(ReadGuardRows(*paths, data).status());
        break;
    }
  }
  return absl::OkStatus();
}

std::vector<int64_t> RowOrder::Batch(int64_t step) {
  const int64_t epoch = step / steps_per_epoch();
  if (epoch != epoch_) {
    order_.resize(num_rows_);
    std::iota(order_.begin(), order_.end(), 0);
    if (shuffle_) order_ = ShuffledOrder(num_rows_, seed_, static_cast<uint64_t>(epoch));
    epoch_ = epoch;
  }
  const int64_t first = (step % steps_per_epoch()) * batch_size_;
  return {order_.begin() + first, order_.begin() + std::min(num_rows_, first + batch_size_)};
}

int64_t RowOrder::RowsBefore(int64_t step) const {
  return step / steps_per_epoch() * num_rows_ + step % steps_per_epoch() * batch_size_;
}

double RowOrder::Epochs(int64_t step) const {
  return static_cast<double>(RowsBefore(step)) / static_cast<double>(num_rows_);
}

}  // namespace wideberth::learner
