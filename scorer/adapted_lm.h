// SPDX-License-Identifier: Apache-2.0
// The network of a scorer: a Hugging Face folder and, over it, the adapter of a trained guard or
// reward model. Used by every kind of scoring model.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/adapter.h"
#include "model/causal_lm.h"
#include "proto/config.pb.h"
#include "scorer/calibration.h"

namespace wideberth::scorer {

struct AdaptedLm {
  std::unique_ptr<model::CausalLm> lm;
  std::shared_ptr<const model::Adapter> adapter;  // Null: the folder's own model.
  Calibration calibration;                        // Of a VERDICT's adapter, or of its folder.
  // The model's own; with an adapter of its fingerprint, both files of the adapter and the
  // calibration.
  std::string fingerprint;
};

// Errors name the scorer, and file, field or tensor at fault.
absl::StatusOr<AdaptedLm> LoadAdaptedLm(const proto::ScorerConfig& config);

// Keys and values of tokens that every sequence begins with. Throws: call it inside CatchTorch, in
// inference mode. `tokens` not empty.
model::KvPrefix Prefill(const AdaptedLm& model, const std::vector<int32_t>& tokens);

}  // namespace wideberth::scorer
