// SPDX-License-Identifier: Apache-2.0
#include "model/peft_config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"

namespace wideberth::model {
namespace {

using Json = nlohmann::json;
constexpr int64_t kMostRank = 1 << 20;

// What modules_to_save says of an adapter that holds every weight of a model.
Json AllModules(bool score_head) {
  Json modules = {"embed_tokens", "norm", "input_layernorm", "post_attention_layernorm"};
  for (int p = 0; p < kNumProjections; ++p)
    modules.push_back(std::string(ProjectionName(static_cast<Projection>(p))));
  modules.push_back(score_head ? "score" : "lm_head");
  return modules;
}

// Fields that change what an adapter computes, with the values under which they do not.
const std::vector<std::pair<const char*, std::vector<Json>>>& Neutral() {
  static const auto* const fields = new std::vector<std::pair<const char*, std::vector<Json>>>{
      {"peft_type", {"LORA"}},
      {"bias", {"none"}},
      {"use_dora", {false}},
      {"use_qalora", {false}},
      {"lora_bias", {false}},
      {"fan_in_fan_out", {false}},
      {"rank_pattern", {Json::object()}},
      {"alpha_pattern", {Json::object()}},
      {"layers_to_transform", {Json::array()}},
      {"layer_replication", {Json::array()}},
      {"exclude_modules", {Json::array()}},
      {"trainable_token_indices", {Json::array()}},
      {"target_parameters", {Json::array()}},
      // PEFT names both for every sequence classifier; a Llama or Qwen2 has the second.
      {"modules_to_save",
       {Json::array(), Json::array({"score"}), Json::array({"classifier", "score"}),
        Json::array({"score", "classifier"}), AllModules(false), AllModules(true)}},
  };
  return *fields;
}

}  // namespace

absl::StatusOr<proto::LoraConfig> ReadPeftConfig(const std::string& file) {
  WB_ASSIGN_OR_RETURN(const std::string text, ReadFile(file));
  WB_ASSIGN_OR_RETURN(const Json json, ParseJson(text, file));
  if (!json.is_object())
    return absl::InvalidArgumentError(absl::StrCat(file, ": is not a JSON object"));
  for (const auto& [name, values] : Neutral()) {
    if (!json.contains(name) || json[name].is_null()) continue;
    bool neutral = false;
    for (const Json& value : values) neutral = neutral || json[name] == value;
    if (neutral) continue;
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", name, " is ", json[name].dump(),
                                                   ", which is not supported, expected ",
                                                   values.front().dump()));
  }
  proto::LoraConfig config;
  try {
    const int64_t rank = WholeNumber(json.at("r")).value_or(0);
    if (rank < 1 || rank > kMostRank) {
      return absl::InvalidArgumentError(absl::StrCat(
          file, ": r is ", json.at("r").dump(), ", expected a whole number from 1 to ", kMostRank));
    }
    config.set_rank(static_cast<int>(rank));
    config.set_alpha(json.at("lora_alpha").get<double>());
    config.set_dropout(json.value("lora_dropout", 0.0));
    config.set_rslora(json.value("use_rslora", false));
    const Json& targets = json.at("target_modules");
    if (targets.is_array()) {
      for (const Json& target : targets) config.add_target(target.get<std::string>());
    } else if (targets != "all-linear") {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": target_modules is ", targets.dump(),
                       ", expected a list of names or \"all-linear\""));
    }
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": r, lora_alpha and target_modules are needed: ", error.what()));
  }
  return config;
}

std::string PeftConfigText(const proto::LoraConfig& config, absl::string_view base_model_path,
                           bool score_head, bool all_weights) {
  std::vector<std::string> targets(config.target().begin(), config.target().end());
  if (targets.empty() && !all_weights) {
    for (int p = 0; p < kNumProjections; ++p)
      targets.emplace_back(ProjectionName(static_cast<Projection>(p)));
  }
  nlohmann::ordered_json json = {{"peft_type", "LORA"},
                                 {"task_type", score_head ? "SEQ_CLS" : "CAUSAL_LM"},
                                 {"base_model_name_or_path", std::string(base_model_path)},
                                 {"r", config.rank()},
                                 {"lora_alpha", config.alpha()},
                                 {"lora_dropout", config.dropout()},
                                 {"target_modules", targets},
                                 {"bias", "none"},
                                 {"fan_in_fan_out", false},
                                 {"init_lora_weights", true},
                                 {"inference_mode", true},
                                 {"use_rslora", config.rslora()},
                                 {"use_dora", false},
                                 {"modules_to_save", nullptr}};
  if (score_head) json["modules_to_save"] = {"score"};
  if (all_weights) json["modules_to_save"] = AllModules(score_head);
  if (config.alpha() == std::floor(config.alpha()) && std::abs(config.alpha()) < 1e15)
    json["lora_alpha"] = static_cast<int64_t>(config.alpha());
  return json.dump(2) + "\n";
}

absl::StatusOr<std::vector<std::array<bool, kNumProjections>>> TargetModules(
    const ModelSpec& spec, const proto::LoraConfig& config) {
  std::array<bool, kNumProjections> every;
  every.fill(config.target_size() == 0);
  std::vector<std::array<bool, kNumProjections>> wanted(spec.num_layers, every);
  for (const std::string& target : config.target()) {
    const std::string ending = absl::StrCat(".", target);
    bool found = false;
    for (int64_t i = 0; i < spec.num_layers; ++i) {
      for (int p = 0; p < kNumProjections; ++p) {
        const std::string module =
            absl::StrCat("model.layers.", i, ".", ProjectionModule(static_cast<Projection>(p)));
        if (module != target && !absl::EndsWith(module, ending)) continue;
        wanted[i][p] = found = true;
      }
    }
    if (found) continue;
    std::vector<absl::string_view> names;
    for (int p = 0; p < kNumProjections; ++p)
      names.push_back(ProjectionName(static_cast<Projection>(p)));
    return absl::InvalidArgumentError(absl::StrCat(
        "lora.target \"", target, "\" is no projection of this model, expected some of ",
        absl::StrJoin(names, ", "), " or a module such as \"layers.0.mlp.up_proj\" (layers 0 to ",
        spec.num_layers - 1, ")"));
  }
  return wanted;
}

}  // namespace wideberth::model
