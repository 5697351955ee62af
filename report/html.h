// SPDX-License-Identifier: Apache-2.0
// Pieces of HTML for the report's page. Everything that comes from a folder goes through Escaped.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace wideberth::report {

// Text between tags or in a quoted attribute; bytes that are no UTF-8 become U+FFFD.
std::string Escaped(absl::string_view text);

// JSON that may stand inside a <script>.
std::string ScriptSafe(absl::string_view json);

// "0.123" with a true minus sign, an en dash where there is none.
std::string Decimals(const absl::optional<double>& value, int decimals = 3);
std::string SignedDecimals(double value, int decimals = 3);
std::string Percent(const absl::optional<double>& share);  // "12.3 %"

// A prompt or an answer: escaped, or its length and hash where it is redacted.
std::string TextOf(absl::string_view text, bool redact);
// Each sentence between `tag`s, escaped.
std::string Paragraphs(const std::vector<std::string>& sentences, absl::string_view tag = "p");
// Both are HTML; empty without content.
std::string Folded(absl::string_view summary, absl::string_view content);

// A table with a caption; the first cell of a row is its header. A column whose first cell begins
// with a letter stands to the left, numbers to the right.
class HtmlTable {
 public:
  // All as text.
  HtmlTable(absl::string_view caption, std::vector<std::string> columns)
      : caption_(caption), columns_(std::move(columns)) {}
  // `row_class`: "strong", "weak" or empty.
  void AddRow(std::vector<std::string> cells, absl::string_view row_class = "");
  bool empty() const { return rows_.empty(); }
  std::string Html() const;

 private:
  struct Row {
    std::vector<std::string> cells;
    std::string row_class;
  };
  std::string caption_;
  std::vector<std::string> columns_;
  std::vector<Row> rows_;
};

}  // namespace wideberth::report
