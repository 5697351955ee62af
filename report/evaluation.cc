// SPDX-License-Identifier: Apache-2.0
#include "report/evaluation.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"

namespace wideberth::report {
namespace {

using Json = nlohmann::ordered_json;

absl::Status Invalid(absl::string_view origin, absl::string_view field, absl::string_view found,
                     absl::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat(origin, ": \"", field, "\" is ", found, ", expected ", expected));
}

std::string Shown(const Json& value) {
  const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return text.size() <= 40 ? text : absl::StrCat(text.substr(0, 37), "...");
}

// Reads the fields of one object and remembers the first that is not as expected.
class Fields {
 public:
  // `origin`: file and line; `prefix`: "answers[2]." within it. `object` outlives this.
  Fields(const Json& object, std::string origin, std::string prefix, absl::Status* status)
      : object_(object), origin_(std::move(origin)), prefix_(std::move(prefix)), status_(status) {
    if (!object.is_object())
      Fail(prefix_.substr(0, prefix_.size() - 1), Shown(object), "an object");
  }

  std::string Text(absl::string_view name, bool required = false) {
    const Json* value = Find(name, required, "text");
    if (value == nullptr) return "";
    if (!value->is_string()) return Fail(absl::StrCat(prefix_, name), Shown(*value), "text"), "";
    return value->get<std::string>();
  }
  absl::optional<double> Number(absl::string_view name, bool required = false) {
    const Json* value = Find(name, required, "a number");
    if (value == nullptr) return absl::nullopt;
    if (!value->is_number())
      return Fail(absl::StrCat(prefix_, name), Shown(*value), "a number"), absl::nullopt;
    return value->get<double>();
  }
  int64_t Count(absl::string_view name, bool required = false) {
    const absl::optional<double> value = Number(name, required);
    if (!value.has_value()) return 0;
    if (*value < 0 || *value != std::floor(*value) || *value > 9e15)
      Fail(absl::StrCat(prefix_, name), absl::StrCat(*value), "a whole number from 0");
    return static_cast<int64_t>(*value);
  }
  absl::optional<bool> Bool(absl::string_view name) {
    const Json* value = Find(name, false, "");
    if (value == nullptr) return absl::nullopt;
    if (!value->is_boolean())
      return Fail(absl::StrCat(prefix_, name), Shown(*value), "true or false"), absl::nullopt;
    return value->get<bool>();
  }
  // A list or an object; an empty one where the field is missing and not required.
  const Json& List(absl::string_view name, bool required = false) {
    return Nested(name, required, "a list", [](const Json& value) { return value.is_array(); });
  }
  const Json& Object(absl::string_view name) {
    return Nested(name, false, "an object", [](const Json& value) { return value.is_object(); });
  }
  template <typename Take>  // Take(element, its name for errors)
  void ForEach(absl::string_view name, const Json& values, const Take& take) {
    size_t index = 0;
    for (const auto& [key, value] : values.items()) {
      take(
          key, value,
          absl::StrCat(prefix_, name,
                       values.is_array() ? absl::StrCat("[", index, "]") : absl::StrCat(".", key)));
      ++index;
    }
  }
  void Fail(absl::string_view field, absl::string_view found, absl::string_view expected) {
    status_->Update(Invalid(origin_, field, found, expected));
  }
  Fields Within(const Json& object, absl::string_view field) const {
    return Fields(object, origin_, absl::StrCat(field, "."), status_);
  }

 private:
  const Json* Find(absl::string_view name, bool required, absl::string_view expected) {
    if (!object_.is_object()) return nullptr;
    const auto found = object_.find(std::string(name));
    if (found != object_.end() && !found->is_null()) return &*found;
    if (required) Fail(absl::StrCat(prefix_, name), "missing", expected);
    return nullptr;
  }
  template <typename Is>
  const Json& Nested(absl::string_view name, bool required, absl::string_view expected,
                     const Is& is) {
    static const Json& none = *new Json(Json::array());
    const Json* value = Find(name, required, expected);
    if (value == nullptr) return none;
    if (is(*value)) return *value;
    Fail(absl::StrCat(prefix_, name), Shown(*value), expected);
    return none;
  }

