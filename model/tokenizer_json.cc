// SPDX-License-Identifier: Apache-2.0
// See tokenizer_json.h.
#include "model/tokenizer_json.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/json.h"
#include "base/status.h"

namespace wideberth::model {
namespace {

const nlohmann::json kNull;

std::string Brief(const nlohmann::json& value) {
  if (value.is_null()) return "absent";
  std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 80) + "...";
  return text;
}

}  // namespace

absl::Status JsonNode::Unsupported(absl::string_view supported) const {
  return absl::InvalidArgumentError(
      absl::StrCat(place_, " is ", Brief(*value_), ", supported: ", supported));
}

JsonNode JsonNode::Field(absl::string_view key) const {
  const absl::string_view separator = absl::EndsWith(place_, ": ") ? "" : ".";
  const std::string place = absl::StrCat(place_, separator, key);
  if (!value_->is_object()) return JsonNode(kNull, place);
  const auto found = value_->find(std::string(key));
  return JsonNode(found == value_->end() ? kNull : *found, place);
}

absl::StatusOr<std::vector<JsonNode>> JsonNode::Items() const {
  if (!value_->is_array()) return Unsupported("a list");
  std::vector<JsonNode> items;
  items.reserve(value_->size());
  for (size_t i = 0; i < value_->size(); ++i) {
    items.emplace_back((*value_)[i], absl::StrCat(place_, "[", i, "]"));
  }
  return items;
}

absl::StatusOr<std::string> JsonNode::String() const {
  if (!value_->is_string()) return Unsupported("a string");
  return value_->get<std::string>();
}

absl::StatusOr<int64_t> JsonNode::Integer() const {
  const absl::optional<int64_t> number = WholeNumber(*value_);
  if (!number.has_value()) return Unsupported("a whole number");
  return *number;
}

absl::StatusOr<bool> JsonNode::Bool(bool absent) const {
  if (value_->is_null()) return absent;
  if (!value_->is_boolean()) return Unsupported("true or false");
  return value_->get<bool>();
}

absl::StatusOr<std::string> JsonNode::StringOr(absl::string_view absent) const {
  if (value_->is_null()) return std::string(absent);
  return String();
}

absl::Status JsonNode::OnlyFields(std::initializer_list<absl::string_view> known) const {
  if (!value_->is_object()) return Unsupported("an object");
  for (const auto& field : value_->items()) {
    if (std::find(known.begin(), known.end(), field.key()) == known.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(place_, " has the unknown field \"", field.key(),
                       "\", supported: ", absl::StrJoin(known, ", ")));
    }
  }
  return absl::OkStatus();
}

absl::Status Growth::Add(const JsonNode& node, absl::string_view pattern,
                         absl::string_view content) {
  // Both up to 64 before they are multiplied.
  factor_ *= std::min(kMost + 1,
                      std::max<size_t>(1, (content.size() + pattern.size() - 1) / pattern.size()));
  if (factor_ <= kMost) return absl::OkStatus();
  factor_ = kMost + 1;
  return node.Unsupported("replacements that make a text at most 64 times as long");
}

}  // namespace wideberth::model
