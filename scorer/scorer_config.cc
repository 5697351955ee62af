// SPDX-License-Identifier: Apache-2.0
// Checks of ScorerConfig, one sentence each.
#include "scorer/scorer_config.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
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

// `field`: "generative" or "judge".
absl::Status ValidateSamples(const proto::ScorerConfig& config, absl::string_view field,
                             int32_t num_samples, double temperature) {
  WB_RETURN_IF_ERROR(AtLeast(config, absl::StrCat(field, ".num_samples"), num_samples, 1));
  if (!(temperature >= 0) || !std::isfinite(temperature)) {
    return Bad(config,
               absl::StrCat(field, ".temperature is ", temperature, ", must be at least 0"));
  }
  if (num_samples > 1 && temperature == 0) {
    return Bad(config, absl::StrCat(field, ".num_samples is ", num_samples,
                                    " with temperature 0, where all answers are one: must be 1, or "
                                    "the temperature above 0"));
  }
  return absl::OkStatus();
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
  return ValidateSamples(config, "generative", generative.num_samples(), generative.temperature());
}

absl::Status ValidateOracle(const proto::ScorerConfig& config) {
  if (config.has_model() || config.has_adapter())
    return Bad(config, "kind ORACLE judges by rule; model and adapter are for the other kinds");
  if (config.has_template_() || config.has_output() || HasVerdictTokens(config)) {
    return Bad(config,
               "kind ORACLE judges by rule; template, output and verdict tokens are for kind "
               "VERDICT");
  }
  return absl::OkStatus();
}

// Of JUDGE and HTTP_JUDGE.
absl::Status ValidateRubric(const proto::ScorerConfig& config) {
  const proto::JudgeConfig& judge = config.judge();
  const absl::string_view kind = proto::ScorerConfig::Kind_Name(config.kind());
  if (config.has_template_() || config.has_output() || config.has_chat() ||
      HasVerdictTokens(config)) {
    return Bad(config, absl::StrCat("kind ", kind,
                                    " grades by judge.rubric; template, chat, output and verdict "
                                    "tokens are for kind VERDICT"));
  }
  if (judge.has_rubric() == judge.has_rubric_path()) {
    const bool both = judge.has_rubric();
    return Bad(config,
               absl::StrCat("kind ", kind, " has ", both ? "both" : "neither", " judge.rubric ",
                            both ? "and" : "nor", " judge.rubric_path, expected one of them"));
  }
  if (judge.has_rubric()) WB_RETURN_IF_ERROR(model::VerdictTemplate::From(config).status());
  if (judge.low() >= judge.high()) {
    return Bad(config, absl::StrCat("judge.low is ", judge.low(), " and judge.high ", judge.high(),
                                    ", must be ascending"));
  }
  if (absl::StripAsciiWhitespace(judge.label()).empty())
    return Bad(config, "judge.label is empty, must be what stands before the grade");
  WB_RETURN_IF_ERROR(AtLeast(config, "judge.max_new_tokens", judge.max_new_tokens(), 1));
  return ValidateSamples(config, "judge", judge.num_samples(), judge.temperature());
}

absl::Status ValidateJudge(const proto::ScorerConfig& config) {
  WB_RETURN_IF_ERROR(ValidateRubric(config));
  if (config.judge().reading() == proto::JudgeConfig::TOKEN_PROBABILITIES &&
      (config.judge().num_samples() > 1 || config.judge().temperature() > 0)) {
    return Bad(config,
               "judge.reading is TOKEN_PROBABILITIES, which samples nothing; num_samples and "
               "temperature are for PARSE");
  }
  return absl::OkStatus();
}

