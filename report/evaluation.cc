// SPDX-License-Identifier: Apache-2.0
#include "report/evaluation.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"
#include "report/json_fields.h"

namespace wideberth::report {
namespace {

using Json = nlohmann::ordered_json;

// A setting's value as people read it: text without its quotes.
std::string AsText(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

EvaluatedArm ArmOf(JsonFields fields, const Json& training) {
  EvaluatedArm arm;
  arm.name = fields.Text("name", true);
  arm.adapter = fields.Text("adapter");
  arm.adapter_fingerprint = fields.Text("adapter_fingerprint");
  arm.run_dir = fields.Text("run_dir");
  arm.policy_version = fields.Count("policy_version");
  for (const auto& [key, value] : training.items()) arm.training[key] = AsText(value);
  return arm;
}

void ReadScorers(JsonFields* fields, Evaluation* evaluation) {
  fields->ForEach("guard", fields->List("guard"),
                  [&](const std::string&, const Json& value, const std::string& field) {
                    if (!value.is_string())
                      fields->Fail(field, ShownJson(value), "a scorer's name");
                    if (value.is_string()) evaluation->guards.push_back(value.get<std::string>());
                  });
  evaluation->second_guard = fields->Text("second_guard");
  evaluation->utility = fields->Text("utility");
  evaluation->harm_judge = fields->Text("harm_judge");
  evaluation->help_judge = fields->Text("help_judge");
  evaluation->harm_scale = fields->Number("harm_scale").value_or(evaluation->harm_scale);
  evaluation->tau = fields->Number("tau").value_or(evaluation->tau);
  evaluation->lambda = fields->Number("lambda").value_or(evaluation->lambda);
  if (const Json& object = fields->Object("utility_normalization"); !object.empty()) {
    JsonFields normalization = fields->Within(object, "utility_normalization");
    UtilityNormalization& to = evaluation->normalization;
    to.kind = normalization.Text("kind", true);
    to.mu = normalization.Number("mu");
    to.scale = normalization.Number("scale");
    to.clip = normalization.Number("clip").value_or(to.clip);
    to.weight = normalization.Number("weight").value_or(to.weight);
    const std::set<std::string> kinds = {"RAW", "GROUP_ZSCORE", "RUNNING_ZSCORE", "SIGMOID",
                                         "STANDARD"};
    if (kinds.count(to.kind) == 0) {
      fields->Fail("utility_normalization.kind", absl::StrCat("\"", to.kind, "\""),
                   absl::StrCat("one of ", absl::StrJoin(kinds, ", ")));
    }
    if (to.kind == "STANDARD" && !(to.mu.has_value() && to.scale.has_value()))
      fields->Fail("utility_normalization", ShownJson(object), "mu and scale for STANDARD");
    if (to.scale.has_value() && !(*to.scale > 0))
      fields->Fail("utility_normalization.scale", absl::StrCat(*to.scale), "a positive number");
  }
  fields->ForEach(
      "harm", fields->List("harm"),
      [&](const std::string&, const Json& value, const std::string& field) {
        JsonFields harm = fields->Within(value, field);
        evaluation->harms.push_back({harm.Text("guard", true), harm.Number("tau").value_or(0.5),
                                     harm.Number("weight").value_or(1)});
      });
  if (evaluation->guards.empty() && evaluation->harms.empty())
    fields->Fail("guard", "empty", "at least one guard here or in \"harm\"");
}

absl::Status ReadHead(const std::string& path, Evaluation* evaluation) {
  WB_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  WB_ASSIGN_OR_RETURN(const Json json, ParseJson(text, path));
  absl::Status status;
  JsonFields fields(json, path, "", &status);
  evaluation->name = fields.Text("name");
  evaluation->run_id = fields.Text("run_id");
  evaluation->created = fields.Text("created");
  evaluation->ended = fields.Text("ended", true);
  evaluation->message = fields.Text("message");
  evaluation->num_prompts = fields.Count("num_prompts", true);
  evaluation->num_completions = fields.Count("num_completions", true);
  if (json.contains("seed")) evaluation->seed = AsText(json["seed"]);
  ReadScorers(&fields, evaluation);
  evaluation->refusal = fields.Text("refusal");
  fields.ForEach("settings", fields.Object("settings"),
                 [&](const std::string& key, const Json& value, const std::string&) {
                   evaluation->settings.emplace_back(key, AsText(value));
                 });
  fields.ForEach("seconds", fields.Object("seconds"),
                 [&](const std::string& key, const Json& value, const std::string& field) {
                   if (!value.is_number()) return fields.Fail(field, ShownJson(value), "a number");
                   evaluation->seconds.emplace_back(key, value.get<double>());
                 });
  if (const Json& object = fields.Object("trained_prompts"); !object.empty()) {
    JsonFields trained = fields.Within(object, "trained_prompts");
    evaluation->trained_prompts_allowed = trained.Bool("allowed").value_or(false);
    evaluation->num_trained_prompts = trained.Count("found");
  }
  fields.ForEach("arms", fields.List("arms", true),
                 [&](const std::string&, const Json& value, const std::string& field) {
                   JsonFields arm = fields.Within(value, field);
                   const Json& training = arm.Object("training");
                   evaluation->arms.push_back(ArmOf(arm, training));
                 });
  return status;
}

EvaluatedAnswer AnswerOf(JsonFields fields, const std::string& field,
                         const std::set<std::string>& probabilities) {
  EvaluatedAnswer answer;
  answer.text = fields.Text("text", true);
  answer.num_tokens = fields.Count("num_tokens");
  const std::string finish = fields.Text("finish");
  answer.stopped = finish != "length";
  if (!finish.empty() && finish != "length" && finish != "stop")
    fields.Fail(absl::StrCat(field, ".finish"), absl::StrCat("\"", finish, "\""),
                "\"stop\" or \"length\"");
  const Json& scores = fields.Object("scores");
  fields.ForEach("scores", scores,
                 [&](const std::string& name, const Json& value, const std::string& where) {
                   if (!value.is_number()) return fields.Fail(where, ShownJson(value), "a number");
                   const double score = value.get<double>();
                   if (probabilities.count(name) != 0 && !(score >= 0 && score <= 1))
                     fields.Fail(where, ShownJson(value), "a guard's probability from 0 to 1");
                   answer.scores[name] = score;
                 });
  fields.ForEach("failures", fields.Object("failures"),
                 [&](const std::string& name, const Json& value, const std::string&) {
                   answer.failures[name] = AsText(value);
                 });
  return answer;
}

// The arm's name goes to `arm`.
absl::StatusOr<EvaluatedPrompt> PromptOf(absl::string_view line, const std::string& origin,
                                         const std::set<std::string>& probabilities,
                                         std::string* arm) {
  WB_ASSIGN_OR_RETURN(const Json json, ParseJson(line, origin));
  absl::Status status;
  JsonFields fields(json, origin, "", &status);
  *arm = fields.Text("arm", true);
  EvaluatedPrompt prompt;
  prompt.id = fields.Text("prompt_id", true);
  prompt.prompt = fields.Text("prompt", true);
  prompt.category = fields.Text("category");
  prompt.source = fields.Text("source");
  prompt.unsafe = fields.Bool("unsafe");
  fields.ForEach(
      "answers", fields.List("answers", true),
      [&](const std::string&, const Json& value, const std::string& field) {
        prompt.answers.push_back(AnswerOf(fields.Within(value, field), field, probabilities));
      });
  WB_RETURN_IF_ERROR(status);
  return prompt;
}

absl::Status ReadAnswers(const std::string& path, Evaluation* evaluation) {
  WB_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  std::set<std::string> probabilities(evaluation->guards.begin(), evaluation->guards.end());
  if (!evaluation->second_guard.empty()) probabilities.insert(evaluation->second_guard);
  for (const HarmKind& harm : evaluation->harms) probabilities.insert(harm.guard);
  std::set<std::pair<std::string, std::string>> seen;
  int64_t line_number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    const std::string origin = absl::StrCat(path, ":", line_number);
    std::string name;
    WB_ASSIGN_OR_RETURN(EvaluatedPrompt prompt, PromptOf(line, origin, probabilities, &name));
    const auto arm = std::find_if(evaluation->arms.begin(), evaluation->arms.end(),
                                  [&](const EvaluatedArm& one) { return one.name == name; });
    if (arm == evaluation->arms.end() && name != "refusal") {
      return InvalidField(origin, "arm", absl::StrCat("\"", name, "\""),
                          "the name of an arm of evaluation.json");
    }
    if (!seen.emplace(name, prompt.id).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          origin, ": arm \"", name, "\" answers prompt \"", prompt.id, "\" twice, expected once"));
    }
    if (name == "refusal") {
      evaluation->refusal_answers[prompt.id] = std::move(prompt);
    } else {
      arm->prompts.push_back(std::move(prompt));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string Evaluation::Label() const {
  if (!name.empty() && name != "evaluation") return name;
  const std::filesystem::path path = std::filesystem::path(folder).lexically_normal();
  const std::filesystem::path own = path.has_filename() ? path : path.parent_path();
  const std::string label =
      (own.filename() == "evaluation" ? own.parent_path() : own).filename().string();
  return label.empty() ? folder : label;
}

std::string Evaluation::WhatIsUnfinished() const {
  std::vector<std::string> parts;
  if (ended != "completed") {
    parts.push_back(absl::StrCat("This evaluation is unfinished (", ended,
                                 message.empty() ? "" : absl::StrCat(": ", message), ")."));
  }
  std::vector<std::string> behind;
  for (const EvaluatedArm& arm : arms) {
    const int64_t answered =
        std::count_if(arm.prompts.begin(), arm.prompts.end(),
                      [](const EvaluatedPrompt& prompt) { return !prompt.answers.empty(); });
    if (answered < num_prompts)
      behind.push_back(absl::StrCat(arm.name, " ", answered, " of ", num_prompts));
  }
  if (!behind.empty())
    parts.push_back(absl::StrCat("Prompts answered: ", absl::StrJoin(behind, ", "), "."));
  return absl::StrJoin(parts, " ");
}

absl::StatusOr<Evaluation> ReadEvaluation(absl::string_view folder) {
  Evaluation evaluation;
  evaluation.folder = std::string(folder);
  const std::string head = absl::StrCat(folder, "/evaluation.json");
  WB_RETURN_IF_ERROR(ReadHead(head, &evaluation));
  WB_RETURN_IF_ERROR(ReadAnswers(absl::StrCat(folder, "/answers.jsonl"), &evaluation));
  auto& arms = evaluation.arms;
  arms.erase(std::remove_if(arms.begin(), arms.end(),
                            [](const EvaluatedArm& arm) { return arm.name == "refusal"; }),
             arms.end());
  const auto base = std::find_if(arms.begin(), arms.end(),
                                 [](const EvaluatedArm& arm) { return arm.name == "base"; });
  if (base == arms.end())
    return InvalidField(head, "arms", "without \"base\"", "an arm of that name");
  std::rotate(arms.begin(), base, base + 1);
  for (EvaluatedArm& arm : arms) {
    const std::filesystem::path run = arm.run_dir;
    const std::filesystem::path beside =
        std::filesystem::path(evaluation.folder) / ".." / run.filename();
    std::error_code ignored;
    if (!run.empty() && !std::filesystem::exists(run, ignored) &&
        std::filesystem::exists(beside, ignored))
      arm.run_dir = beside.lexically_normal().string();
  }
  return evaluation;
}

std::vector<TrainingStep> ReadLearningCurve(absl::string_view run_dir) {
  std::vector<TrainingStep> steps;
  const absl::StatusOr<std::string> text = ReadFile(absl::StrCat(run_dir, "/metrics.jsonl"));
  if (!text.ok()) return steps;
  for (absl::string_view line : absl::StrSplit(*text, '\n', absl::SkipWhitespace())) {
    const Json json = Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("step") || !json["step"].is_number()) break;
    TrainingStep step;
    step.step = json["step"].get<int64_t>();
    for (const auto& [key, value] : json.items()) {
      if (value.is_number()) step.values[key] = value.get<double>();
    }
    steps.push_back(std::move(step));
  }
  return steps;
}

}  // namespace wideberth::report
