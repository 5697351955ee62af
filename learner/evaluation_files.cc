// SPDX-License-Identifier: Apache-2.0
#include "learner/evaluation_files.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "base/text_proto.h"
#include "report/json_text.h"

namespace wideberth::learner {
namespace {

using Json = nlohmann::ordered_json;
using proto::RewardConfig;

// How the arm was trained, from the configuration of its run.
Json TrainingOf(const Arm& arm) {
  Json training = Json::object();
  proto::RunConfig run;
  if (arm.run_dir.empty() ||
      !MergeTextProtoFile(absl::StrCat(arm.run_dir, "/config.txtpb"), &run).ok())
    return training;
  training["run"] = run.name();
  training["seed"] = absl::StrCat(run.seed());
  training["reward_form"] = RewardConfig::Form_Name(run.reward().form());
  training["utility_weight"] = absl::StrCat(run.reward().utility_weight());
  training["boundary_coefficient"] = absl::StrCat(run.reward().boundary_coefficient());
  training["steps"] = absl::StrCat(run.learner().max_steps());
  training["groups_per_step"] = absl::StrCat(run.learner().groups_per_step());
  training["group_size"] = absl::StrCat(run.learner().group_size());
  training["learning_rate"] = absl::StrCat(run.learner().learning_rate());
  training["beta"] = absl::StrCat(run.learner().beta());
  return training;
}

Json UtilityOf(const RewardConfig& reward) {
  Json utility = {{"kind", RewardConfig::Normalization_Name(reward.utility_normalization())},
                  {"weight", reward.utility_weight()},
                  {"clip", reward.utility_clip()}};
  if (reward.has_utility_mu()) utility["mu"] = reward.utility_mu();
  if (reward.has_utility_scale()) utility["scale"] = reward.utility_scale();
  return utility;
}

Json ArmsOf(const std::vector<Arm>& arms) {
  Json list = Json::array();
  for (size_t i = 0; i < arms.size(); ++i) {
    list.push_back({{"name", arms[i].name},
                    {"adapter", arms[i].adapter},
                    {"adapter_fingerprint", arms[i].fingerprint()},
                    {"policy_version", i},
                    {"run_dir", arms[i].run_dir},
                    {"training", TrainingOf(arms[i])}});
    if (!arms[i].text.empty()) list.back()["text"] = arms[i].text;
  }
  return list;
}

// Of the name of a scorer; a judge's grades are none.
bool IsProbability(const proto::RunConfig& config, const std::string& name) {
  for (const proto::ScorerConfig& scorer : config.scorer()) {
    if (scorer.name() != name) continue;
    return scorer.output() == proto::ScorerConfig::PROBABILITY &&
           (scorer.kind() == proto::ScorerConfig::VERDICT ||
            scorer.kind() == proto::ScorerConfig::GENERATIVE);
  }
  return false;
}

Json SettingsOf(const proto::RunConfig& config, const EvaluationFacts& facts) {
  Json settings = {
      {"policy.model.path", config.policy().model().path()},
      {"base_fingerprint", facts.base_fingerprint},
      {"generation.temperature", absl::StrCat(config.generation().temperature())},
      {"generation.max_new_tokens", absl::StrCat(config.generation().max_new_tokens())},
      {"generation.top_p", absl::StrCat(config.generation().top_p())}};
  const bool own = config.evaluation().path_size() > 0;
  settings["prompts"] =
      absl::StrJoin(own ? config.evaluation().path() : config.prompts().path(), ", ");
  for (const proto::ScorerConfig& scorer : config.scorer()) {
    const std::string model = scorer.has_http() ? scorer.http().model() : scorer.model().path();
    settings[absl::StrCat("scorer ", scorer.name())] =
        absl::StrCat(proto::ScorerConfig::Kind_Name(scorer.kind()), model.empty() ? "" : " ", model,
                     scorer.has_adapter() ? " with adapter " : "", scorer.adapter());
  }
  return settings;
}

Json ScoresOf(const proto::Completion& completion, Json* failures) {
  Json scores = Json::object();
  for (const proto::Score& score : completion.score()) {
    if (score.status() == proto::SCORED) {
      scores[score.scorer_name()] = score.value();
    } else {
      (*failures)[score.scorer_name()] = proto::ScoreStatus_Name(score.status());
    }
  }
  return scores;
}

}  // namespace

std::string EvaluationJson(const proto::RunConfig& config, const std::vector<Arm>& arms,
                           const EvaluationFacts& facts) {
  const RewardConfig& reward = config.reward();
  const proto::EvaluationConfig& evaluation = config.evaluation();
  Json json = {
      {"name", config.name()},
      {"run_id", facts.run_id},
      {"created", absl::FormatTime(absl::RFC3339_sec, facts.created, absl::UTCTimeZone())},
      {"ended", facts.ended},
      {"message", facts.message},
      {"seed", config.seed()},
      {"num_prompts", facts.num_prompts},
      {"num_completions", evaluation.num_completions()},
      {"arms", ArmsOf(arms)},
      {"guard", Json::array()},
      {"second_guard", evaluation.second_guard()},
      {"utility", reward.utility()},
      {"harm_judge", evaluation.harm_judge()},
      {"help_judge", evaluation.help_judge()},
      {"harm_scale", IsProbability(config, evaluation.harm_judge()) ? 3 : 1},
      {"tau", reward.tau()},
      {"lambda", reward.lambda()},
      {"utility_normalization", UtilityOf(reward)},
      {"harm", Json::array()},
      {"refusal", evaluation.refusal()},
      {"settings", SettingsOf(config, facts)},
      {"seconds", facts.seconds},
      {"trained_prompts",
       {{"allowed", evaluation.allow_trained_prompts()}, {"found", facts.num_trained_prompts}}}};
  for (const std::string& guard : reward.guard()) json["guard"].push_back(guard);
  for (const RewardConfig::Harm& harm : reward.harm())
    json["harm"].push_back(
        {{"guard", harm.guard()}, {"tau", harm.tau()}, {"weight", harm.weight()}});
  return absl::StrCat(report::JsonText(json, 2), "\n");
}

std::string AnswerLines(const std::vector<JournalGroup>& groups, const std::vector<Arm>& arms,
                        const PromptSet& prompts, bool redact) {
  std::string lines;
  for (const JournalGroup& group : groups) {
    const int arm = ArmOf(group.phase);
    if (arm < 0 || arm >= static_cast<int>(arms.size()) || group.disposition != Disposition::kUse)
      continue;
    const proto::Prompt& prompt =
        prompts.HeldOut(static_cast<int64_t>(group.request.group_id() & ~kEvaluationGroup)).prompt;
    Json line = {{"arm", arms[arm].name},
                 {"prompt_id", prompt.id()},
                 {"prompt", ShownText(prompt, redact)},
                 {"category", prompt.category()},
                 {"source", prompt.source()}};
    if (prompt.has_unsafe()) line["unsafe"] = prompt.unsafe();
    line["answers"] = Json::array();
    for (const proto::Completion& completion : group.request.completion()) {
      Json failures = Json::object();
      Json scores = ScoresOf(completion, &failures);
      line["answers"].push_back(
          {{"text", completion.text()},
           {"num_tokens", completion.token_id_size()},
           {"finish", completion.finish_reason() == proto::STOP ? "stop" : "length"},
           {"scores", std::move(scores)},
           {"failures", std::move(failures)}});
    }
    absl::StrAppend(&lines, report::JsonText(line), "\n");
  }
  return lines;
}

}  // namespace wideberth::learner
