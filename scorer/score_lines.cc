// SPDX-License-Identifier: Apache-2.0
// JSON lines around a ScoringModel.
#include "scorer/score_lines.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "base/status.h"
#include "nlohmann/json.hpp"

namespace wideberth::scorer {
namespace {

using Json = nlohmann::ordered_json;

absl::Status Bad(absl::string_view what) { return absl::InvalidArgumentError(what); }

absl::Status AddMessages(const Json& list, absl::string_view field, proto::ScoreItem* item) {
  for (const Json& entry : list) {
    const bool right = entry.is_object() && entry.contains("role") && entry["role"].is_string() &&
                       entry.contains("content") && entry["content"].is_string();
    if (!right)
      return Bad(absl::StrCat(
          "\"", field, "\" holds something that is not {\"role\": text, \"content\": text}"));
    proto::ChatMessage* message = item->add_prompt();
    message->set_role(entry["role"].get<std::string>());
    message->set_content(entry["content"].get<std::string>());
  }
  return absl::OkStatus();
}

absl::Status ReadPrompt(const Json& line, proto::ScoreItem* item) {
  const Json& prompt = line.at("prompt");
  if (prompt.is_array()) return AddMessages(prompt, "prompt", item);
  if (!prompt.is_string())
    return Bad(absl::StrCat("\"prompt\" is ", prompt.type_name(),
                            ", must be a text or a list of messages"));
  proto::ChatMessage* message = item->add_prompt();
  message->set_role("user");
  message->set_content(prompt.get<std::string>());
  return absl::OkStatus();
}

absl::StatusOr<proto::ScoreItem> ReadItem(const std::string& text) {
  WB_RETURN_IF_ERROR(CheckJsonNesting(text, "the line"));
  const Json line = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!line.is_object())
    return Bad("not a JSON object, expected {\"prompt\": ..., \"completion\": ...}");
  proto::ScoreItem item;
  if (line.contains("id")) item.set_id(line["id"].dump());
  if (line.contains("messages")) {
    if (!line["messages"].is_array())
      return Bad(
          absl::StrCat("\"messages\" is ", line["messages"].type_name(), ", must be a list"));
    WB_RETURN_IF_ERROR(AddMessages(line["messages"], "messages", &item));
    if (line.contains("prompt"))
      return Bad("has both \"prompt\" and \"messages\", expected one of them");
  } else if (line.contains("prompt")) {
    WB_RETURN_IF_ERROR(ReadPrompt(line, &item));
  } else {
    return Bad(
        "has no \"prompt\" and no \"messages\", expected {\"prompt\": ..., \"completion\": ...}");
  }
  if (line.contains("completion")) {
    if (!line["completion"].is_string())
      return Bad(
          absl::StrCat("\"completion\" is ", line["completion"].type_name(), ", must be a text"));
    item.set_completion(line["completion"].get<std::string>());
    return item;
  }
  const int last = item.prompt_size() - 1;
  if (!line.contains("messages") || last < 0 || item.prompt(last).role() != "assistant") {
    return Bad("has no \"completion\", nor \"messages\" that end with an assistant's");
  }
  item.set_completion(item.prompt(last).content());
  item.mutable_prompt()->RemoveLast();
  return item;
}

std::string ResultLine(const proto::ScoreItem& item, const proto::Score& score) {
  Json line;
  if (item.has_id()) line["id"] = Json::parse(item.id());
  line["status"] = proto::ScoreStatus_Name(score.status());
  if (score.has_value()) line["value"] = score.value();
  if (score.has_message()) line["message"] = score.message();
  line["scorer"] = score.scorer_name();
  line["model_fingerprint"] = score.model_fingerprint();
  line["template_hash"] = score.template_hash();
  line["latency_ms"] = score.latency_ms();
  return line.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

// Lines read and not yet answered.
struct Waiting {
  std::vector<proto::ScoreItem> items;
  std::vector<PreparedItem> prepared;
  int64_t num_tokens = 0;
};

absl::Status ScoreWaiting(ScoringModel& model, std::ostream& out, Waiting* waiting) {
  if (waiting->items.empty()) return absl::OkStatus();
  const std::vector<proto::Score> scores = model.ScoreBatch(waiting->prepared);
  for (size_t i = 0; i < scores.size(); ++i)
    out << ResultLine(waiting->items[i], scores[i]) << '\n';
  out.flush();
  *waiting = Waiting();
  return out.good() ? absl::OkStatus() : absl::UnavailableError("the results cannot be written");
}

}  // namespace

absl::Status ScoreLines(ScoringModel& model, int64_t max_batch_tokens, std::istream& in,
                        std::ostream& out, absl::string_view origin) {
  Waiting waiting;
  std::string text;
  for (int64_t number = 1; std::getline(in, text); ++number) {
    if (!absl::StripAsciiWhitespace(text).empty()) {
      absl::StatusOr<proto::ScoreItem> item = ReadItem(text);
      if (!item.ok()) {
        WB_RETURN_IF_ERROR(ScoreWaiting(model, out, &waiting));
        return Annotate(item.status(), absl::StrCat(origin, ":", number));
      }
      PreparedItem prepared = model.Prepare(*item);
      if (waiting.num_tokens + prepared.num_new_tokens > max_batch_tokens)
        WB_RETURN_IF_ERROR(ScoreWaiting(model, out, &waiting));
      waiting.num_tokens += prepared.num_new_tokens;
      waiting.items.push_back(*std::move(item));
      waiting.prepared.push_back(std::move(prepared));
    }
    if (in.rdbuf()->in_avail() <= 0) WB_RETURN_IF_ERROR(ScoreWaiting(model, out, &waiting));
  }
  return ScoreWaiting(model, out, &waiting);
}

absl::Status ScoreLines(const proto::ScorerConfig& config, std::istream& in, std::ostream& out,
                        absl::string_view origin) {
  WB_ASSIGN_OR_RETURN(const std::unique_ptr<ScoringModel> model, ScoringModel::Create(config));
  return ScoreLines(*model, config.max_batch_tokens(), in, out, origin);
}

}  // namespace wideberth::scorer
