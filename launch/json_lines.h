// SPDX-License-Identifier: Apache-2.0
// Lines in, JSON lines out: what the one-off looks (`wideberth tokenize`, `generate`, `logprobs`)
// share.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace wideberth::launch {

struct InputLine {
  std::string text;    // Without the line's end; never empty.
  std::string origin;  // "prompts.jsonl:7" or "standard input:7", for errors.
  uint64_t index = 0;  // From 0, empty lines not counted.
};

// Hands the lines of a file, or of standard input where `path` is empty or "-", to `take` in
// batches of at most `batch_lines` (one at a time from a terminal). Stops at the first error of
// `take`.
absl::Status ForLines(const std::string& path, int batch_lines,
                      const std::function<absl::Status(const std::vector<InputLine>&)>& take);

// The line as a JSON object; InvalidArgument with origin and column where it is none.
absl::StatusOr<nlohmann::json> ParseObject(const InputLine& line);
// A field of whole numbers in [0, limit); InvalidArgument with origin, field, what was found and
// expected.
absl::StatusOr<std::vector<int32_t>> TokenIds(const nlohmann::json& object,
                                              const std::string& field, const InputLine& line,
                                              int64_t limit);

// One line on standard output. Unavailable when it cannot be written (a full disk, a closed pipe).
absl::Status PrintLine(const nlohmann::ordered_json& object);

}  // namespace wideberth::launch
