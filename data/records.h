// SPDX-License-Identifier: Apache-2.0
// JSONL, JSON, CSV and plain text as one thing: rows with named fields. Used by rows.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/data.pb.h"

namespace wideberth::data {

struct Record {
  nlohmann::json fields;  // An object.
  std::string origin;     // "file:12", "file: item 3" or "file: Topic.Subtopic.0".
};

// Gives `take` every row of `text`, the content of `path`; a row that cannot be read as an error
// that names it. Stops at the first error `take` returns. InvalidArgument where the file as a whole
// is not of its format.
absl::Status ForRecords(const proto::DataFiles& files, absl::string_view path,
                        absl::string_view text,
                        const std::function<absl::Status(absl::StatusOr<Record>)>& take);

// The value that `path` names: a field, or one within others and within lists, "outer.0.inner". A
// name that holds dots itself goes before. Null where there is none.
const nlohmann::json* FindField(const nlohmann::json& value, absl::string_view path);

// For messages: "a text", "a list", ...
absl::string_view KindOf(const nlohmann::json& value);

}  // namespace wideberth::data
