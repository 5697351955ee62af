// SPDX-License-Identifier: Apache-2.0
// What stands in place of a prompt's or a completion's text where texts must not be kept
// (RunConfig.redact_text, `wideberth report --redact`).
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace wideberth {

// "[45 bytes, xxh3 0011223344556677]", the first half of the text's Fingerprint. With `mark`
// "[45 bytes, xxh3 0011223344556677, a refusal]". Equal texts look equal, and whoever guesses a
// text can tell that it is this one.
std::string Redacted(absl::string_view text, absl::string_view mark = "");

// Whether it is what Redacted returns, with `mark`.
bool IsRedacted(absl::string_view text, absl::string_view mark = "");

}  // namespace wideberth
