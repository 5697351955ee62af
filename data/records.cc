// SPDX-License-Identifier: Apache-2.0
#include "data/records.h"

#include <algorithm>
#include <set>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/types/optional.h"
#include "base/json.h"
#include "base/status.h"
#include "data/csv.h"

namespace wideberth::data {
namespace {

using nlohmann::json;
using Take = std::function<absl::Status(absl::StatusOr<Record>)>;

absl::Status Bad(absl::string_view origin, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(origin, ": ", what));
}

absl::StatusOr<proto::DataFormat> FormatOf(const proto::DataFiles& files, absl::string_view path) {
  if (files.format() != proto::BY_NAME) return files.format();
  const std::string name = absl::AsciiStrToLower(path);
  if (absl::EndsWith(name, ".jsonl") || absl::EndsWith(name, ".ndjson")) return proto::JSONL;
  if (absl::EndsWith(name, ".json")) return proto::JSON;
  if (absl::EndsWith(name, ".csv")) return proto::CSV;
  if (absl::EndsWith(name, ".txt")) return proto::LINES;
  return Bad(path,
             "the name does not end in .jsonl, .ndjson, .json, .csv or .txt; expected `format`");
}

// Takes what nlohmann says after its "[json.exception...] parse error at line 1, column 5: ".
struct ParseError {
  std::string text;
  absl::optional<size_t> byte;
};

absl::optional<ParseError> Parse(absl::string_view text, json* value) {
  try {
    *value = json::parse(text.begin(), text.end());
    return absl::nullopt;
  } catch (const json::parse_error& error) {
    absl::string_view what = error.what();
    const size_t colon = what.find(": ");
    if (colon != absl::string_view::npos) what.remove_prefix(colon + 2);
    return ParseError{std::string(what), error.byte};
  } catch (const json::out_of_range&) {
    return ParseError{"a number that no double can hold", absl::nullopt};
  }
}

// `take(line, its number)` of every line that is not blank.
absl::Status ForTextLines(absl::string_view text,
                          const std::function<absl::Status(absl::string_view, int64_t)>& take) {
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    absl::string_view line = absl::StripAsciiWhitespace(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!line.empty()) WB_RETURN_IF_ERROR(take(line, number));
  }
  return absl::OkStatus();
}

absl::Status ForJsonLines(absl::string_view path, absl::string_view text, const Take& take) {
  return ForTextLines(text, [&](absl::string_view line, int64_t number) {
    Record record;
    record.origin = absl::StrCat(path, ":", number);
    const absl::Status nesting = CheckJsonNesting(line, record.origin);
    if (!nesting.ok()) return take(nesting);
    if (const auto error = Parse(line, &record.fields)) {
      return take(
          Bad(record.origin,
              absl::StrCat("not JSON",
                           error->byte.has_value() ? absl::StrCat(" at column ", *error->byte) : "",
                           ", expected an object on one line (", error->text, ")")));
    }
    if (!record.fields.is_object()) {
      return take(Bad(record.origin,
                      absl::StrCat("is ", KindOf(record.fields), ", expected a JSON object")));
    }
    return take(std::move(record));
  });
}

absl::StatusOr<json> WholeJson(absl::string_view path, absl::string_view text) {
  WB_RETURN_IF_ERROR(CheckJsonNesting(text, path));
  json value;
  if (const auto error = Parse(text, &value)) {
    if (!error->byte.has_value()) return Bad(path, absl::StrCat("not JSON (", error->text, ")"));
    const size_t at = std::min(*error->byte, text.size());
    const auto before = text.substr(0, at);
    return Bad(absl::StrCat(path, ":", 1 + std::count(before.begin(), before.end(), '\n')),
               absl::StrCat("not JSON (", error->text, ")"));
  }
  return value;
}

absl::Status ForJsonList(const proto::DataFiles& files, absl::string_view path,
                         absl::string_view text, const Take& take) {
  WB_ASSIGN_OR_RETURN(const json whole, WholeJson(path, text));
  const json* list = files.has_list() ? FindField(whole, files.list()) : &whole;
  if (list == nullptr) return Bad(path, absl::StrCat("has no field \"", files.list(), "\""));
  if (!list->is_array()) {
    return Bad(path,
               absl::StrCat(files.has_list() ? absl::StrCat("\"", files.list(), "\"") : "the file",
                            " is ", KindOf(*list), ", expected a list of objects",
                            files.has_list() ? "" : " (or `list`, or format: JSON_TREE)"));
  }
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string origin = absl::StrCat(path, ": item ", i);
    const json& item = (*list)[i];
    WB_RETURN_IF_ERROR(item.is_object() ? take(Record{item, origin})
                                        : take(Bad(origin, absl::StrCat("is ", KindOf(item),
                                                                        ", expected an object"))));
  }
  return absl::OkStatus();
}

