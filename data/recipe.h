// SPDX-License-Identifier: Apache-2.0
// Whether a recipe (proto/data.proto) makes sense, before any file is read.
#pragma once

#include "absl/status/status.h"
#include "proto/data.pb.h"

namespace wideberth::data {

// InvalidArgument names the field, what was found and what was expected. `has_tokenizer`: whether
// lengths in tokens can be had.
absl::Status ValidateRecipe(const proto::DataRecipe& recipe, bool has_tokenizer);

// What holds for a source: the recipe's limits, and over them its own.
proto::DataLimits LimitsOf(const proto::DataRecipe& recipe, const proto::DataSource& source);

}  // namespace wideberth::data
