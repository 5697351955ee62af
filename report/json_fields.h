// SPDX-License-Identifier: Apache-2.0
// JSON that somebody else wrote: its fields as they are expected, or the sentence that names file,
// line and field, what was found and what was expected. Reads the folders a report is about.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace wideberth::report {

// InvalidArgument: `origin: "field" is found, expected expected`.
absl::Status InvalidField(absl::string_view origin, absl::string_view field,
                          absl::string_view found, absl::string_view expected);

// The value on one line, shortened.
std::string ShownJson(const nlohmann::ordered_json& value);

// One JSON object. `origin`: the file, with its line where it has one object a line.
absl::StatusOr<nlohmann::ordered_json> ParseJson(absl::string_view text, absl::string_view origin);

// Reads the fields of one object and remembers in `status` the first that is not as expected; a
// field that is null counts as missing. `object` and `status` outlive this.
class JsonFields {
 public:
  // `prefix`: "answers[2]." within `origin`.
  JsonFields(const nlohmann::ordered_json& object, std::string origin, std::string prefix,
             absl::Status* status);

  // Empty or 0 where the field is missing and not required.
  std::string Text(absl::string_view name, bool required = false);
  absl::optional<double> Number(absl::string_view name, bool required = false);
  absl::optional<double> Share(absl::string_view name);  // From 0 to 1.
  int64_t Count(absl::string_view name, bool required = false);
  absl::optional<bool> Bool(absl::string_view name, bool required = false);
  // A list or an object; an empty one where the field is missing and not required.
  const nlohmann::ordered_json& List(absl::string_view name, bool required = false);
  const nlohmann::ordered_json& Object(absl::string_view name);

  template <typename Take>  // Take(key, element, its name for errors)
  void ForEach(absl::string_view name, const nlohmann::ordered_json& values, const Take& take) {
    size_t index = 0;
    for (const auto& [key, value] : values.items()) {
      take(
          key, value,
          absl::StrCat(prefix_, name,
                       values.is_array() ? absl::StrCat("[", index, "]") : absl::StrCat(".", key)));
      ++index;
    }
  }

  void Fail(absl::string_view field, absl::string_view found, absl::string_view expected);
  JsonFields Within(const nlohmann::ordered_json& object, absl::string_view field) const;

 private:
  const nlohmann::ordered_json* Find(absl::string_view name, bool required,
                                     absl::string_view expected);
  const nlohmann::ordered_json& Nested(absl::string_view name, bool required, bool list);

  const nlohmann::ordered_json& object_;
  const std::string origin_, prefix_;
  absl::Status* const status_;
};

}  // namespace wideberth::report
