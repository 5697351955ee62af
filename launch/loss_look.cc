// SPDX-License-Identifier: Apache-2.0
// Rows of sequences -> packed tokens -> learner/loss.h.
#include "launch/loss_look.h"

#include <ATen/ATen.h>

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "base/text_proto.h"
#include "launch/flags.h"
#include "learner/advantages.h"
#include "learner/loss.h"
#include "learner/validate_loss.h"
#include "model/catch_torch.h"

namespace wideberth::launch {
namespace {

using Json = nlohmann::ordered_json;
using learner::Advantages;
using learner::LossConfig;
using learner::LossInputs;
using learner::LossNormalizer;
using learner::LossResult;
using learner::ScoreRow;
using proto::LearnerConfig;

constexpr const char* kFields[] = {"mask",
                                   "new",
                                   "old",
                                   "sampler",
                                   "reference",
                                   "entropy",
                                   "rewards",
                                   "weights",
                                   "advantages",
                                   "group_size",
                                   "max_completion_length",
                                   "truncated"};

// The fields of one line; every error names the line.
class Fields {
 public:
  Fields(const nlohmann::json& object, const std::string& origin)
      : object_(object), origin_(origin) {}

  bool Has(const char* name) const { return object_.contains(name) && !object_[name].is_null(); }

  template <typename... Parts>
  absl::Status Wrong(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat(origin_, ": ", parts...));
  }
  absl::Status Missing(const char* name, absl::string_view expected) const {
    return Wrong("field \"", name, "\" is missing, expected ", expected);
  }

