// SPDX-License-Identifier: Apache-2.0
#include "learner/validate_data.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"

namespace wideberth::learner {
namespace {

template <typename T>
absl::Status Require(bool satisfied, absl::string_view field, T found, absl::string_view expected) {
  if (satisfied) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", found, ", must be ", expected));
}

absl::Status AtLeast(int64_t value, int64_t least, absl::string_view field) {
  return Require(value >= least, field, value, absl::StrCat("at least ", least));
}

absl::Status Positive(double value, absl::string_view field) {
  return Require(std::isfinite(value) && value > 0, field, value, "a positive number");
}

absl::Status ValidateDataConfig(const proto::DataConfig& data) {
  if (data.path().empty())
    return absl::InvalidArgumentError("data.path is not set, must be a JSON lines file");
  WB_RETURN_IF_ERROR(AtLeast(data.batch_size(), 1, "data.batch_size"));
  WB_RETURN_IF_ERROR(AtLeast(data.max_tokens(), 2, "data.max_tokens"));
  WB_RETURN_IF_ERROR(AtLeast(data.num_epochs(), 1, "data.num_epochs"));
  WB_RETURN_IF_ERROR(AtLeast(data.validate_every(), 0, "data.validate_every"));
  if (data.has_max_validation_rows())
    WB_RETURN_IF_ERROR(AtLeast(data.max_validation_rows(), 1, "data.max_validation_rows"));
  return Require(data.validate_every() == 0 || data.validation_path_size() > 0,
                 "data.validate_every", data.validate_every(), "0 without data.validation_path");
}

absl::Status NotNegative(double value, absl::string_view field) {
  return Require(std::isfinite(value) && value >= 0, field, value, "a number of at least 0");
}

absl::Status ValidateDpo(const proto::DpoConfig& dpo) {
  WB_RETURN_IF_ERROR(Positive(dpo.beta(), "learner.dpo.beta"));
  // At one half chosen and rejected mean the same; beyond, they change places.
  WB_RETURN_IF_ERROR(Require(dpo.label_smoothing() >= 0 && dpo.label_smoothing() < 0.5,
                             "learner.dpo.label_smoothing", dpo.label_smoothing(),
                             "at least 0 and below 0.5"));
  return NotNegative(dpo.sft_weight(), "learner.dpo.sft_weight");
}

absl::Status ValidateGuard(const proto::RunConfig& config) {
  const proto::GuardConfig& guard = config.learner().guard();
  WB_RETURN_IF_ERROR(Positive(guard.positive_weight(), "learner.guard.positive_weight"));
  WB_RETURN_IF_ERROR(Positive(guard.negative_weight(), "learner.guard.negative_weight"));
  if (config.scorer_size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("scorer is there ", config.scorer_size(),
                     " times, must be there once for learner.task GUARD: the scorer that shall "
                     "serve the guard"));
  }
  const proto::ScorerConfig& scorer = config.scorer(0);
  WB_RETURN_IF_ERROR(Require(scorer.kind() == proto::ScorerConfig::VERDICT, "scorer[0].kind",
                             proto::ScorerConfig::Kind_Name(scorer.kind()),
                             "VERDICT for learner.task GUARD"));
  WB_RETURN_IF_ERROR(Require(scorer.model().path() == config.policy().model().path(),
                             "scorer[0].model.path",
                             absl::StrCat("\"", scorer.model().path(), "\""),
                             absl::StrCat("policy.model.path, \"", config.policy().model().path(),
                                          "\", for learner.task GUARD")));
  return Require(
      !guard.has_calibrate() || !guard.calibrate() || config.data().validation_path_size() > 0,
      "learner.guard.calibrate", "true", "false without data.validation_path");
}

absl::Status Wrong(absl::string_view field, absl::string_view found, absl::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("evaluation.", field, " is ", found, ", must be ", expected));
}

}  // namespace

absl::Status ValidateEvaluation(const proto::RunConfig& config) {
  const proto::EvaluationConfig& evaluation = config.evaluation();
  std::set<std::string> names;
  for (const auto& arm : evaluation.arm()) {
    const std::string found = absl::StrCat("\"", arm.name(), "\"");
    const bool plain = !arm.name().empty() &&
                       std::all_of(arm.name().begin(), arm.name().end(), [](unsigned char c) {
                         return absl::ascii_isalnum(c) || c == '_' || c == '-' || c == '.';
                       });
    if (!plain) return Wrong("arm.name", found, "of letters, digits, '_', '-' and '.'");
    if (arm.name() == kRefusalArm)
      return Wrong("arm.name", found, "another: that is the arm of evaluation.refusal");
    if (!names.insert(arm.name()).second) return Wrong("arm.name", found + " twice", "each once");
    if (arm.has_adapter() && arm.has_text())
      return Wrong("arm", found + " with adapter and text", "one of them");
    if (arm.name() == "base" && (arm.has_adapter() || arm.has_text()))
      return Wrong("arm", "\"base\" with adapter or text", "without: it is the model itself");
  }
  std::vector<std::string> scorers;
  for (const proto::ScorerConfig& scorer : config.scorer()) {
    scorers.push_back(scorer.name());
    if (scorer.name() != evaluation.harm_judge()) continue;
    if (scorer.kind() == proto::ScorerConfig::REWARD ||
        scorer.output() == proto::ScorerConfig::LOG_ODDS) {
      return Wrong("harm_judge",
                   absl::StrCat("\"", scorer.name(), "\", whose scores have no bounds"),
                   "a judge, the oracle or a guard with output PROBABILITY");
    }
  }
  const std::pair<const char*, const std::string&> roles[] = {
      {"harm_judge", evaluation.harm_judge()},
      {"help_judge", evaluation.help_judge()},
      {"second_guard", evaluation.second_guard()}};
  for (const auto& [field, name] : roles) {
    if (name.empty() || std::find(scorers.begin(), scorers.end(), name) != scorers.end()) continue;
    return Wrong(field, absl::StrCat("\"", name, "\""),
                 absl::StrCat("the name of a scorer: ", absl::StrJoin(scorers, ", ")));
  }
  if (evaluation.refusal().empty()) return Wrong("refusal", "empty", "a text");
  return absl::OkStatus();
}

absl::Status ValidateTaskOnData(const proto::RunConfig& config) {
  WB_RETURN_IF_ERROR(ValidateDataConfig(config.data()));
  const std::string task = proto::Task_Name(config.learner().task());
  WB_RETURN_IF_ERROR(Require(config.learner().world_size() == 1, "learner.world_size",
                             config.learner().world_size(),
                             absl::StrCat("1 for learner.task ", task)));
  switch (config.learner().task()) {
    case proto::DPO:
      return ValidateDpo(config.learner().dpo());
    case proto::REWARD:
      return NotNegative(config.learner().reward_model().center_rewards_coefficient(),
                         "learner.reward_model.center_rewards_coefficient");
    case proto::GUARD:
      return ValidateGuard(config);
    default:
      return absl::OkStatus();
  }
}

}  // namespace wideberth::learner
