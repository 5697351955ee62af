// SPDX-License-Identifier: Apache-2.0
// See regex.h.
#include "model/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdint>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/status.h"
#include "model/unicode_text.h"

namespace wideberth::model {
namespace {

// White_Space. PCRE2's own \s has U+180E as well.
constexpr char kSpaceRanges[] =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{"
    "205f}\\x{3000}";
constexpr char kNotSpaceRanges[] =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}"
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";

class Translator {
 public:
  explicit Translator(absl::string_view pattern) : in_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < in_.size()) WB_RETURN_IF_ERROR(in_class_ ? ClassItem() : Item());
    if (in_class_) return Unsupported("a character class without its end");
    return std::move(out_);
  }

 private:
  absl::Status Unsupported(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("regex \"", in_, "\" has ", what, " at byte ",
                                                   at_, ", which is not supported"));
  }
  bool Ahead(absl::string_view text) const { return in_.substr(at_, text.size()) == text; }
  void Copy(size_t bytes) {
    out_.append(in_.data() + at_, bytes);
    at_ += bytes;
  }

  absl::Status Item() {
    switch (in_[at_]) {
      case '\\':
        return Escape();
      case '[':
        in_class_ = true;
        Copy(1);
        if (Ahead("^")) Copy(1);
        if (Ahead("]")) return Unsupported("\"]\" first in a character class");
        return absl::OkStatus();
      case '(':
        if (Ahead("(*")) return Unsupported("\"(*\"");  // A verb of PCRE2's.
        if (!Ahead("(?")) break;
        for (absl::string_view kind : {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
          if (Ahead(kind)) return Copy(kind.size()), absl::OkStatus();
        }
        return Unsupported("a group of an unknown kind");
      case '.':
      case '^':
      case '$':
        return Unsupported(absl::StrCat("\"", in_.substr(at_, 1), "\""));
      case '}':
        // Possessive in PCRE2, a repetition of a repetition in Ruby.
        if (Ahead("}+")) return Unsupported("\"}+\"");
        break;
      default:
        break;
    }
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status ClassItem() {
    if (in_[at_] == '\\') return Escape();
    if (in_[at_] == '[' || Ahead("&&")) return Unsupported("a class within a character class");
    if (in_[at_] == ']') in_class_ = false;
    Copy(1);
    return absl::OkStatus();
  }

  void Emit(absl::string_view ranges, bool negated) {
    if (in_class_) {
      absl::StrAppend(&out_, ranges);
    } else {
      absl::StrAppend(&out_, negated ? "[^" : "[", ranges, "]");
    }
  }

  absl::Status Escape() {
    if (at_ + 1 == in_.size()) return Unsupported("\"\\\" at the end");
    const char kind = in_[at_ + 1];
    switch (kind) {
      case 's':
        Emit(kSpaceRanges, false);
        break;
      case 'S':
        in_class_ ? Emit(kNotSpaceRanges, false) : Emit(kSpaceRanges, true);
        break;
      case 'd':
        return Category("Nd", false, 2);
      case 'p':
      case 'P':
        return Property();
      case 'r':
      case 'n':
      case 't':
      case 'f':
        out_.append(in_.data() + at_, 2);
        break;
      default: {
        const bool punctuation = (kind >= '!' && kind <= '/') || (kind >= ':' && kind <= '@') ||
                                 (kind >= '[' && kind <= '`') || (kind >= '{' && kind <= '~');
        if (!punctuation) return Unsupported(absl::StrCat("\"\\", in_.substr(at_ + 1, 1), "\""));
        out_.append(in_.data() + at_, 2);
      }
    }
    at_ += 2;
    return absl::OkStatus();
  }

  absl::Status Property() {
    const size_t close = in_.find('}', at_);
    if (!(Ahead("\\p{") || Ahead("\\P{")) || close == absl::string_view::npos) {
      return Unsupported("a property without braces");
    }
    return Category(in_.substr(at_ + 3, close - at_ - 3), in_[at_ + 1] == 'P', close + 1 - at_);
  }

  absl::Status Category(absl::string_view name, bool negated, size_t bytes) {
    const std::vector<CodePointRange>* additions = CategoryAdditions(name);
    if (additions == nullptr) {
      return Unsupported(
          absl::StrCat("category \"", name, "\" (known: ", SupportedCategories(), ")"));
    }
    if (negated && in_class_) return Unsupported("a negated category within a character class");
    std::string ranges = absl::StrCat("\\p{", name, "}");
    for (const CodePointRange& range : *additions) {
      absl::StrAppendFormat(&ranges, "\\x{%x}-\\x{%x}", range.first, range.last);
    }
    Emit(ranges, negated);
    at_ += bytes;
    return absl::OkStatus();
  }

  const absl::string_view in_;
  size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

RegexScratch::RegexScratch()
    : match_data_(pcre2_match_data_create(1, nullptr)),
      context_(pcre2_match_context_create(nullptr)),
      jit_stack_(pcre2_jit_stack_create(32 << 10, 8 << 20, nullptr)) {
  WB_CHECK(match_data_ != nullptr && context_ != nullptr && jit_stack_ != nullptr, "out of memory");
  // A pattern that backtracks without end gives up soon; patterns that models come with stay far
  // below, also on texts of megabytes. The heap is the interpreter's, in KiB.
  pcre2_set_match_limit(context_, 10'000'000);
  pcre2_set_heap_limit(context_, 512 << 10);
  pcre2_jit_stack_assign(context_, nullptr, jit_stack_);
}

RegexScratch::~RegexScratch() {
  pcre2_match_data_free(match_data_);
  pcre2_match_context_free(context_);
  pcre2_jit_stack_free(jit_stack_);
}

absl::StatusOr<std::string> Regex::Translate(absl::string_view pattern) {
  return Translator(pattern).Run();
}

absl::StatusOr<Regex> Regex::Compile(absl::string_view pattern) {
  WB_ASSIGN_OR_RETURN(const std::string translated, Translate(pattern));
  return CompileTranslated(translated);
}

absl::StatusOr<Regex> Regex::CompileLiteral(absl::string_view text) {
  std::string pattern;
  for (char c : text) {
    const bool is_plain = static_cast<unsigned char>(c) >= 0x80 || absl::ascii_isalnum(c);
    if (!is_plain) pattern += '\\';
    pattern += c;
  }
  return CompileTranslated(pattern);
}

absl::StatusOr<Regex> Regex::CompileTranslated(absl::string_view pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR message[160] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError(absl::StrCat("regex \"", pattern, "\" is wrong at byte ",
                                                   offset, ": ",
                                                   reinterpret_cast<const char*>(message)));
  }
  // Without JIT (an architecture that has none) pcre2_match interprets: slower, the same matches.
  (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  uint32_t may_match_empty = 0;
  pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &may_match_empty);
  return Regex(std::shared_ptr<pcre2_real_code_8>(code, &pcre2_code_free), may_match_empty != 0);
}

bool Regex::Find(absl::string_view text, size_t from, RegexScratch* scratch, size_t* begin,
                 size_t* end) const {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  int found = pcre2_match(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                          scratch->match_data_, scratch->context_);
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
    found = pcre2_match(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        scratch->match_data_, scratch->context_);
  }
  if (found < 0) {
    if (found != PCRE2_ERROR_NOMATCH) {
      WB_LOG(ERROR) << "PCRE2 gave up with error " << found << " on a text of " << text.size()
                    << " bytes; its rest from byte " << from << " is one piece";
    }
    return false;
  }
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(scratch->match_data_);
  *begin = bounds[0];
  *end = bounds[1];
  return true;
}

}  // namespace wideberth::model
