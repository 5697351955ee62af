// SPDX-License-Identifier: Apache-2.0
// `wideberth merge`: a base and an adapter trained on it -> one Hugging Face model folder, which
// serves or is trained further like any other.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "proto/config.pb.h"

namespace wideberth::launch {

// Writes `out`: weights with LoRA pairs folded in (W + s B A in float64) or replaced by those the
// adapter has, in the dtypes they are stored in or in `dtype`; config.json, the tokenizer's files
// and generation_config.json of `model`; calibration.json of `adapter`. With a score head it is a
// sequence classifier of one label. AlreadyExists where `out` has anything in it; it is whole or
// absent whatever happens. The weights are in memory twice.
absl::Status MergeAdapter(const std::string& model, const std::string& adapter, std::string out,
                          absl::optional<proto::DType> dtype);

// Arguments after the subcommand's name.
absl::Status Merge(const std::vector<std::string>& arguments);

}  // namespace wideberth::launch