absl::Status ValidateHttpJudge(const proto::ScorerConfig& config) {
  WB_RETURN_IF_ERROR(ValidateRubric(config));
  const proto::HttpConfig& http = config.http();
  if (config.has_model() || config.has_adapter())
    return Bad(config, "kind HTTP_JUDGE asks a server; model and adapter are for the other kinds");
  if (config.judge().reading() != proto::JudgeConfig::PARSE)
    return Bad(config, "judge.reading is TOKEN_PROBABILITIES, kind HTTP_JUDGE reads by PARSE only");
  const absl::string_view url = http.base_url();
  const bool known = absl::StartsWith(url, "https://") || absl::StartsWith(url, "http://");
  const size_t host = known ? url.find("://") + 3 : 0;
  if (!known || host == url.size() || url[host] == '/') {
    return Bad(config, absl::StrCat("http.base_url is \"", url,
                                    "\", must begin with https://HOST or http://HOST"));
  }
  if (http.model().empty())
    return Bad(config, "http.model is empty, must be the server's name of the model");
  if (http.has_key_env() && http.has_key_path())
    return Bad(config, "has both http.key_env and http.key_path, expected one of them at most");
  WB_RETURN_IF_ERROR(AtLeast(config, "http.max_retries", http.max_retries(), 0));
  WB_RETURN_IF_ERROR(AtLeast(config, "http.max_concurrent", http.max_concurrent(), 1));
  const auto bounded = [&](absl::string_view field, double found, bool zero) {
    if (std::isfinite(found) && (found > 0 || (zero && found == 0))) return absl::OkStatus();
    return Bad(config, absl::StrCat("http.", field, " is ", found, ", must be ",
                                    zero ? "at least 0" : "above 0"));
  };
  WB_RETURN_IF_ERROR(bounded("request_timeout", http.request_timeout(), false));
  WB_RETURN_IF_ERROR(bounded("requests_per_minute", http.requests_per_minute(), true));
  WB_RETURN_IF_ERROR(bounded("max_dollars", http.max_dollars(), true));
  WB_RETURN_IF_ERROR(
      bounded("dollars_per_million_prompt_tokens", http.dollars_per_million_prompt_tokens(), true));
  WB_RETURN_IF_ERROR(bounded("dollars_per_million_completion_tokens",
                             http.dollars_per_million_completion_tokens(), true));
  if (http.max_dollars() > 0 && http.dollars_per_million_prompt_tokens() == 0 &&
      http.dollars_per_million_completion_tokens() == 0) {
    return Bad(config,
               "http.max_dollars is set and no price, expected "
               "http.dollars_per_million_prompt_tokens and _completion_tokens");
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

bool HasModel(const proto::ScorerConfig& config) {
  return config.kind() != proto::ScorerConfig::ORACLE &&
         config.kind() != proto::ScorerConfig::HTTP_JUDGE;
}

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
  if (HasModel(config) && config.model().path().empty())
    return Bad(config, "model.path is empty, must be a Hugging Face folder");
  WB_RETURN_IF_ERROR(AtLeast(config, "model.num_threads", config.model().num_threads(), 0));
  WB_RETURN_IF_ERROR(AtLeast(config, "replicas", config.replicas(), 1));
  WB_RETURN_IF_ERROR(AtLeast(config, "max_batch_tokens", config.max_batch_tokens(), 1));
  WB_RETURN_IF_ERROR(AtLeast(config, "max_batch_wait_ms", config.max_batch_wait_ms(), 0));
  WB_RETURN_IF_ERROR(AtLeast(config, "max_latency_ms", config.max_latency_ms(), 0));
  if (config.max_latency_ms() > 0 && config.max_latency_ms() < config.max_batch_wait_ms()) {
    return Bad(config, absl::StrCat("max_latency_ms is ", config.max_latency_ms(),
                                    ", must be 0 or at least max_batch_wait_ms, which is ",
                                    config.max_batch_wait_ms()));
  }
  if (!(config.hedge_quantile() > 0 && config.hedge_quantile() <= 1)) {
    return Bad(config, absl::StrCat("hedge_quantile is ", config.hedge_quantile(),
                                    ", must be above 0 and at most 1 (1: never)"));
  }
  WB_RETURN_IF_ERROR(AtLeast(config, "queue_items", config.queue_items(), 1));
  WB_RETURN_IF_ERROR(AtLeast(config, "cache_items", config.cache_items(), 0));
  if (!(config.timeout() > 0) || !std::isfinite(config.timeout())) {
    return Bad(config, absl::StrCat("timeout is ", config.timeout(),
                                    ", must be a positive number of seconds"));
  }
  if (config.has_generative() && config.kind() != proto::ScorerConfig::GENERATIVE)
    return Bad(config, absl::StrCat("generative is for kind GENERATIVE, found kind ",
                                    proto::ScorerConfig::Kind_Name(config.kind())));
  if (config.has_oracle() && config.kind() != proto::ScorerConfig::ORACLE)
    return Bad(config, absl::StrCat("oracle is for kind ORACLE, found kind ",
                                    proto::ScorerConfig::Kind_Name(config.kind())));
  const bool judge = config.kind() == proto::ScorerConfig::JUDGE ||
                     config.kind() == proto::ScorerConfig::HTTP_JUDGE;
  if (config.has_judge() && !judge)
    return Bad(config, absl::StrCat("judge is for the kinds JUDGE and HTTP_JUDGE, found kind ",
                                    proto::ScorerConfig::Kind_Name(config.kind())));
  if (config.has_http() && config.kind() != proto::ScorerConfig::HTTP_JUDGE)
    return Bad(config, absl::StrCat("http is for kind HTTP_JUDGE, found kind ",
                                    proto::ScorerConfig::Kind_Name(config.kind())));
  switch (config.kind()) {
    case proto::ScorerConfig::JUDGE:
      return ValidateJudge(config);
    case proto::ScorerConfig::HTTP_JUDGE:
      return ValidateHttpJudge(config);
    case proto::ScorerConfig::ORACLE:
      return ValidateOracle(config);
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
