// SPDX-License-Identifier: Apache-2.0
// The section of the report's page about guards: who was asked, the table per set and weighted by
// rows, and the mistakes to browse, by set and kind.
#pragma once

#include <string>
#include <vector>

#include "report/guard_folder.h"

namespace wideberth::report {

inline constexpr size_t kShownMistakes = 20;  // Of a set and a kind; confusions.jsonl has all.

// HTML of all `guards` one after the other; empty for none. Every prompt and response is folded,
// and a length and a hash where `redact` says so.
std::string GuardsHtml(const std::vector<GuardFolder>& guards, bool redact);

}  // namespace wideberth::report
