// SPDX-License-Identifier: Apache-2.0
// Checks of ScorerConfig, one sentence each.
#include "scorer/scorer_config.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "model/verdict_template.h"

namespace wideberth::scorer {
namespace {

absl::Status Bad(const proto::ScorerConfig& config, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("scorer \"", config.name(), "\": ", what));
}

absl::Status AtLeast(const proto::ScorerConfig& config, absl::string_view field, int64_t found,
                     int64_t least) {
  if (found >= least) return absl::OkStatus();
  return Bad(config, absl::StrCat(field, " is ", found, ", must be at least ", least));
}

template <typename Field>
bool Overlap(const Field& left, const Field& right) {
  return std::any_of(left.begin(), left.end(), [&](const auto& value) {
    return std::find(right.begin(), right.end(), value) != right.end();
  });
}

absl::Status ValidateVerdict(const proto::ScorerConfig& config) {
  WB_RETURN_IF_ERROR(model::VerdictTemplate::From(config).status());
  const model::VerdictTokens tokens = model::VerdictTokensOf(config);
  if (tokens.positive.empty() && config.positive_id().empty()) {
    return Bad(config, "kind VERDICT needs at least one positive and one negative token");
  }
  if (tokens.negative.empty() && config.negative_id().empty()) {
    return Bad(config, "kind VERDICT needs at least one positive and one negative token");
  }
  for (const auto* texts : {&tokens.positive, &tokens.negative}) {
    if (std::find(texts->begin(), texts->end(), "") != texts->end())
      return Bad(config, "a verdict text is empty, must be one token");
  }
  for (const auto* ids : {&config.positive_id(), &config.negative_id()}) {
    for (int32_t id : *ids) WB_RETURN_IF_ERROR(AtLeast(config, "a verdict token id", id, 0));
  }
  if (Overlap(tokens.positive, tokens.negative) ||
      Overlap(config.positive_id(), config.negative_id())) {
    return Bad(config, "the same verdict token is positive and negative");
  }
  return absl::OkStatus();
}

bool HasVerdictTokens(const proto::ScorerConfig& config) {
  return config.positive_size() + config.negative_size() + config.positive_id_size() +
             config.negative_id_size() >
         0;
}

absl::Status ValidateGenerative(const proto::ScorerConfig& config) {
  const proto::GenerativeConfig& generative = config.generative();
  if (config.has_template_())
    return Bad(config,
               "kind GENERATIVE asks by generative.instruction; template is for kind VERDICT");
  if (config.output() != proto::ScorerConfig::PROBABILITY)
    return Bad(
        config,
        "kind GENERATIVE gives the share of positive answers, a PROBABILITY; LOG_ODDS is for "
        "kind VERDICT");
  if (HasVerdictTokens(config))
    return Bad(config, "kind GENERATIVE reads a text; verdict tokens are for kind VERDICT");
  if (generative.has_instruction() && generative.instruction().empty())
    return Bad(config, "generative.instruction is empty, must be a text or left out");
  WB_RETURN_IF_ERROR(AtLeast(config, "generative.max_new_tokens", generative.max_new_tokens(), 1));
  WB_RETURN_IF_ERROR(AtLeast(config, "generative.num_samples", generative.num_samples(), 1));
  if (!(generative.temperature() >= 0) || !std::isfinite(generative.temperature())) {
    return Bad(config, absl::StrCat("generative.temperature is ", generative.temperature(),
                                    ", must be at least 0"));
  }
  if (generative.num_samples() > 1 && generative.temperature() == 0) {
    return Bad(config, absl::StrCat("generative.num_samples is ", generative.num_samples(),
                                    " with temperature 0, where all answers are one: must be 1, or "
                                    "the temperature above 0"));
  }
  return absl::OkStatus();
}

absl::Status ValidateReward(const proto::ScorerConfig& config) {
  if (config.has_template_())
    return Bad(config, "kind REWARD uses the model's chat template; template is for kind VERDICT");
  if (config.has_output())
    return Bad(config, "kind REWARD gives the model's raw score; output is for kind VERDICT");
  if (HasVerdictTokens(config)) {
    return Bad(config, "kind REWARD has a score head; verdict tokens are for kind VERDICT");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateScorerConfig(const proto::ScorerConfig& config) {
  if (config.name().empty())
    return absl::InvalidArgumentError(
        "a scorer has no name; scores and processes are named after it");
  const bool plain = std::all_of(config.name().begin(), config.name().end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '_' || c == '-';
  });
  if (!plain)
    return Bad(config,
               "the name may have letters, digits, '_' and '-' only, since processes and files are "
               "named after it");
  if (config.model().path().empty())
    return Bad(config, "model.path is empty, must be a Hugging Face folder");
  WB_RETURN_IF_ERROR(AtLeast(config, "model.num_threads", config.model().num_threads(), 0));
  WB_RETURN_IF_ERROR(AtLeast(config, "replicas", config.replicas(), 1));
  WB_RETURN_IF_ERROR(AtLeast(config, "max_batch_tokens", config.max_batch_tokens(), 1));
  WB_RETURN_IF_ERROR(AtLeast(config, "max_batch_wait_ms", config.max_batch_wait_ms(), 0));
  WB_RETURN_IF_ERROR(AtLeast(config, "queue_items", config.queue_items(), 1));
  WB_RETURN_IF_ERROR(AtLeast(config, "cache_items", config.cache_items(), 0));
  if (!(config.timeout() > 0) || !std::isfinite(config.timeout())) {
    return Bad(config, absl::StrCat("timeout is ", config.timeout(),
                                    ", must be a positive number of seconds"));
  }
  if (config.has_generative() && config.kind() != proto::ScorerConfig::GENERATIVE)
    return Bad(config, absl::StrCat("generative is for kind GENERATIVE, found kind ",
                                    proto::ScorerConfig::Kind_Name(config.kind())));
  switch (config.kind()) {
    case proto::ScorerConfig::REWARD:
      return ValidateReward(config);
    case proto::ScorerConfig::GENERATIVE:
      return ValidateGenerative(config);
    default:
      return ValidateVerdict(config);
  }
}

absl::StatusOr<proto::ScorerConfig> FindScorer(const proto::RunConfig& run,
                                               absl::string_view name) {
  std::vector<std::string> names;
  for (const proto::ScorerConfig& config : run.scorer()) {
    if (config.name() == name) return config;
    names.push_back(config.name());
  }
  return absl::NotFoundError(absl::StrCat("the run has no scorer named \"", name,
                                          "\", it has: ", absl::StrJoin(names, ", ")));
}

}  // namespace wideberth::scorer
