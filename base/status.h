// SPDX-License-Identifier: Apache-2.0
// Error propagation used at every boundary (files, configuration, network, weights), and the check
// for broken invariants.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace wideberth {

// The same code with `context` and a colon before the message; OK stays OK.
inline absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(context, ": ", status.message()));
}

namespace internal {
[[noreturn]] inline void CheckFailed(const char* file, int line, const char* condition,
                                     const char* message) {
  std::fprintf(stderr, "%s:%d: invariant broken: %s: %s\n", file, line, condition, message);
  std::abort();
}
}  // namespace internal
}  // namespace wideberth

#define WB_CONCAT_INNER(a, b) a##b
#define WB_CONCAT(a, b) WB_CONCAT_INNER(a, b)

#define WB_RETURN_IF_ERROR(expression)                                            \
  do {                                                                            \
    if (absl::Status wb_status = (expression); !wb_status.ok()) return wb_status; \
  } while (false)

#define WB_ASSIGN_OR_RETURN_IMPL(result, declaration, expression) \
  auto result = (expression);                                     \
  if (!result.ok()) return result.status();                       \
  declaration = *std::move(result)

#define WB_ASSIGN_OR_RETURN(declaration, expression) \
  WB_ASSIGN_OR_RETURN_IMPL(WB_CONCAT(wb_result_, __LINE__), declaration, expression)

// For what can only be false by a bug of ours: prints one line and aborts. Bad input gets a Status
// instead.
#define WB_CHECK(condition, message) \
  ((condition) ? void()              \
               : ::wideberth::internal::CheckFailed(__FILE__, __LINE__, #condition, message))
