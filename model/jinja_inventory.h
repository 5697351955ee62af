// SPDX-License-Identifier: Apache-2.0
// What a Jinja template is made of, as far as recognising it needs. Used by chat_template.cc only;
// nothing is executed.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace wideberth::model {

struct JinjaInventory {
  std::set<std::string> literals;  // Strings within tags, escapes resolved.
  std::set<std::string> words;     // Names and keywords within tags, outside strings.
  // Text outside tags that reaches the output, in order, with trim_blocks and lstrip_blocks on as
  // for chat templates.
  std::vector<std::string> texts;
};

// InvalidArgument where a tag, a string or a block has no end, with its byte.
absl::StatusOr<JinjaInventory> ReadJinja(absl::string_view jinja);

}  // namespace wideberth::model
