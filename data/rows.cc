// SPDX-License-Identifier: Apache-2.0
#include "data/rows.h"

#include <openssl/evp.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/nearest_name.h"
#include "base/status.h"
#include "data/duplicates.h"
#include "data/records.h"

namespace wideberth::data {
namespace {

using nlohmann::json;

absl::Status Bad(const Record& record, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(record.origin, ": ", what));
}

absl::StatusOr<const json*> Field(const Record& record, const std::string& path) {
  if (const json* found = FindField(record.fields, path)) return found;
  std::vector<std::string> names;
  for (const auto& [name, value] : record.fields.items()) names.push_back(name);
  const std::string nearest = NearestName(path, names);
  return Bad(record,
             absl::StrCat("has no field \"", path, "\"",
                          nearest.empty() ? absl::StrCat(", only ", absl::StrJoin(names, ", "))
                                          : absl::StrCat("; the nearest is \"", nearest, "\"")));
}

// Numbers, true and false as JSON writes them; null and an unnamed field: empty.
absl::StatusOr<std::string> ShortText(const Record& record, const std::string& path) {
  if (path.empty()) return std::string();
  WB_ASSIGN_OR_RETURN(const json* const value, Field(record, path));
  if (value->is_null()) return std::string();
  if (value->is_structured()) {
    return Bad(record, absl::StrCat("field \"", path, "\" is ", KindOf(*value),
                                    ", expected a text, a number, true or false"));
  }
  std::string text = value->is_string() ? value->get<std::string>() : value->dump();
  WB_RETURN_IF_ERROR(
      Annotate(CheckUtf8(text), absl::StrCat(record.origin, ": field \"", path, "\"")));
  return text;
}

absl::StatusOr<std::string> LongText(const proto::DataFiles& files, const Record& record) {
  std::vector<std::string> paths(files.prompt().begin(), files.prompt().end());
  if (paths.empty())
    paths.push_back(!record.fields.contains("prompt") && record.fields.contains("text") ? "text"
                                                                                        : "prompt");
  std::vector<std::string> parts;
  for (const std::string& path : paths) {
    WB_ASSIGN_OR_RETURN(const json* const value, Field(record, path));
    if (!value->is_string() && !value->is_null()) {
      return Bad(record,
                 absl::StrCat("field \"", path, "\" is ", KindOf(*value), ", expected a text"));
    }
    const std::string text = value->is_null() ? "" : value->get<std::string>();
    WB_RETURN_IF_ERROR(
        Annotate(CheckUtf8(text), absl::StrCat(record.origin, ": field \"", path, "\"")));
    const absl::string_view stripped = absl::StripAsciiWhitespace(text);
    if (!stripped.empty()) parts.emplace_back(stripped);
  }
  return absl::StrJoin(parts, "\n\n");
}

template <typename Conditions>
absl::StatusOr<bool> AllHold(const Conditions& conditions, const Record& record) {
  for (const proto::FieldIs& condition : conditions) {
    WB_ASSIGN_OR_RETURN(const json* const value, Field(record, condition.field()));
    const std::string text = value->is_string() ? value->get<std::string>() : value->dump();
    if (std::find(condition.is().begin(), condition.is().end(), text) == condition.is().end())
      return false;
  }
  return true;
}

// A row or the reason why there is none.
struct RowOrDrop {
  Row row;
  absl::optional<Drop> drop;
};

absl::StatusOr<RowOrDrop> ReadRow(const proto::DataFiles& files, const Record& record) {
  WB_ASSIGN_OR_RETURN(const bool wanted, AllHold(files.where(), record));
  if (!wanted) return RowOrDrop{{}, Drop::kLeftOut};
  RowOrDrop result;
  Row& row = result.row;
  row.origin = record.origin;
  WB_ASSIGN_OR_RETURN(row.text, LongText(files, record));
  if (row.text.empty()) return RowOrDrop{{}, Drop::kEmpty};
  WB_ASSIGN_OR_RETURN(row.id, ShortText(record, files.id()));
  WB_ASSIGN_OR_RETURN(row.category, ShortText(record, files.category()));
  WB_ASSIGN_OR_RETURN(row.source, ShortText(record, files.source()));
  if (files.unsafe_where_size() > 0) {
    WB_ASSIGN_OR_RETURN(const bool unsafe, AllHold(files.unsafe_where(), record));
    row.unsafe = unsafe;
  }
  return result;
}

}  // namespace

