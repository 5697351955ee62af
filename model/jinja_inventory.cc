// SPDX-License-Identifier: Apache-2.0
// See jinja_inventory.h.
#include "model/jinja_inventory.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace wideberth::model {
namespace {

absl::Status WithoutEnd(absl::string_view what, size_t at) {
  return absl::InvalidArgumentError(
      absl::StrCat("the chat template has a ", what, " without an end at byte ", at));
}

bool IsWordStart(char c) { return absl::ascii_isalpha(c) || c == '_'; }

class Reader {
 public:
  explicit Reader(absl::string_view jinja) : in_(jinja) {}

  absl::StatusOr<JinjaInventory> Run() {
    while (true) {
      const size_t tag = NextTag();
      AddText(in_.substr(at_, tag - at_), tag);
      if (tag == in_.size()) {
        if (!open_.empty()) return WithoutEnd(open_.back().first, open_.back().second);
        return std::move(found_);
      }
      WB_RETURN_IF_ERROR(ReadTag(tag));
    }
  }

 private:
  size_t NextTag() const {
    for (size_t i = at_; i + 1 < in_.size(); ++i) {
      if (in_[i] == '{' && (in_[i + 1] == '{' || in_[i + 1] == '%' || in_[i + 1] == '#')) return i;
    }
    return in_.size();
  }

  void AddText(absl::string_view text, size_t next_tag) {
    const bool block_ahead = next_tag < in_.size() && in_[next_tag + 1] != '{';
    const bool dash_ahead = next_tag + 2 < in_.size() && in_[next_tag + 2] == '-';
    if (strip_next_) {
      text = absl::StripLeadingAsciiWhitespace(text);
    } else if (after_block_ && !text.empty() && text[0] == '\n') {
      text.remove_prefix(1);  // trim_blocks
    }
    if (dash_ahead) {
      text = absl::StripTrailingAsciiWhitespace(text);
    } else if (block_ahead) {
      // lstrip_blocks: blanks between the start of a line and a block.
      const size_t blanks = text.find_last_not_of(" \t");
      const size_t keep = blanks == absl::string_view::npos ? 0 : blanks + 1;
      const bool line_start =
          keep > 0 ? text[keep - 1] == '\n'
                   : at_ == 0 || in_[at_ - 1] == '\n' || (after_block_ && in_[at_] == '\n');
      if (line_start) text = text.substr(0, keep);
    }
    if (next_tag == in_.size() && !text.empty() && text.back() == '\n') {
      text.remove_suffix(1);  // Jinja drops one newline at the very end.
    }
    if (!text.empty()) found_.texts.emplace_back(text);
  }

  absl::Status ReadTag(size_t tag) {
    const char kind = in_[tag + 1];
    const std::string close = kind == '{' ? "}}" : kind == '%' ? "%}" : "#}";
    size_t i = tag + 2;
    if (kind == '#') {
      i = in_.find(close, i);
      if (i == absl::string_view::npos) return WithoutEnd("comment", tag);
    }
    bool is_first_word = true;
    while (in_.substr(i, 2) != close) {
      if (i + 1 >= in_.size()) return WithoutEnd("tag", tag);
      if (in_[i] == '\'' || in_[i] == '"') {
        WB_RETURN_IF_ERROR(ReadString(&i));
      } else if (IsWordStart(in_[i])) {
        size_t end = i;
        while (end < in_.size() && (IsWordStart(in_[end]) || absl::ascii_isdigit(in_[end]))) ++end;
        const absl::string_view word = in_.substr(i, end - i);
        found_.words.emplace(word);
        if (kind == '%' && is_first_word) WB_RETURN_IF_ERROR(Nest(word, tag));
        is_first_word = false;
        i = end;
      } else {
        ++i;
      }
    }
    strip_next_ = in_[i - 1] == '-';
    after_block_ = kind != '{';
    at_ = i + 2;
    return absl::OkStatus();
  }

  // Blocks must close in the order they open.
  absl::Status Nest(absl::string_view word, size_t tag) {
    if (word == "if" || word == "for") {
      open_.emplace_back(word, tag);
    } else if (word == "endif" || word == "endfor") {
      if (open_.empty() || open_.back().first != word.substr(3)) {
        return absl::InvalidArgumentError(
            absl::StrCat("the chat template has an unexpected \"", word, "\" at byte ", tag));
      }
      open_.pop_back();
    }
    return absl::OkStatus();
  }

  absl::Status ReadString(size_t* at) {
    const char quote = in_[*at];
    std::string text;
    for (size_t i = *at + 1; i < in_.size(); ++i) {
      if (in_[i] == quote) {
        found_.literals.insert(std::move(text));
        *at = i + 1;
        return absl::OkStatus();
      }
      if (in_[i] == '\\' && i + 1 < in_.size()) {
        ++i;
        text += in_[i] == 'n' ? '\n' : in_[i] == 't' ? '\t' : in_[i] == 'r' ? '\r' : in_[i];
      } else {
        text += in_[i];
      }
    }
    return WithoutEnd("string", *at);
  }

  const absl::string_view in_;
  size_t at_ = 0;
  bool strip_next_ = false;
  bool after_block_ = false;
  std::vector<std::pair<absl::string_view, size_t>> open_;  // Blocks and where they begin.
  JinjaInventory found_;
};

}  // namespace

absl::StatusOr<JinjaInventory> ReadJinja(absl::string_view jinja) { return Reader(jinja).Run(); }

}  // namespace wideberth::model
