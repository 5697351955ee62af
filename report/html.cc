// SPDX-License-Identifier: Apache-2.0
#include "report/html.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "base/redact.h"
#include "report/system_answers.h"

namespace wideberth::report {

std::string Escaped(absl::string_view text) {
  // The JSON writer replaces what is no UTF-8; its quotes are taken off again.
  const nlohmann::json value = std::string(text);
  const std::string dumped = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  const std::string whole = nlohmann::json::parse(dumped).get<std::string>();
  return absl::StrReplaceAll(
      whole, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&#39;"}});
}

std::string ScriptSafe(absl::string_view json) {
  return absl::StrReplaceAll(json, {{"<", "\\u003c"}, {">", "\\u003e"}, {"&", "\\u0026"}});
}

std::string Decimals(const absl::optional<double>& value, int decimals) {
  if (!value.has_value() || !std::isfinite(*value)) return "\u2013";
  std::string text = absl::StrFormat("%.*f", decimals, std::abs(*value));
  const bool zero = text.find_first_not_of("0.") == std::string::npos;
  return *value < 0 && !zero ? absl::StrCat("\u2212", text) : text;
}

std::string SignedDecimals(double value, int decimals) {
  const std::string text = Decimals(value, decimals);
  const bool zero = text.find_first_not_of("0.") == std::string::npos;
  return value > 0 && !zero ? absl::StrCat("+", text) : text;
}

std::string Percent(const absl::optional<double>& share) {
  if (!share.has_value()) return Decimals(share);
  return absl::StrCat(Decimals(100 * *share, 1), "\u00a0%");
}

std::string TextOf(absl::string_view text, bool redact) {
  if (!redact || IsRedacted(text) || IsRedacted(text, kRefusalMark)) return Escaped(text);
  return Redacted(text);
}

std::string Paragraphs(const std::vector<std::string>& sentences, absl::string_view tag) {
  std::string html;
  for (const std::string& sentence : sentences)
    absl::StrAppend(&html, "<", tag, ">", Escaped(sentence), "</", tag, ">\n");
  return html;
}

std::string Folded(absl::string_view summary, absl::string_view content) {
  if (content.empty()) return "";
  return absl::StrCat("<details><summary>", summary, "</summary>\n", content, "</details>\n");
}

void HtmlTable::AddRow(std::vector<std::string> cells, absl::string_view row_class) {
  rows_.push_back({std::move(cells), std::string(row_class)});
}

std::string HtmlTable::Html() const {
  const auto style = [](const std::string& cell) {
    return !cell.empty() && absl::ascii_isalpha(cell[0]) ? " class=\"words\"" : "";
  };
  std::string html = absl::StrCat("<div class=\"scroll\" tabindex=\"0\"><table>\n<caption>",
                                  Escaped(caption_), "</caption>\n<thead><tr>");
  for (size_t i = 0; i < columns_.size(); ++i) {
    absl::StrAppend(&html, "<th scope=\"col\"",
                    rows_.empty() || i >= rows_[0].cells.size() ? "" : style(rows_[0].cells[i]),
                    ">", Escaped(columns_[i]), "</th>");
  }
  absl::StrAppend(&html, "</tr></thead>\n<tbody>\n");
  for (const Row& row : rows_) {
    absl::StrAppend(&html, "<tr",
                    row.row_class.empty() ? "" : absl::StrCat(" class=\"", row.row_class, "\""),
                    ">");
    for (size_t i = 0; i < row.cells.size(); ++i) {
      absl::StrAppend(&html, i == 0 ? "<th scope=\"row\"" : "<td",
                      i == 0 ? "" : style(row.cells[i]), ">", Escaped(row.cells[i]),
                      i == 0 ? "</th>" : "</td>");
    }
    absl::StrAppend(&html, "</tr>\n");
  }
  return absl::StrCat(html, "</tbody></table></div>\n");
}

}  // namespace wideberth::report