absl::string_view DropName(Drop reason) {
  switch (reason) {
    case Drop::kUnreadable:
      return "unreadable";
    case Drop::kLeftOut:
      return "left out by where";
    case Drop::kEmpty:
      return "empty";
    case Drop::kNoPlaceholder:
      return "without a placeholder";
    case Drop::kTooShort:
      return "too short";
    case Drop::kTooLong:
      return "too long";
    case Drop::kStayClear:
      return "near a prompt to stay clear of";
    case Drop::kDuplicate:
      return "duplicate";
    case Drop::kNearDuplicate:
      return "near duplicate";
    case Drop::kNearOtherSplit:
      return "near a prompt of the other split";
  }
  return "";
}

int64_t Account::num_dropped() const {
  int64_t sum = 0;
  for (const auto& [reason, count] : dropped) sum += count;
  return sum;
}

std::string Account::ToString() const {
  std::string text = absl::StrCat(read, " read");
  for (const auto& [reason, count] : dropped)
    absl::StrAppend(&text, ", ", count, " ", DropName(reason));
  return text;
}

std::string Sha256(absl::string_view bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  WB_CHECK(EVP_Digest(bytes.data(), bytes.size(), digest, &length, EVP_sha256(), nullptr) == 1,
           "SHA-256 is always there");
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest), length});
}

std::string Below(absl::string_view root, absl::string_view path) {
  if (root.empty() || absl::StartsWith(path, "/")) return std::string(path);
  return absl::StrCat(absl::StripSuffix(root, "/"), "/", path);
}

absl::Status ReadRows(const google::protobuf::RepeatedPtrField<proto::DataFiles>& files,
                      absl::string_view root, int64_t max_unreadable, std::vector<Row>* rows,
                      Account* account, std::vector<InputFile>* inputs) {
  absl::Status first_broken;
  const auto take = [&](const proto::DataFiles& form,
                        const absl::StatusOr<Record>& record) -> absl::Status {
    ++account->read;
    absl::StatusOr<RowOrDrop> row =
        record.ok() ? ReadRow(form, *record) : absl::StatusOr<RowOrDrop>(record.status());
    if (row.ok() && !row->drop.has_value()) {
      rows->push_back(std::move(row->row));
      return absl::OkStatus();
    }
    const int64_t count = ++account->dropped[row.ok() ? *row->drop : Drop::kUnreadable];
    if (row.ok()) return absl::OkStatus();
    if (first_broken.ok()) first_broken = row.status();
    if (count <= max_unreadable) return absl::OkStatus();
    if (max_unreadable == 0) return first_broken;
    return absl::InvalidArgumentError(absl::StrCat(first_broken.message(), "; with it ", count,
                                                   " rows are unreadable, max_unreadable is ",
                                                   max_unreadable));
  };
  for (const proto::DataFiles& form : files) {
    for (const std::string& path : form.path()) {
      const std::string full = Below(root, path);
      WB_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(full));
      if (std::none_of(inputs->begin(), inputs->end(),
                       [&](const InputFile& input) { return input.path == path; }))
        inputs->push_back({path, static_cast<int64_t>(bytes.size()), Sha256(bytes)});
      WB_RETURN_IF_ERROR(ForRecords(form, full, bytes, [&](const absl::StatusOr<Record>& record) {
        return take(form, record);
      }));
    }
  }
  return absl::OkStatus();
}

}  // namespace wideberth::data
