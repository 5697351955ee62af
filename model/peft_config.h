// SPDX-License-Identifier: Apache-2.0
// adapter_config.json as PEFT reads and writes it, and which modules its target names mean. Used by
// Adapter.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/model_spec.h"
#include "proto/config.pb.h"

namespace wideberth::model {

// Errors name file, field, found and expected; a setting that would change the result and is not
// supported (DoRA, patterns of ranks, LoRA on biases, ...) is one.
absl::StatusOr<proto::LoraConfig> ReadPeftConfig(const std::string& file);

// The text of adapter_config.json. `score_head`: of a sequence classifier, with its head beside.
// `all_weights`: no LoRA pairs; every module with weights is one of modules_to_save.
std::string PeftConfigText(const proto::LoraConfig& config, absl::string_view base_model_path,
                           bool score_head, bool all_weights);

// Per layer which projections are targets: as in PEFT those whose module name ("model.layers.0.
// self_attn.q_proj") is a target or ends with "." and a target; without targets, all.
// InvalidArgument for a target that means no module of this model.
absl::StatusOr<std::vector<std::array<bool, kNumProjections>>> TargetModules(
    const ModelSpec& spec, const proto::LoraConfig& config);

}  // namespace wideberth::model
