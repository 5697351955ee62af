// SPDX-License-Identifier: Apache-2.0
// CSV as RFC 4180 has it, with what files in the wild do besides: lines that end in a mere LF, and
// a quote within a field that does not begin with one. Debian's libcsv does not say on which line a
// row stands, which the messages about broken rows need. Used by records.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace wideberth::data {

// Not thread-safe; the text must outlive it.
class CsvReader {
 public:
  explicit CsvReader(absl::string_view text) : rest_(text) {}

  // The next row goes to `fields`; empty lines are skipped. False at the end. InvalidArgument, with
  // line and field, where a quoted field has no end or goes on after it; nothing can be read then.
  absl::StatusOr<bool> Next(std::vector<std::string>* fields);

  // Where the row that was read last begins, from 1.
  int64_t line() const { return row_line_; }

 private:
  absl::Status QuotedField(size_t number, std::string* field);
  void PlainField(std::string* field);
  bool SkipLineEnd();

  absl::string_view rest_;
  int64_t next_line_ = 1;
  int64_t row_line_ = 0;
};

}  // namespace wideberth::data
