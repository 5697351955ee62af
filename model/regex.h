// SPDX-License-Identifier: Apache-2.0
// The regular expressions of tokenizer.json. They are written for oniguruma (Ruby syntax, Unicode
// 16) and run here by PCRE2, after a translation of what the two read differently. Used by the
// pre-tokenizer only.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;
struct pcre2_real_jit_stack_8;

namespace wideberth::model {

// PCRE2's working memory for one thread.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(const RegexScratch&) = delete;
  RegexScratch& operator=(const RegexScratch&) = delete;

 private:
  friend class Regex;
  pcre2_real_match_data_8* match_data_;
  pcre2_real_match_context_8* context_;
  pcre2_real_jit_stack_8* jit_stack_;
};

// Compiled once; thread-safe, given one scratch a thread.
class Regex {
 public:
  // InvalidArgument names the construct that would not mean the same here, or PCRE2's complaint and
  // its place.
  static absl::StatusOr<Regex> Compile(absl::string_view pattern);
  static absl::StatusOr<Regex> CompileLiteral(absl::string_view text);
  // The pattern in PCRE2's terms.
  static absl::StatusOr<std::string> Translate(absl::string_view pattern);

  bool MayMatchEmpty() const { return may_match_empty_; }

  // The first match at or after byte `from` of valid UTF-8 `text`; false if there is none.
  bool Find(absl::string_view text, size_t from, RegexScratch* scratch, size_t* begin,
            size_t* end) const;

 private:
  Regex(std::shared_ptr<pcre2_real_code_8> code, bool may_match_empty)
      : code_(std::move(code)), may_match_empty_(may_match_empty) {}
  static absl::StatusOr<Regex> CompileTranslated(absl::string_view pattern);
  std::shared_ptr<pcre2_real_code_8> code_;
  bool may_match_empty_;
};

}  // namespace wideberth::model
