// SPDX-License-Identifier: Apache-2.0
// tokenizer.json as a tree whose every error names file, field, what was found and what is
// supported. Used by the tokenizer's parts.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace wideberth::model {

// One value and its place. Cheap to copy; the JSON must outlive it.
class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, absl::string_view place) : value_(&value), place_(place) {}

  const nlohmann::json& value() const { return *value_; }
  bool is_null() const { return value_->is_null(); }
  const std::string& place() const { return place_; }
  // "tokenizer.json: pre_tokenizer.type is "Whitespace", supported: "ByteLevel", "Split"".
  absl::Status Unsupported(absl::string_view supported) const;

  // A missing field is a null.
  JsonNode Field(absl::string_view key) const;
  absl::StatusOr<std::vector<JsonNode>> Items() const;
  absl::StatusOr<std::string> String() const;
  absl::StatusOr<int64_t> Integer() const;
  // `absent` where the value is null.
  absl::StatusOr<bool> Bool(bool absent) const;
  absl::StatusOr<std::string> StringOr(absl::string_view absent) const;
  // Fields other than these are errors: they could change ids.
  absl::Status OnlyFields(std::initializer_list<absl::string_view> known) const;

 private:
  const nlohmann::json* value_;
  std::string place_;
};

// How long replacements, one after the other, can make a text.
class Growth {
 public:
  static constexpr size_t kMost = 64;
  // InvalidArgument, with the place of `node`, once a text could become more than 64 times as long:
  // replacements that feed each other fill any memory.
  absl::Status Add(const JsonNode& node, absl::string_view pattern, absl::string_view content);

 private:
  size_t factor_ = 1;
};

}  // namespace wideberth::model