  // Names that begin like a field's are taken for it, mistyped; others are somebody's own and
  // passed over.
  absl::Status CheckNames() const {
    for (const auto& [name, value] : object_.items()) {
      const char* alike = nullptr;
      for (const char* field : kFields) {
        if (name == field) {
          alike = nullptr;
          break;
        }
        if (name.substr(0, 3) == std::string(field).substr(0, 3)) alike = field;
      }
      if (alike != nullptr) {
        return Wrong("there is no field \"", name, "\", expected \"", alike, "\"");
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<const nlohmann::json*> List(const char* name, absl::string_view expected,
                                             absl::optional<size_t> size) const {
    if (!Has(name)) return Missing(name, expected);
    const nlohmann::json& list = object_[name];
    if (!list.is_array()) return Wrong("field \"", name, "\" is no list, expected ", expected);
    if (size.has_value() && list.size() != *size) {
      return Wrong("field \"", name, "\" has ", list.size(), " entries, expected ", *size,
                   ", one a sequence");
    }
    return &list;
  }

  absl::StatusOr<int64_t> Count(const char* name, absl::string_view why) const {
    if (!Has(name)) return Missing(name, absl::StrCat("a whole number, ", why));
    const nlohmann::json& value = object_[name];
    if (!value.is_number_integer() || value.get<int64_t>() < 1) {
      return Wrong(name, " is ", value.dump(), ", expected a whole number of at least 1");
    }
    return value.get<int64_t>();
  }

  absl::StatusOr<double> Number(const nlohmann::json& value, absl::string_view where) const {
    if (!value.is_number()) return Wrong(where, " is ", value.dump(), ", expected a number");
    return value.get<double>();
  }

  absl::StatusOr<std::vector<double>> Numbers(const char* name, absl::string_view expected,
                                              absl::optional<size_t> size) const {
    WB_ASSIGN_OR_RETURN(const nlohmann::json* list, List(name, expected, size));
    std::vector<double> values;
    for (const nlohmann::json& value : *list) {
      WB_ASSIGN_OR_RETURN(values.emplace_back(),
                          Number(value, absl::StrCat(name, "[", values.size(), "]")));
    }
    return values;
  }

 private:
  const nlohmann::json& object_;
  const std::string& origin_;
};

// Which entries of each row are tokens.
using Places = std::vector<std::vector<size_t>>;

absl::StatusOr<Places> ReadMask(const Fields& fields) {
  WB_ASSIGN_OR_RETURN(const nlohmann::json* mask,
                      fields.List("mask", "rows of 0 and 1, one a sequence", absl::nullopt));
  if (mask->empty()) return fields.Wrong("field \"mask\" is empty, expected at least one sequence");
  Places places;
  for (const nlohmann::json& row : *mask) {
    const std::string where = absl::StrCat("mask[", places.size(), "]");
    if (!row.is_array()) {
      return fields.Wrong(where, " is ", row.dump(), ", expected a list of 0 and 1");
    }
    std::vector<size_t>& tokens = places.emplace_back();
    for (size_t t = 0; t < row.size(); ++t) {
      if (row[t] == 1 || row[t] == true) {
        tokens.push_back(t);
      } else if (row[t] != 0 && row[t] != false) {
        return fields.Wrong(where, "[", t, "] is ", row[t].dump(), ", expected 0 or 1");
      }
    }
  }
  return places;
}

// The tokens' values of a table, row after row; what stands elsewhere is not looked at.
absl::StatusOr<at::Tensor> ReadTokens(const Fields& fields, const char* name,
                                      const Places& places) {
  WB_ASSIGN_OR_RETURN(const nlohmann::json* table,
                      fields.List(name, "rows of numbers, one a sequence", places.size()));
  std::vector<double> values;
  for (size_t b = 0; b < places.size(); ++b) {
    const nlohmann::json& row = (*table)[b];
    const std::string where = absl::StrCat(name, "[", b, "]");
    if (!row.is_array()) {
      return fields.Wrong(where, " is ", row.dump(), ", expected a list of numbers");
    }
    if (!places[b].empty() && row.size() <= places[b].back()) {
      return fields.Wrong(where, " has ", row.size(), " entries, expected at least ",
                          places[b].back() + 1, " as in mask[", b, "]");
    }
    for (const size_t t : places[b]) {
      WB_ASSIGN_OR_RETURN(values.emplace_back(),
                          fields.Number(row[t], absl::StrCat(where, "[", t, "]")));
    }
  }
  return at::tensor(values, at::kDouble);
}

absl::StatusOr<std::vector<ScoreRow>> ReadScores(const Fields& fields, size_t num_sequences) {
  WB_ASSIGN_OR_RETURN(const nlohmann::json* table,
                      fields.List("rewards", "rows of scorers", num_sequences));
  std::vector<ScoreRow> rows;
  for (const nlohmann::json& row : *table) {
    const std::string where = absl::StrCat("rewards[", rows.size(), "]");
    if (!row.is_array() || row.empty()) {
      return fields.Wrong(where, " is ", row.dump(), ", expected a list with a score by scorer");
    }
    ScoreRow& scores = rows.emplace_back();
    for (const nlohmann::json& score : row) {
      scores.emplace_back();
      if (score.is_null()) continue;
      WB_ASSIGN_OR_RETURN(scores.back(),
                          fields.Number(score, absl::StrCat(where, "[", scores.size() - 1, "]")));
    }
    if (scores.size() != rows[0].size()) {
      return fields.Wrong(where, " has ", scores.size(), " scores, expected ", rows[0].size(),
                          " as in rewards[0]");
    }
  }
  return rows;
}

absl::StatusOr<Advantages> ReadAdvantages(const Fields& fields, const LearnerConfig& config,
                                          size_t num_sequences) {
  if (fields.Has("advantages")) {
    if (fields.Has("rewards")) {
      return fields.Wrong("has \"rewards\" and \"advantages\", expected one of them");
    }
    Advantages given;
    WB_ASSIGN_OR_RETURN(given.advantage,
                        fields.Numbers("advantages", "a number a sequence", num_sequences));
    return given;
  }
  if (!fields.Has("rewards")) {
    return fields.Missing("rewards", "rows of scorers, null for unscored (or \"advantages\")");
  }
  WB_ASSIGN_OR_RETURN(const std::vector<ScoreRow> scores, ReadScores(fields, num_sequences));
  std::vector<double> weights(scores[0].size(), 1.0);
  if (fields.Has("weights")) {
    WB_ASSIGN_OR_RETURN(weights, fields.Numbers("weights", "a number a scorer", absl::nullopt));
    if (weights.size() != scores[0].size()) {
      return fields.Wrong("field \"weights\" has ", weights.size(), " entries, expected ",
                          scores[0].size(), ", one a scorer");
    }
  }
  WB_ASSIGN_OR_RETURN(const int64_t group_size,
                      fields.Count("group_size", "sequences of one prompt in a row"));
  if (num_sequences % static_cast<size_t>(group_size) != 0) {
    return fields.Wrong("group_size is ", group_size, ", expected a divisor of the ", num_sequences,
                        " sequences");
  }
  std::vector<uint64_t> groups;
  std::vector<absl::optional<double>> totals;
  for (size_t i = 0; i < num_sequences; ++i) {
    groups.push_back(i / static_cast<size_t>(group_size));
    totals.push_back(learner::WeightedSum(scores[i], weights));
  }
  return config.multi_objective_aggregation() == LearnerConfig::NORMALIZE_THEN_SUM
             ? learner::NormalizedSumAdvantages(scores, weights, groups)
             : learner::GroupAdvantages(totals, groups, config.scale_rewards());
}

absl::StatusOr<std::vector<bool>> ReadCounted(const Fields& fields, const LearnerConfig& config,
                                              size_t num_sequences) {
  if (!config.mask_truncated_completions()) return std::vector<bool>();
  WB_ASSIGN_OR_RETURN(
      const nlohmann::json* truncated,
      fields.List("truncated", "true or false a sequence, as mask_truncated_completions is on",
                  num_sequences));
  std::vector<bool> counted;
  for (const nlohmann::json& value : *truncated) {
    if (!value.is_boolean() && value != 0 && value != 1) {
      return fields.Wrong("truncated[", counted.size(), "] is ", value.dump(),
                          ", expected true or false");
    }
    counted.push_back(value == false || value == 0);
  }
  return counted;
}

// Tables that are needed must be there; the others are read where they are.
absl::Status ReadTables(const Fields& fields, const LearnerConfig& learner,
                        const LossConfig& config, const Places& places, LossInputs* inputs) {
  const bool from_sampler = learner.old_policy() == LearnerConfig::SAMPLER;
  const struct {
    const char* name;
    at::Tensor* tensor;
    bool needed;
    const char* why;
  } tables[] = {
      {"new", &inputs->new_logprobs, true, "rows of log-probs"},
      {"old", &inputs->old_logprobs, false, ""},
      {"sampler", &inputs->sampler_logprobs, config.correction.has_value() || from_sampler,
       from_sampler ? "rows of log-probs, as old_policy is SAMPLER"
                    : "rows of log-probs, as a sampler correction is on"},
      {"reference", &inputs->reference_logprobs, config.beta != 0,
       "rows of log-probs, as beta is not 0"},
      {"entropy", &inputs->entropies, config.UsesEntropyMask() || config.HasEntropyBonus(),
       "rows of entropies, as top_entropy_quantile or entropy_coef needs them"}};
  for (const auto& table : tables) {
    if (!fields.Has(table.name)) {
      if (table.needed) return fields.Missing(table.name, table.why);
      continue;
    }
    WB_ASSIGN_OR_RETURN(*table.tensor, ReadTokens(fields, table.name, places));
  }
  if (from_sampler) inputs->old_logprobs = inputs->sampler_logprobs;
  return absl::OkStatus();
}

// A line is the whole batch and slice, so its own sizes are the normalisers.
LossNormalizer NormalizerOf(const LossConfig& config, LossInputs* inputs) {
  std::vector<int64_t> counted;
  int64_t next = 0;
  for (size_t c = 0; c < inputs->lengths.size(); ++c) {
    for (int64_t i = 0; i < inputs->lengths[c]; ++i, ++next) {
      if (inputs->counted.empty() || inputs->counted[c]) counted.push_back(next);
    }
  }
  LossNormalizer normalizer;
  normalizer.generation_tokens = normalizer.slice_tokens = normalizer.entropy_tokens =
      static_cast<int64_t>(counted.size());
  normalizer.slice_completions = static_cast<int64_t>(inputs->lengths.size());
  if (config.UsesEntropyMask()) {
    const at::Tensor index = at::tensor(counted, at::kLong);
    const double threshold = learner::EntropyThreshold(inputs->entropies.index_select(0, index),
                                                       config.top_entropy_quantile);
    inputs->entropy_mask = learner::HighEntropyMask(inputs->entropies, threshold);
    normalizer.entropy_tokens = inputs->entropy_mask.index_select(0, index).sum().item<int64_t>();
  }
  return normalizer;
}

Json MetricsOf(const LossResult& result, const LossConfig& config, const LossInputs& inputs) {
  Json metrics = Json::object();
  for (const auto& [name, value] : learner::NamedMetrics(result.metrics, config)) {
    if (name != "entropy" || inputs.entropies.defined()) metrics[name] = value;
  }
  return metrics;
}

}  // namespace

absl::StatusOr<nlohmann::ordered_json> LossOfLine(const proto::LearnerConfig& learner,
                                                  const InputLine& line) {
  WB_ASSIGN_OR_RETURN(const nlohmann::json object, ParseObject(line));
  const Fields fields(object, line.origin);
  WB_RETURN_IF_ERROR(fields.CheckNames());
  WB_ASSIGN_OR_RETURN(const Places places, ReadMask(fields));
  int64_t max_completion_length = 0;
  if (learner.loss_type() == LearnerConfig::DR_GRPO || fields.Has("max_completion_length")) {
    WB_ASSIGN_OR_RETURN(max_completion_length,
                        fields.Count("max_completion_length", "as loss_type is DR_GRPO"));
  }
  const LossConfig config = learner::LossConfigOf(learner, max_completion_length);
  LossInputs inputs;
  for (const std::vector<size_t>& tokens : places) {
    inputs.lengths.push_back(static_cast<int64_t>(tokens.size()));
  }
  WB_RETURN_IF_ERROR(ReadTables(fields, learner, config, places, &inputs));
  WB_ASSIGN_OR_RETURN(const Advantages advantages, ReadAdvantages(fields, learner, places.size()));
  inputs.advantages = advantages.advantage;
  WB_ASSIGN_OR_RETURN(inputs.counted, ReadCounted(fields, learner, places.size()));
  inputs.new_logprobs.set_requires_grad(true);

  return model::CatchTorch(line.origin, [&] {
    const LossNormalizer normalizer = NormalizerOf(config, &inputs);
    const LossResult result = learner::GrpoLoss(inputs, config, normalizer);
    result.loss.backward();
    const at::Tensor grad = inputs.new_logprobs.grad().contiguous();
    Json metrics = MetricsOf(result, config, inputs);
    if (fields.Has("rewards")) {
      metrics["reward"] = advantages.reward_mean;
      metrics["reward_std"] = advantages.reward_deviation;
      metrics["frac_reward_zero_std"] = advantages.fraction_zero_deviation;
    }
    return Json{{"advantages", advantages.advantage},
                {"loss", result.loss.item<double>()},
                {"grad", std::vector<double>(grad.data_ptr<double>(),
                                             grad.data_ptr<double>() + grad.numel())},
                {"metrics", metrics}};
  });
}

absl::Status Loss(const std::vector<std::string>& arguments) {
  std::vector<std::string> overrides;
  FlagTable flags(
      "wideberth loss", "[--override='loss_type: DAPO beta: 0.04'] [FILE]",
      "{\"mask\", \"new\", \"old\", \"sampler\", \"reference\", \"entropy\": rows of sequences, "
      "padded or not;\n"
      "\"rewards\": rows of scorers, null for unscored, \"weights\", \"group_size\", or "
      "\"advantages\";\n"
      "\"max_completion_length\", \"truncated\"} in; {\"advantages\", \"loss\", \"grad\", "
      "\"metrics\"} out, in float64.\n"
      "\"mask\", \"new\" and rewards or advantages are always needed; without \"old\" every ratio "
      "is 1.\n"
      "A line is a whole generation batch and one slice of an optimiser step.");
  flags.Add("override", &overrides,
            "fields of LearnerConfig over TRL's defaults: beta 0, no sampler correction");
  std::string file;
  WB_ASSIGN_OR_RETURN(const bool go, flags.ParseWithFile(arguments, &file));
  if (!go) return absl::OkStatus();
  LearnerConfig learner;
  learner.set_beta(0);
  for (const std::string& text : overrides) {
    WB_RETURN_IF_ERROR(MergeTextProto(text, "--override", &learner));
  }
  if (const absl::Status status = learner::ValidateLossConfig(learner); !status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--override: ", absl::StripPrefix(status.message(), "learner.")));
  }
  if (const absl::Status status = learner::ValidateRatioLevel(learner); !status.ok()) {
    std::fprintf(stderr, "wideberth loss: warning: %s in a run\n",
                 std::string(absl::StripPrefix(status.message(), "learner.")).c_str());
  }
  return ForLines(file, 1, [&](const std::vector<InputLine>& lines) -> absl::Status {
    WB_ASSIGN_OR_RETURN(const Json result, LossOfLine(learner, lines[0]));
    return PrintLine(result);
  });
}

}  // namespace wideberth::launch
