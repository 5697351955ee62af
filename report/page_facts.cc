// SPDX-License-Identifier: Apache-2.0
#include "report/page_facts.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "report/html.h"

namespace wideberth::report {

std::string RunsTable(const Findings& findings) {
  if (findings.runs.size() < 2) return "";
  HtmlTable table("Run by run, with filter.",
                  {"run", "arm", "training seed", "prompts", "harm", "help", "compound U", "shown",
                   "t near threshold", "harm unfiltered"});
  for (const auto& run : findings.runs) {
    for (const ArmFigures& arm : FiguresOf({run})) {
      const SystemArm* found = run->Find(arm.arm);
      const auto seed = found->arm->training.find("seed");
      table.AddRow(
          {absl::StrCat(run->evaluation.Label(), " (", run->evaluation.folder, ")"), arm.arm,
           seed == found->arm->training.end() ? Decimals(absl::nullopt) : seed->second,
           absl::StrCat(found->prompts.size()), Decimals(arm.Find("harm")->value),
           Decimals(arm.Find("help")->value), Decimals(arm.Find("utility")->value),
           Percent(arm.Find("shown")->value), Percent(arm.Find("boundary_mass")->value),
           Decimals(arm.Find("harm_unfiltered")->value)},
          arm.arm == "base" ? "strong" : "");
    }
  }
  return table.Html();
}

std::string TrainingTable(const Findings& findings) {
  const EvaluatedRun& run = *findings.runs.front();
  std::vector<std::string> columns = {"setting"}, keys;
  for (const SystemArm& arm : run.arms) {
    columns.push_back(arm.arm->name);
    for (const auto& [key, value] : arm.arm->training) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    }
  }
  HtmlTable table(findings.runs.size() == 1 ? "How the arms were trained."
                                            : "How the arms of the first run were trained.",
                  columns);
  const auto row = [&](const std::string& label, const auto& value) {
    std::vector<std::string> cells = {label};
    for (const SystemArm& arm : run.arms) cells.push_back(value(*arm.arm));
    const bool any = std::any_of(cells.begin() + 1, cells.end(),
                                 [](const std::string& cell) { return !cell.empty(); });
    if (any) table.AddRow(cells);
  };
  for (const std::string& key : keys) {
    row(key, [&](const EvaluatedArm& arm) {
      const auto found = arm.training.find(key);
      return found == arm.training.end() ? std::string() : found->second;
    });
  }
  row("adapter fingerprint",
      [](const EvaluatedArm& arm) { return arm.adapter_fingerprint.substr(0, 12); });
  row("policy version", [](const EvaluatedArm& arm) {
    return arm.policy_version == 0 ? std::string() : absl::StrCat(arm.policy_version);
  });
  return table.empty() ? "" : table.Html();
}

std::string SettingsTable(const Findings& findings) {
  std::vector<std::string> columns = {"setting"};
  std::vector<std::string> keys;
  std::vector<std::map<std::string, std::string>> values;
  for (const auto& run : findings.runs) {
    columns.push_back(run->evaluation.Label());
    const Evaluation& e = run->evaluation;
    std::vector<std::pair<std::string, std::string>> settings = {
        {"folder", e.folder},
        {"run id", e.run_id},
        {"created", e.created},
        {"ended", e.ended},
        {"seed", e.seed},
        {"completions a prompt", absl::StrCat(e.num_completions)},
        {"threshold tau", absl::StrCat(e.tau)},
        {"lambda", absl::StrCat(e.lambda)},
        {"utility normalisation",
         absl::StrCat(e.normalization.kind, ", weight ", e.normalization.weight)},
        {"harm judge", e.harm_judge},
        {"help judge", e.help_judge},
        {"utility", e.utility},
        {"second guard", e.second_guard},
        {"refusal text", e.refusal}};
    for (const std::string& guard : e.guards) settings.emplace_back("guard", guard);
    for (const HarmKind& harm : e.harms) {
      settings.emplace_back(absl::StrCat("harm ", harm.guard),
                            absl::StrCat("threshold ", harm.tau, ", weight ", harm.weight));
    }
    settings.insert(settings.end(), e.settings.begin(), e.settings.end());
    std::map<std::string, std::string>& of_run = values.emplace_back();
    for (const auto& [key, value] : settings) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
      of_run[key] = value;
    }
  }
  HtmlTable table("Settings of the evaluation.", columns);
  for (const std::string& key : keys) {
    std::vector<std::string> cells = {key};
    for (auto& of_run : values) cells.push_back(of_run[key]);
    if (std::any_of(cells.begin() + 1, cells.end(),
                    [](const std::string& cell) { return !cell.empty(); }))
      table.AddRow(cells, "text");
  }
  return table.Html();
}

std::string CostsTable(const Findings& findings) {
  HtmlTable table("What it cost.", {"", "run", "value"});
  for (const auto& run : findings.runs) {
    double sum = 0;
    for (const auto& [phase, seconds] : run->evaluation.seconds) {
      table.AddRow(
          {absl::StrCat("seconds: ", phase), run->evaluation.Label(), Decimals(seconds, 1)});
      sum += seconds;
    }
    for (const SystemArm& arm : run->arms) {
      int64_t answers = 0, tokens = 0;
      for (const EvaluatedPrompt& prompt : arm.arm->prompts) {
        answers += static_cast<int64_t>(prompt.answers.size());
        for (const EvaluatedAnswer& answer : prompt.answers) tokens += answer.num_tokens;
      }
      table.AddRow({absl::StrCat("answers and tokens of ", arm.arm->name), run->evaluation.Label(),
                    absl::StrCat(answers, " answers, ", tokens, " tokens")});
    }
  }
  return table.Html();
}

std::string ManifestTable(const Findings& findings) {
  std::vector<std::string> paths;
  for (const auto& run : findings.runs) {
    for (const auto& [key, value] : run->evaluation.settings) {
      if (key == "manifest") paths.push_back(value);
      if (key != "prompts") continue;
      for (absl::string_view prompts : absl::StrSplit(value, ", ")) {
        const std::string beside =
            (std::filesystem::path(std::string(prompts)).parent_path() / "manifest.json").string();
        if (std::filesystem::exists(beside)) paths.push_back(beside);
      }
    }
  }
  std::string tables;
  std::set<std::string> shown;
  for (const std::string& path : paths) {
    if (!shown.insert(path).second) continue;
    const absl::StatusOr<std::string> text = ReadFile(path);
    const auto json = nlohmann::ordered_json::parse(text.value_or(""), nullptr, false);
    if (!json.is_object()) {
      absl::StrAppend(&tables, "<p>The manifest ", Escaped(path), " cannot be read.</p>\n");
      continue;
    }
    HtmlTable table(absl::StrCat("Data manifest, ", path), {"field", "value"});
    const auto flat = json.flatten();
    for (const auto& [field, value] : flat.items()) {
      if (value.is_structured()) continue;
      table.AddRow({std::string(absl::StripPrefix(field, "/")),
                    value.is_string() ? value.get<std::string>() : value.dump()});
    }
    absl::StrAppend(&tables, table.Html());
  }
  return tables;
}

}  // namespace wideberth::report