// Gives `take` the texts below a node.
struct TreeWalk {
  absl::Status Visit(const json& node, const std::string& place) {
    const std::string origin = absl::StrCat(path, ": ", place.empty() ? "the file" : place);
    if (node.is_string() && depth > 0)
      return take(Record{{{"text", node}, {"keys", keys}}, origin});
    if (!node.is_object() && !(node.is_array() && depth > 0)) {
      return take(Bad(origin, absl::StrCat("is ", KindOf(node), ", expected ",
                                           depth > 0 ? "a text, list or object" : "an object")));
    }
    if (depth == kMaxDepth)
      return take(Bad(path, absl::StrCat("has values within each other more than ", kMaxDepth,
                                         " deep, expected fewer")));
    ++depth;
    for (const auto& [name, child] : node.items()) {
      if (node.is_object()) keys.push_back(name);
      WB_RETURN_IF_ERROR(Visit(child, absl::StrCat(place, place.empty() ? "" : ".", name)));
      if (node.is_object()) keys.pop_back();
    }
    --depth;
    return absl::OkStatus();
  }

  static constexpr int kMaxDepth = 100;  // Recursion ends before the stack does.
  const absl::string_view path;
  const Take& take;
  int depth = 0;
  std::vector<std::string> keys = {};
};

absl::Status ForCsv(absl::string_view path, absl::string_view text, const Take& take) {
  CsvReader reader(text);
  std::vector<std::string> names, values;
  absl::StatusOr<bool> more = reader.Next(&names);
  std::set<absl::string_view> seen;
  for (const std::string& name : names) {
    if (seen.insert(name).second) continue;
    return Bad(absl::StrCat(path, ":", reader.line()),
               absl::StrCat("names the field \"", name, "\" twice"));
  }
  while (more.ok() && *more) {
    more = reader.Next(&values);
    if (!more.ok() || !*more) break;
    const std::string origin = absl::StrCat(path, ":", reader.line());
    if (values.size() != names.size()) {
      WB_RETURN_IF_ERROR(
          take(Bad(origin, absl::StrCat("has ", values.size(), " field(s), expected the ",
                                        names.size(), " that the first line names"))));
      continue;
    }
    Record record{json::object(), origin};
    for (size_t i = 0; i < names.size(); ++i) record.fields[names[i]] = values[i];
    WB_RETURN_IF_ERROR(take(std::move(record)));
  }
  return more.ok() ? absl::OkStatus() : Bad(path, more.status().message());
}

}  // namespace

absl::string_view KindOf(const json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "true or false";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a text";
  return value.is_array() ? "a list" : "an object";
}

const json* FindField(const json& value, absl::string_view path) {
  if (value.is_array()) {
    const absl::string_view place = path.substr(0, path.find('.'));
    size_t index = 0;
    if (!absl::SimpleAtoi(place, &index) || index >= value.size()) return nullptr;
    return place.size() == path.size() ? &value[index]
                                       : FindField(value[index], path.substr(place.size() + 1));
  }
  if (!value.is_object()) return nullptr;
  if (const auto found = value.find(std::string(path)); found != value.end()) return &*found;
  for (size_t dot = path.find('.'); dot != absl::string_view::npos; dot = path.find('.', dot + 1)) {
    const auto outer = value.find(std::string(path.substr(0, dot)));
    if (outer == value.end()) continue;
    if (const json* found = FindField(*outer, path.substr(dot + 1))) return found;
  }
  return nullptr;
}

absl::Status ForRecords(const proto::DataFiles& files, absl::string_view path,
                        absl::string_view text, const Take& take) {
  absl::ConsumePrefix(&text, "\xEF\xBB\xBF");
  WB_ASSIGN_OR_RETURN(const proto::DataFormat format, FormatOf(files, path));
  switch (format) {
    case proto::JSON:
      return ForJsonList(files, path, text, take);
    case proto::JSON_TREE: {
      WB_ASSIGN_OR_RETURN(const json whole, WholeJson(path, text));
      return TreeWalk{path, take}.Visit(whole, "");
    }
    case proto::CSV:
      return ForCsv(path, text, take);
    case proto::LINES:
      return ForTextLines(text, [&](absl::string_view line, int64_t number) {
        return take(Record{{{"text", std::string(line)}}, absl::StrCat(path, ":", number)});
      });
    default:
      return ForJsonLines(path, text, take);
  }
}

}  // namespace wideberth::data
