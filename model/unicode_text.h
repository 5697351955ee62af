// SPDX-License-Identifier: Apache-2.0
// UTF-8 and Unicode as the tokenizer needs them: repair, normal forms, general categories. The
// tables follow those inside the `tokenizers` package, which come from several Unicode versions
// (unicode_tables.inc). Used by the tokenizer only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace wideberth::model {

struct CodePointRange {
  uint32_t first;
  uint32_t last;
};

// The first byte that is not part of valid UTF-8 (no surrogates, no overlong forms), or
// bytes.size().
size_t ValidUtf8Prefix(absl::string_view bytes);

// Each maximal part that cannot begin a character becomes U+FFFD (Unicode's recommended practice,
// as Rust and Python do it).
std::string ReplaceInvalidUtf8(absl::string_view bytes);

// Bytes of `bytes`' end that could still become one character if more followed: 0 to 3.
size_t UnfinishedUtf8Suffix(absl::string_view bytes);

// The code point at `at` of valid UTF-8; its length goes to `*length`.
uint32_t CodePointAt(absl::string_view text, size_t at, size_t* length);
void AppendUtf8(uint32_t code_point, std::string* text);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
// True if `text` (valid UTF-8) is surely in NFC already; never true for text that is not.
bool IsPlainlyNfc(absl::string_view text);
std::string Normalize(absl::string_view text, NormalForm form);

// Unicode white space (White_Space), which is Rust's char::is_whitespace and oniguruma's \s.
bool IsWhiteSpace(uint32_t code_point);
// Rust's char::is_numeric: categories Nd, Nl, No.
bool IsNumeric(uint32_t code_point);
// Letters, marks, decimal digits, connectors: the regex crate's \w.
bool IsWordCharacter(uint32_t code_point);

// What has to be added to PCRE2's \p{category} to get oniguruma's. Null for a category whose
// difference is not tabulated. `category` is one of L Lu Ll Lt Lm Lo M N Nd Nl No P S Z.
const std::vector<CodePointRange>* CategoryAdditions(absl::string_view category);
absl::string_view SupportedCategories();

}  // namespace wideberth::model
