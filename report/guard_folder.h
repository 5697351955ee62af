// SPDX-License-Identifier: Apache-2.0
// The folder of `wideberth evaluate --guard` as the report reads it: the table (guard_table.json)
// and every mistake (confusions.jsonl). report/guard_figures.* says what is in them,
// report/guard_page.* shows them.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "report/guard_figures.h"

namespace wideberth::report {

inline constexpr char kGuardTableFile[] = "guard_table.json";
inline constexpr char kConfusionsFile[] = "confusions.jsonl";

struct GuardFolder {
  std::string folder;
  std::string table;  // guard_table.json as it stands.
  GuardAsked asked;
  std::vector<GuardedSet> sets;       // `rows` are the mistakes only, the surest first.
  std::vector<GuardFigures> figures;  // Of each set.
};

// NotFound where a file is missing; InvalidArgument naming file, line and field where one is not as
// expected: no JSON, a field missing or of the wrong kind, a mistake that is none, one of an
// unknown set, more or fewer of a set than its figures say.
absl::StatusOr<GuardFolder> ReadGuardFolder(absl::string_view folder);

}  // namespace wideberth::report
