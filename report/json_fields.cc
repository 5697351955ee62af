// SPDX-License-Identifier: Apache-2.0
#include "report/json_fields.h"

#include <cmath>

#include "base/json.h"
#include "base/status.h"

namespace wideberth::report {

using Json = nlohmann::ordered_json;

absl::Status InvalidField(absl::string_view origin, absl::string_view field,
                          absl::string_view found, absl::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat(origin, ": \"", field, "\" is ", found, ", expected ", expected));
}

std::string ShownJson(const Json& value) {
  const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return text.size() <= 40 ? text : absl::StrCat(text.substr(0, 37), "...");
}

absl::StatusOr<Json> ParseJson(absl::string_view text, absl::string_view origin) {
  WB_RETURN_IF_ERROR(CheckJsonNesting(text, origin));
  absl::optional<Json> json;
  try {
    json = Json::parse(text.begin(), text.end());
  } catch (const Json::parse_error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ": not JSON at byte ", error.byte, ", expected one object"));
  } catch (const Json::out_of_range&) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ": has a number that no double can hold, expected one object"));
  }
  if (json->is_object()) return *std::move(json);
  return absl::InvalidArgumentError(
      absl::StrCat(origin, ": is a JSON ", json->type_name(), ", expected an object"));
}

JsonFields::JsonFields(const Json& object, std::string origin, std::string prefix,
                       absl::Status* status)
    : object_(object), origin_(std::move(origin)), prefix_(std::move(prefix)), status_(status) {
  if (!object.is_object())
    Fail(prefix_.substr(0, prefix_.size() - 1), ShownJson(object), "an object");
}

std::string JsonFields::Text(absl::string_view name, bool required) {
  const Json* value = Find(name, required, "text");
  if (value == nullptr) return "";
  if (!value->is_string()) return Fail(absl::StrCat(prefix_, name), ShownJson(*value), "text"), "";
  return value->get<std::string>();
}

absl::optional<double> JsonFields::Number(absl::string_view name, bool required) {
  const Json* value = Find(name, required, "a number");
  if (value == nullptr) return absl::nullopt;
  if (!value->is_number())
    return Fail(absl::StrCat(prefix_, name), ShownJson(*value), "a number"), absl::nullopt;
  return value->get<double>();
}

absl::optional<double> JsonFields::Share(absl::string_view name) {
  const absl::optional<double> value = Number(name);
  if (value.has_value() && !(*value >= 0 && *value <= 1))
    Fail(absl::StrCat(prefix_, name), absl::StrCat(*value), "a number from 0 to 1");
  return value;
}

int64_t JsonFields::Count(absl::string_view name, bool required) {
  const absl::optional<double> value = Number(name, required);
  if (!value.has_value()) return 0;
  if (*value >= 0 && *value == std::floor(*value) && *value <= 9e15)
    return static_cast<int64_t>(*value);
  Fail(absl::StrCat(prefix_, name), absl::StrCat(*value), "a whole number from 0");
  return 0;
}

absl::optional<bool> JsonFields::Bool(absl::string_view name, bool required) {
  const Json* value = Find(name, required, "true or false");
  if (value == nullptr) return absl::nullopt;
  if (!value->is_boolean())
    return Fail(absl::StrCat(prefix_, name), ShownJson(*value), "true or false"), absl::nullopt;
  return value->get<bool>();
}

const Json& JsonFields::List(absl::string_view name, bool required) {
  return Nested(name, required, /*list=*/true);
}

const Json& JsonFields::Object(absl::string_view name) {
  return Nested(name, /*required=*/false, /*list=*/false);
}

void JsonFields::Fail(absl::string_view field, absl::string_view found,
                      absl::string_view expected) {
  status_->Update(InvalidField(origin_, field, found, expected));
}

JsonFields JsonFields::Within(const Json& object, absl::string_view field) const {
  return JsonFields(object, origin_, absl::StrCat(field, "."), status_);
}

const Json* JsonFields::Find(absl::string_view name, bool required, absl::string_view expected) {
  if (!object_.is_object()) return nullptr;
  const auto found = object_.find(std::string(name));
  if (found != object_.end() && !found->is_null()) return &*found;
  if (required) Fail(absl::StrCat(prefix_, name), "missing", expected);
  return nullptr;
}

const Json& JsonFields::Nested(absl::string_view name, bool required, bool list) {
  static const Json& none = *new Json(Json::array());
  const absl::string_view expected = list ? "a list" : "an object";
  const Json* value = Find(name, required, expected);
  if (value == nullptr) return none;
  if (list ? value->is_array() : value->is_object()) return *value;
  Fail(absl::StrCat(prefix_, name), ShownJson(*value), expected);
  return none;
}

}  // namespace wideberth::report