  const Json& object_;
  const std::string origin_, prefix_;
  absl::Status* const status_;
};

absl::StatusOr<Json> Parse(absl::string_view text, absl::string_view origin) {
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::parse_error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ": not JSON at byte ", error.byte, ", expected one object"));
  }
}

// A setting's value as people read it: text without its quotes.
std::string AsText(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

EvaluatedArm ArmOf(Fields fields, const Json& training) {
  EvaluatedArm arm;
  arm.name = fields.Text("name", true);
  arm.adapter = fields.Text("adapter");
  arm.adapter_fingerprint = fields.Text("adapter_fingerprint");
  arm.run_dir = fields.Text("run_dir");
  arm.policy_version = fields.Count("policy_version");
  for (const auto& [key, value] : training.items()) arm.training[key] = AsText(value);
  return arm;
}

void ReadScorers(Fields* fields, Evaluation* evaluation) {
  fields->ForEach("guard", fields->List("guard"),
                  [&](const std::string&, const Json& value, const std::string& field) {
                    if (!value.is_string()) fields->Fail(field, Shown(value), "a scorer's name");
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
    Fields normalization = fields->Within(object, "utility_normalization");
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
      fields->Fail("utility_normalization", Shown(object), "mu and scale for STANDARD");
    if (to.scale.has_value() && !(*to.scale > 0))
      fields->Fail("utility_normalization.scale", absl::StrCat(*to.scale), "a positive number");
  }
  fields->ForEach(
      "harm", fields->List("harm"),
      [&](const std::string&, const Json& value, const std::string& field) {
        Fields harm = fields->Within(value, field);
        evaluation->harms.push_back({harm.Text("guard", true), harm.Number("tau").value_or(0.5),
                                     harm.Number("weight").value_or(1)});
      });
  if (evaluation->guards.empty() && evaluation->harms.empty())
    fields->Fail("guard", "empty", "at least one guard here or in \"harm\"");
}

absl::Status ReadHead(const std::string& path, Evaluation* evaluation) {
  WB_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  WB_ASSIGN_OR_RETURN(const Json json, Parse(text, path));
  absl::Status status;
  if (!json.is_object()) return Invalid(path, "", Shown(json), "an object");
  Fields fields(json, path, "", &status);
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
                   if (!value.is_number()) return fields.Fail(field, Shown(value), "a number");
                   evaluation->seconds.emplace_back(key, value.get<double>());
                 });
  if (const Json& object = fields.Object("trained_prompts"); !object.empty()) {
    Fields trained = fields.Within(object, "trained_prompts");
    evaluation->trained_prompts_allowed = trained.Bool("allowed").value_or(false);
    evaluation->num_trained_prompts = trained.Count("found");
  }
  fields.ForEach("arms", fields.List("arms", true),
                 [&](const std::string&, const Json& value, const std::string& field) {
                   Fields arm = fields.Within(value, field);
                   const Json& training = arm.Object("training");
                   evaluation->arms.push_back(ArmOf(arm, training));
                 });
  return status;
}

EvaluatedAnswer AnswerOf(Fields fields, const std::string& field,
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
                   if (!value.is_number()) return fields.Fail(where, Shown(value), "a number");
                   const double score = value.get<double>();
                   if (probabilities.count(name) != 0 && !(score >= 0 && score <= 1))
                     fields.Fail(where, Shown(value), "a guard's probability from 0 to 1");
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
  WB_ASSIGN_OR_RETURN(const Json json, Parse(line, origin));
  absl::Status status;
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ": is a JSON ", json.type_name(), ", expected an object"));
  }
  Fields fields(json, origin, "", &status);
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
      return Invalid(origin, "arm", absl::StrCat("\"", name, "\""),
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
  if (base == arms.end()) return Invalid(head, "arms", "without \"base\"", "an arm of that name");
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
