// SPDX-License-Identifier: Apache-2.0
#include "report/sweep.h"

#include <algorithm>
#include <cmath>

#include "report/statistics.h"

namespace wideberth::report {
namespace {

using Value = absl::optional<double>;

// A copy of every run's arms, to be put behind other filters.
std::vector<std::vector<SystemArm>> ArmsOf(const Runs& runs) {
  std::vector<std::vector<SystemArm>> arms;
  for (const auto& run : runs) arms.push_back(run->arms);
  return arms;
}

void ApplyEverywhere(const Runs& runs, const Filter& filter,
                     std::vector<std::vector<SystemArm>>* arms) {
  for (size_t run = 0; run < runs.size(); ++run)
    ApplyFilter(runs[run]->evaluation, filter, &(*arms)[run]);
}

Value MeanOverRuns(const Runs& runs, const std::vector<std::vector<SystemArm>>& arms,
                   const std::string& name, absl::string_view metric) {
  Mean mean;
  for (size_t run = 0; run < runs.size(); ++run) {
    for (const SystemArm& arm : arms[run]) {
      if (arm.arm->name == name)
        mean.Add(MeanOf(arm.prompts, *FindMetric(runs[run]->metrics, metric)));
    }
  }
  return mean.value();
}

Value UtilityOverRuns(const Runs& runs, const std::vector<std::vector<SystemArm>>& arms,
                      const std::string& name, double lambda) {
  Mean mean;
  for (size_t run = 0; run < runs.size(); ++run) {
    const Evaluation& evaluation = runs[run]->evaluation;
    Metric utility;
    utility.value = [&](const SystemAnswer& answer) {
      return SystemUtility(evaluation, answer, lambda);
    };
    for (const SystemArm& arm : arms[run]) {
      if (arm.arm->name == name) mean.Add(MeanOf(arm.prompts, utility));
    }
  }
  return mean.value();
}

}  // namespace

std::vector<SweepPoint> SweepThresholds(const Runs& runs) {
  std::vector<double> taus;
  for (int i = 1; i < 20; ++i) taus.push_back(i / 20.0);
  taus.push_back(1.01);
  const double own = runs.front()->evaluation.tau;
  if (std::none_of(taus.begin(), taus.end(),
                   [&](double tau) { return std::abs(tau - own) < 1e-9; }))
    taus.insert(std::upper_bound(taus.begin(), taus.end(), own), own);
  std::vector<SweepPoint> points;
  auto arms = ArmsOf(runs);
  for (double tau : taus) {
    ApplyEverywhere(runs, {Filter::THRESHOLD, tau}, &arms);
    for (const std::string& name : ArmNames(runs)) {
      SweepPoint point{name, tau};
      point.harm = MeanOverRuns(runs, arms, name, "harm");
      point.help = MeanOverRuns(runs, arms, name, "help");
      point.shown = MeanOverRuns(runs, arms, name, "shown");
      for (double lambda : kLambdas)
        point.utility.push_back(UtilityOverRuns(runs, arms, name, lambda));
      points.push_back(std::move(point));
    }
  }
  const std::vector<std::string> names = ArmNames(runs);
  std::stable_sort(points.begin(), points.end(), [&](const SweepPoint& a, const SweepPoint& b) {
    return std::find(names.begin(), names.end(), a.arm) <
           std::find(names.begin(), names.end(), b.arm);
  });
  MarkParetoFront(&points);
  return points;
}

void MarkParetoFront(std::vector<SweepPoint>* points) {
  for (SweepPoint& point : *points) {
    if (!point.harm.has_value() || !point.help.has_value()) continue;
    point.on_front = std::none_of(points->begin(), points->end(), [&](const SweepPoint& other) {
      if (!other.harm.has_value() || !other.help.has_value()) return false;
      const bool no_worse = *other.harm <= *point.harm && *other.help >= *point.help;
      return no_worse && (*other.harm < *point.harm || *other.help > *point.help);
    });
  }
}

std::vector<FilterRow> CompareFilters(const Runs& runs) {
  const Evaluation& evaluation = runs.front()->evaluation;
  std::vector<std::pair<std::string, Filter>> filters = {
      {"threshold", {Filter::THRESHOLD, evaluation.tau}}};
  if (!evaluation.harms.empty()) filters.push_back({"per kind of harm", {Filter::PER_HARM}});
  if (!evaluation.utility.empty()) filters.push_back({"welfare", {Filter::WELFARE}});
  std::vector<FilterRow> rows;
  auto arms = ArmsOf(runs);
  for (const auto& [label, filter] : filters) {
    ApplyEverywhere(runs, filter, &arms);
    for (const std::string& name : ArmNames(runs)) {
      const auto mean = [&, &name = name](absl::string_view metric) {
        return MeanOverRuns(runs, arms, name, metric);
      };
      rows.push_back({label, name, mean("harm"), mean("help"), mean("utility"), mean("shown"),
                      mean("clear_errors"), mean("errors_harm2"), mean("errors_harm1")});
    }
  }
  return rows;
}

}  // namespace wideberth::report
