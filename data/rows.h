// SPDX-License-Identifier: Apache-2.0
// What a recipe takes from a file's rows: text, id, category, source and label, and an account of
// the rows that gave nothing. Used by the mix.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "proto/data.pb.h"

namespace wideberth::data {

struct Row {
  std::string text;  // UTF-8, not blank.
  std::string id;    // Empty: none; so are the next two.
  std::string category;
  std::string source;
  absl::optional<bool> unsafe;
  std::string origin;  // "file:12", for messages.
};

enum class Drop {
  kUnreadable,
  kLeftOut,  // By `where`.
  kEmpty,
  kNoPlaceholder,
  kTooShort,
  kTooLong,
  kStayClear,
  kDuplicate,
  kNearDuplicate,
  kNearOtherSplit,
};
absl::string_view DropName(Drop reason);

// Where the rows of a file, or what was made of them, went. What is neither taken nor dropped was
// not needed.
struct Account {
  int64_t read = 0;
  int64_t taken = 0;
  std::map<Drop, int64_t> dropped;

  int64_t num_dropped() const;
  // "31323 read, 4 empty, 61 near duplicates"; without the reasons that did not occur.
  std::string ToString() const;
};

struct InputFile {
  std::string path;  // As the recipe has it.
  int64_t bytes = 0;
  std::string sha256;
};

std::string Sha256(absl::string_view bytes);  // 64 hex digits.

// `path` of the recipe below `root`.
std::string Below(absl::string_view root, absl::string_view path);

// Appends the rows of all files, counts in `account` and lists the files in `inputs`, each once.
// Errors: a file that cannot be read or is not of its format; the first row that is broken, with
// line, field, what was found and expected, where there are more than `max_unreadable`.
absl::Status ReadRows(const google::protobuf::RepeatedPtrField<proto::DataFiles>& files,
                      absl::string_view root, int64_t max_unreadable, std::vector<Row>* rows,
                      Account* account, std::vector<InputFile>* inputs);

}  // namespace wideberth::data
