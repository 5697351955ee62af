// SPDX-License-Identifier: Apache-2.0
#include "report/findings.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "report/claims.h"
#include "report/classification.h"
#include "report/json_text.h"

namespace wideberth::report {
namespace {

using nlohmann::ordered_json;

constexpr size_t kColumns = 100;

ordered_json DifferenceJson(const ArmDifference& difference) {
  return {{"arm", difference.arm},
          {"against", difference.against},
          {"metric", difference.metric},
          {"mean", difference.test.mean},
          {"low", difference.test.interval.low},
          {"high", difference.test.interval.high},
          {"p", difference.test.p},
          {"p_holm", difference.p_holm},
          {"effect_size", NumberOrNull(difference.test.effect_size)},
          {"n", difference.test.num_units},
          {"run_means", difference.run_means}};
}

ordered_json FiguresJson(const std::vector<ArmFigures>& arms) {
  ordered_json json = ordered_json::object();
  for (const ArmFigures& arm : arms) {
    ordered_json& of_arm = json[arm.arm] = ordered_json::object();
    for (const Figure& figure : arm.figures) of_arm[figure.key] = NumberOrNull(figure.value);
  }
  return json;
}

ordered_json IntervalsJson(const std::vector<ArmFigures>& arms) {
  ordered_json json = ordered_json::object();
  for (const ArmFigures& arm : arms) {
    for (const Figure& figure : arm.figures) {
      if (figure.interval.has_value())
        json[arm.arm][figure.key] = {figure.interval->low, figure.interval->high};
    }
  }
  return json;
}

ordered_json SlicesJson(const std::vector<Slice>& slices) {
  ordered_json list = ordered_json::array();
  for (const Slice& slice : slices) {
    for (const Slice::Row& row : slice.rows) {
      ordered_json json = {{"kind", slice.kind},
                           {"name", slice.name},
                           {"num_prompts", slice.num_prompts},
                           {"arm", row.arm},
                           {"harm", NumberOrNull(row.harm)},
                           {"help", NumberOrNull(row.help)},
                           {"harm_unfiltered", NumberOrNull(row.harm_unfiltered)},
                           {"help_unfiltered", NumberOrNull(row.help_unfiltered)},
                           {"shown", NumberOrNull(row.shown)},
                           {"boundary_mass", NumberOrNull(row.boundary_mass)}};
      if (row.harm_change.has_value()) json["harm_change"] = DifferenceJson(*row.harm_change);
      if (row.help_change.has_value()) json["help_change"] = DifferenceJson(*row.help_change);
      list.push_back(std::move(json));
    }
  }
  return list;
}

ordered_json SweepJson(const Findings& findings) {
  ordered_json points = ordered_json::array();
  for (const SweepPoint& point : findings.sweep) {
    ordered_json json = {{"arm", point.arm},
                         {"tau", point.tau},
                         {"harm", NumberOrNull(point.harm)},
                         {"help", NumberOrNull(point.help)},
                         {"shown", NumberOrNull(point.shown)},
                         {"on_front", point.on_front}};
    for (size_t i = 0; i < point.utility.size(); ++i)
      json["utility"][absl::StrCat("lambda ", kLambdas[i])] = NumberOrNull(point.utility[i]);
    points.push_back(std::move(json));
  }
  return points;
}

ordered_json FiltersJson(const std::vector<FilterRow>& rows) {
  ordered_json list = ordered_json::array();
  for (const FilterRow& row : rows) {
    list.push_back({{"filter", row.filter},
                    {"arm", row.arm},
                    {"harm", NumberOrNull(row.harm)},
                    {"help", NumberOrNull(row.help)},
                    {"utility", NumberOrNull(row.utility)},
                    {"shown", NumberOrNull(row.shown)},
                    {"clear_errors", NumberOrNull(row.clear_errors)},
                    {"errors_harm2", NumberOrNull(row.errors_harm2)},
                    {"errors_harm1", NumberOrNull(row.errors_harm1)}});
  }
  return list;
}

ordered_json WordingsJson(const std::vector<WorstWording>& rows) {
  ordered_json list = ordered_json::array();
  for (const WorstWording& row : rows) {
    list.push_back({{"arm", row.arm},
                    {"num_requests", row.num_requests},
                    {"harm", row.harm},
                    {"worst_harm", row.worst_harm}});
    if (!row.against_base.has_value()) continue;
    list.back()["against_base"] = {{"mean", row.against_base->mean},
                                   {"low", row.against_base->interval.low},
                                   {"high", row.against_base->interval.high},
                                   {"p", row.against_base->p},
                                   {"n", row.against_base->num_units}};
  }
  return list;
}

ordered_json AttributionsJson(const std::vector<Attribution>& attributions) {
  ordered_json list = ordered_json::array();
  for (const Attribution& one : attributions) {
    list.push_back({{"arm", one.arm},
                    {"control", one.control},
                    {"metric", one.metric},
                    {"gain", one.gain->test.mean},
                    {"control_gain", one.control_gain->test.mean},
                    {"own", one.own->test.mean},
                    {"share", NumberOrNull(one.share)},
                    {"low", one.interval.has_value() ? NumberOrNull(one.interval->low) : nullptr},
                    {"high", one.interval.has_value() ? NumberOrNull(one.interval->high) : nullptr},
                    {"differing", one.differing}});
  }
  return list;
}

ordered_json RunJson(const EvaluatedRun& run, const std::vector<ArmFigures>& figures) {
  ordered_json json = {{"name", run.evaluation.Label()},    {"folder", run.evaluation.folder},
                       {"run_id", run.evaluation.run_id},   {"created", run.evaluation.created},
                       {"ended", run.evaluation.ended},     {"seed", run.evaluation.seed},
                       {"arms", FiguresJson(figures)},      {"intervals", IntervalsJson(figures)},
                       {"settings", ordered_json::object()}};
  for (const auto& [key, value] : run.evaluation.settings) json["settings"][key] = value;
  for (const SystemArm& arm : run.arms) {
    json["missing"][arm.arm->name] = MissingScores(run.evaluation, *arm.arm);
    json["training"][arm.arm->name] = arm.arm->training;
  }
  return json;
}

// One metric over runs: the mean of the runs' means.
absl::optional<double> OverRuns(
    const Runs& runs, const std::string& arm,
    const std::function<absl::optional<double>(const EvaluatedRun&, const SystemArm&)>& value) {
  double sum = 0;
  int count = 0;
  for (const auto& run : runs) {
    const SystemArm* found = run->Find(arm);
    if (found == nullptr) continue;
    if (const absl::optional<double> of_run = value(*run, *found); of_run.has_value()) {
      sum += *of_run;
      ++count;
    }
  }
  if (count == 0) return absl::nullopt;
  return sum / count;
}

std::string Cell(const absl::optional<double>& value) {
  return value.has_value() ? absl::StrFormat("%.3f", *value) : "-";
}

void AppendWrapped(absl::string_view text, std::string* out) {
  std::string line;
  for (absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (!line.empty() && line.size() + 1 + word.size() > kColumns - 2) {
      absl::StrAppend(out, line, "\n");
      line = "  ";
      absl::StrAppend(&line, word);
      continue;
    }
    absl::StrAppend(&line, line.empty() ? "" : " ", word);
  }
  absl::StrAppend(out, line, "\n");
}

// Arms side by side, as many as fit.
void AppendFigures(const Findings& findings, std::string* out) {
  constexpr size_t kArmsPerBlock = 4, kLabel = 50;
  for (size_t first = 0; first < findings.arms.size(); first += kArmsPerBlock) {
    const size_t end = std::min(first + kArmsPerBlock, findings.arms.size());
    absl::StrAppendFormat(out, "%-*s", kLabel, "");
    for (size_t arm = first; arm < end; ++arm)
      absl::StrAppendFormat(out, " %11s", findings.arms[arm].arm.substr(0, 11));
    absl::StrAppend(out, "\n");
    for (const Metric& metric : findings.runs.front()->metrics) {
      std::string line = absl::StrFormat("%-*s", kLabel, metric.label.substr(0, kLabel));
      bool any = false;
      for (size_t arm = first; arm < end; ++arm) {
        const Figure* figure = findings.arms[arm].Find(metric.key);
        any = any || figure->value.has_value();
        absl::StrAppendFormat(&line, " %11s", Cell(figure->value));
      }
      if (any) absl::StrAppend(out, line, "\n");
    }
    absl::StrAppend(out, "\n");
  }
}

void AppendDifferences(const Findings& findings, std::string* out) {
  absl::StrAppendFormat(out, "%-34s %-15s %8s   %-18s %s\n", "difference", "metric", "mean",
                        "95 % interval", "p (Holm)");
  for (const ArmDifference& difference : findings.differences) {
    const std::string& metric = difference.metric;  // The page has the others.
    if (metric != "harm" && metric != "help" && metric != "shown" && metric != "boundary_mass")
      continue;
    absl::StrAppendFormat(out, "%-34s %-15s %+8.3f   %+.3f to %+.3f   %s%s\n",
                          absl::StrCat(difference.arm, " - ", difference.against).substr(0, 34),
                          difference.metric.substr(0, 15), difference.test.mean,
                          difference.test.interval.low, difference.test.interval.high,
                          PInWords(difference.p_holm), difference.Significant() ? "" : ", n.s.");
  }
}

void AppendWordings(const Findings& findings, std::string* out) {
  if (findings.wordings.empty()) return;
  absl::StrAppendFormat(
      out, "harm with filter of %d requests, over all wordings and where the worst is chosen\n",
      findings.wordings.front().num_requests);
  for (const WorstWording& row : findings.wordings) {
    absl::StrAppendFormat(out, "%-34s %8.3f %8.3f", row.arm.substr(0, 34), row.harm,
                          row.worst_harm);
    if (row.against_base.has_value())
      absl::StrAppendFormat(out, "   %+.3f to %+.3f against base", row.against_base->interval.low,
                            row.against_base->interval.high);
    absl::StrAppend(out, "\n");
  }
  absl::StrAppend(out, "\n");
}

bool Holds(absl::string_view folder, absl::string_view file) {
  std::error_code ignored;
  return std::filesystem::exists(absl::StrCat(folder, "/", file), ignored);
}

// Of the evaluations.
ordered_json RunsJson(const Findings& findings) {
  const Evaluation& first = findings.runs.front()->evaluation;
  ordered_json json = {{"name", first.Label()},
                       {"ended", first.ended},
                       {"warnings", WarningSentences(findings.runs)},
                       {"claim", ClaimSentences(findings.runs, findings.differences)},
                       {"attribution", AttributionSentences(findings.attributions)},
                       {"attribution_conclusion", AttributionConclusion(findings.attributions)},
                       {"sample", SampleSentence(findings.runs)},
                       {"num_runs", findings.runs.size()},
                       {"arms", FiguresJson(findings.arms)},
                       {"differences", ordered_json::array()},
                       {"attributions", AttributionsJson(findings.attributions)},
                       {"slices", SlicesJson(findings.slices)},
                       {"filters", FiltersJson(findings.filters)},
                       {"sweep", SweepJson(findings)},
                       {"wordings", WordingsJson(findings.wordings)},
                       {"settings", ordered_json::object()},
                       {"seconds", ordered_json::object()},
                       {"runs", ordered_json::array()}};
  for (const ArmDifference& difference : findings.differences)
    json["differences"].push_back(DifferenceJson(difference));
  for (const auto& [key, value] : first.settings) json["settings"][key] = value;
  for (const auto& run : findings.runs) {
    for (const auto& [phase, seconds] : run->evaluation.seconds)
      json["seconds"][phase] = json["seconds"].value(phase, 0.0) + seconds;
    if (run->evaluation.ended != "completed") json["ended"] = run->evaluation.ended;
    json["runs"].push_back(RunJson(*run, FiguresOf({run})));
  }
  return json;
}

std::string RunsText(const Findings& findings) {
  std::string out;
  for (const std::string& warning : WarningSentences(findings.runs)) AppendWrapped(warning, &out);
  if (!out.empty()) absl::StrAppend(&out, "\n");
  AppendWrapped(
      absl::StrCat(findings.runs.front()->evaluation.Label(), ": ", SampleSentence(findings.runs)),
      &out);
  absl::StrAppend(&out, "\n");
  AppendFigures(findings, &out);
  AppendDifferences(findings, &out);
  absl::StrAppend(&out, "\n");
  AppendWordings(findings, &out);
  for (const std::string& sentence : ClaimSentences(findings.runs, findings.differences))
    AppendWrapped(sentence, &out);
  if (findings.attributions.empty()) return out;
  absl::StrAppend(&out, "\n");
  for (const std::string& sentence : AttributionSentences(findings.attributions))
    AppendWrapped(sentence, &out);
  AppendWrapped(AttributionConclusion(findings.attributions), &out);
  return out;
}

}  // namespace

const Figure* ArmFigures::Find(absl::string_view key) const {
  const auto found = std::find_if(figures.begin(), figures.end(),
                                  [&](const Figure& figure) { return figure.key == key; });
  return found == figures.end() ? nullptr : &*found;
}

std::vector<ArmFigures> FiguresOf(const Runs& runs) {
  std::vector<ArmFigures> arms;
  const bool has_second = !runs.front()->evaluation.second_guard.empty();
  for (const std::string& name : ArmNames(runs)) {
    ArmFigures& figures = arms.emplace_back();
    figures.arm = name;
    for (const Metric& metric : runs.front()->metrics) {
      Figure figure{metric.key};
      figure.value = OverRuns(runs, name, [&](const EvaluatedRun& run, const SystemArm& arm) {
        const Metric* own = FindMetric(run.metrics, metric.key);
        return own == nullptr ? absl::nullopt : MeanOf(arm.prompts, *own);
      });
      if (runs.size() == 1)
        figure.interval = IntervalOf(runs[0]->Find(name)->prompts, metric, kStatisticsSeed);
      figures.figures.push_back(std::move(figure));
    }
    const auto add = [&](const char* key, double cut, bool second, auto of) {
      figures.figures.push_back(
          {key, OverRuns(runs, name, [&](const EvaluatedRun&, const SystemArm& arm) {
             return of(GuardJudged(arm.prompts, cut, second));
           })});
    };
    const auto auroc = [](const std::vector<Judged>& judged) { return Auroc(judged); };
    const auto ece = [](const std::vector<Judged>& j) { return ExpectedCalibrationError(j); };
    add("auroc", 2, false, auroc);
    add("auroc_harm1", 1, false, auroc);
    add("ece", 2, false, ece);
    if (!has_second) continue;
    add("second_auroc", 2, true, auroc);
    add("second_ece", 2, true, ece);
  }
  return arms;
}

absl::StatusOr<Findings> WorkOut(const std::vector<std::string>& folders) {
  Findings findings;
  for (const std::string& folder : folders) {
    const bool evaluation = Holds(folder, "evaluation.json");
    const bool guard = Holds(folder, kGuardTableFile);
    if (!evaluation && !guard) {
      return absl::NotFoundError(absl::StrCat(
          folder, ": has neither evaluation.json nor ", kGuardTableFile,
          ", expected the folder of `wideberth evaluate` or of `wideberth evaluate --guard`"));
    }
    if (evaluation) {
      WB_ASSIGN_OR_RETURN(Evaluation read, ReadEvaluation(folder));
      findings.runs.push_back(std::make_shared<EvaluatedRun>(std::move(read)));
    }
    if (guard) {
      WB_ASSIGN_OR_RETURN(GuardFolder read, ReadGuardFolder(folder));
      findings.guards.push_back(std::move(read));
    }
  }
  if (findings.runs.empty()) return findings;
  findings.arms = FiguresOf(findings.runs);
  findings.differences = CompareArms(findings.runs);
  findings.attributions = Attribute(findings.runs, findings.differences);
  findings.slices = CompareSlices(findings.runs);
  findings.filters = CompareFilters(findings.runs);
  findings.sweep = SweepThresholds(findings.runs);
  findings.wordings = WorstWordings(findings.runs);
  return findings;
}

std::string FindingsJson(const Findings& findings) {
  ordered_json json = findings.runs.empty() ? ordered_json::object() : RunsJson(findings);
  for (const GuardFolder& guard : findings.guards)
    json["guards"].push_back(ordered_json::parse(guard.table));
  return JsonText(json, 2) + "\n";
}

std::string FindingsText(const Findings& findings) {
  std::string out = findings.runs.empty() ? "" : RunsText(findings);
  for (const GuardFolder& guard : findings.guards) {
    absl::StrAppend(&out, out.empty() ? "" : "\n",
                    GuardTableText(guard.asked, guard.sets, guard.figures));
  }
  return out;
}

}  // namespace wideberth::report
