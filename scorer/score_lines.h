// SPDX-License-Identifier: Apache-2.0
// `wideberth score`: conversations as JSON lines in, typed results as JSON lines out, without any
// server.
#pragma once

#include <istream>
#include <ostream>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/config.pb.h"
#include "scorer/scoring_model.h"

namespace wideberth::scorer {

// Each line is {"prompt": text or list of {"role", "content"}, "completion": text}, or {"messages":
// [...]} that end with an assistant's; an "id" comes back. Each result is {"status", "value" where
// SCORED, "message" where not, "scorer", "model_fingerprint", "template_hash", "latency_ms"}, in
// order. Lines that are at hand are scored together up to max_batch_tokens, and the answers of all
// lines read are out before more input is waited for (on std::cin that needs
// std::ios::sync_with_stdio(false), otherwise lines go one by one). The first bad line ends it with
// InvalidArgument, `origin`:line and what was expected, after the results of the lines before it.
// Unavailable when `out` cannot be written. Loads the model first.
absl::Status ScoreLines(const proto::ScorerConfig& config, std::istream& in, std::ostream& out,
                        absl::string_view origin = "standard input");

// The same with a model at hand.
absl::Status ScoreLines(ScoringModel& model, int64_t max_batch_tokens, std::istream& in,
                        std::ostream& out, absl::string_view origin);

}  // namespace wideberth::scorer
