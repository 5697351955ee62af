// SPDX-License-Identifier: Apache-2.0
// What somebody answered, as it may stand in an error's sentence.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace wideberth {

enum class ExcerptOf { kHead, kTail };

// The text in quotation marks on one line: at most its first or its last `max_bytes`, cut between
// characters, "..." where something is left out. Control characters become spaces, bytes that are
// no UTF-8 question marks.
std::string Excerpt(absl::string_view text, size_t max_bytes = 80,
                    ExcerptOf part = ExcerptOf::kHead);

// From now on every excerpt of this process is the Redacted text instead: what is excerpted may be
// an answer, or quote one. Any thread; set by main() from RunConfig.redact_text.
void RedactExcerpts(bool on);
bool ExcerptsAreRedacted();

}  // namespace wideberth
