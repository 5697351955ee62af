// SPDX-License-Identifier: Apache-2.0
// What makes a scorer's configuration runnable, checked before anything is loaded. Used by the
// launcher's validation, the scorer process and `wideberth score`.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/config.pb.h"

namespace wideberth::scorer {

// InvalidArgument names the scorer, the field, the value found and what is expected, e.g.
// `scorer "safety": kind VERDICT needs at least one positive and one negative token`. Touches no
// file.
absl::Status ValidateScorerConfig(const proto::ScorerConfig& config);

// Whether the kind loads a model of its own, `model`.
bool HasModel(const proto::ScorerConfig& config);

// The scorer of that name; NotFound names those the run has.
absl::StatusOr<proto::ScorerConfig> FindScorer(const proto::RunConfig& run, absl::string_view name);

}  // namespace wideberth::scorer
