// SPDX-License-Identifier: Apache-2.0
#include "data/csv.h"

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace wideberth::data {

bool CsvReader::SkipLineEnd() {
  const size_t length = absl::StartsWith(rest_, "\r\n") ? 2 : absl::StartsWith(rest_, "\n") ? 1 : 0;
  rest_.remove_prefix(length);
  next_line_ += length > 0;
  return length > 0;
}

absl::Status CsvReader::QuotedField(size_t number, std::string* field) {
  const int64_t opened = next_line_;
  rest_.remove_prefix(1);
  while (true) {
    const size_t quote = rest_.find('"');
    if (quote == absl::string_view::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", opened, ", field ", number,
                       " begins with a quote that the file never closes, expected a second one"));
    }
    for (char c : rest_.substr(0, quote)) next_line_ += c == '\n';
    field->append(rest_.data(), quote);
    rest_.remove_prefix(quote + 1);
    if (!absl::StartsWith(rest_, "\"")) break;
    field->push_back('"');
    rest_.remove_prefix(1);
  }
  if (rest_.empty() || rest_[0] == ',' || rest_[0] == '\n' || absl::StartsWith(rest_, "\r\n"))
    return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("line ", next_line_, ", field ", number,
                                                 " goes on with \"", rest_.substr(0, 1),
                                                 "\" after its closing quote, expected a comma or "
                                                 "the line's end (a quote within is doubled)"));
}

void CsvReader::PlainField(std::string* field) {
  const size_t length = std::min(rest_.find_first_of(",\n"), rest_.size());
  *field = std::string(rest_.substr(0, length));
  rest_.remove_prefix(length);
  if (absl::StartsWith(rest_, "\n") && absl::EndsWith(*field, "\r")) field->pop_back();
}

absl::StatusOr<bool> CsvReader::Next(std::vector<std::string>* fields) {
  fields->clear();
  while (SkipLineEnd()) {
  }
  if (rest_.empty()) return false;
  row_line_ = next_line_;
  while (true) {
    std::string field;
    if (absl::StartsWith(rest_, "\"")) {
      WB_RETURN_IF_ERROR(QuotedField(fields->size() + 1, &field));
    } else {
      PlainField(&field);
    }
    fields->push_back(std::move(field));
    if (!absl::StartsWith(rest_, ",")) break;
    rest_.remove_prefix(1);
  }
  SkipLineEnd();
  return true;
}

}  // namespace wideberth::data
