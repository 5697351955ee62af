// SPDX-License-Identifier: Apache-2.0
#include "learner/calibration.h"

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "report/json_text.h"

namespace wideberth::learner {
namespace {

using nlohmann::ordered_json;
using report::NumberOrNull;

// log(1 + exp(x)) without overflow.
double SoftPlus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

double Sigmoid(double x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}

// Of the loss in the inverse temperature, which is monotone.
double Slope(absl::Span<const ScoredLabel> scored, double inverse) {
  double slope = 0;
  for (const ScoredLabel& item : scored)
    slope += (Sigmoid(inverse * item.log_odds) - (item.positive ? 1 : 0)) * item.log_odds;
  return slope;
}

std::vector<report::Judged> JudgedAt(absl::Span<const ScoredLabel> scored, double temperature) {
  std::vector<report::Judged> judged;
  for (const ScoredLabel& item : scored)
    judged.push_back({Sigmoid(item.log_odds / temperature), item.positive});
  return judged;
}

std::string OrDash(const absl::optional<double>& value) {
  return value.has_value() ? absl::StrFormat("%.4f", *value) : "-";
}

}  // namespace

double CalibrationLoss(absl::Span<const ScoredLabel> scored, double temperature) {
  double sum = 0;
  for (const ScoredLabel& item : scored) {
    const double z = item.log_odds / temperature;
    sum += SoftPlus(item.positive ? -z : z);
  }
  return sum / static_cast<double>(scored.size());
}

absl::StatusOr<double> FitTemperature(absl::Span<const ScoredLabel> scored) {
  size_t num_positive = 0;
  for (const ScoredLabel& item : scored) num_positive += item.positive;
  if (num_positive == 0 || num_positive == scored.size()) {
    return absl::InvalidArgumentError(absl::StrCat("calibration has ", num_positive,
                                                   " positive rows of ", scored.size(),
                                                   ", expected both classes"));
  }
  double low = std::log(0.01), high = std::log(100.0);  // Of the inverse.
  for (int i = 0; i < 100; ++i) {
    const double middle = 0.5 * (low + high);
    (Slope(scored, std::exp(middle)) < 0 ? low : high) = middle;
  }
  return std::exp(-0.5 * (low + high));
}

GuardFigures FiguresOf(absl::Span<const ScoredLabel> scored, double temperature) {
  GuardFigures figures;
  figures.temperature = temperature;
  figures.nll_before = CalibrationLoss(scored, 1);
  figures.nll_after = CalibrationLoss(scored, temperature);
  figures.before = report::Classify(JudgedAt(scored, 1));
  figures.after = report::Classify(JudgedAt(scored, temperature));
  figures.table.push_back({"all", figures.after, 0});
  std::map<std::string, std::vector<ScoredLabel>> by_source;
  for (const ScoredLabel& item : scored) by_source[item.source].push_back(item);
  if (by_source.size() == 1 && by_source.begin()->first.empty()) return figures;
  for (const auto& [source, items] : by_source) {
    figures.table.push_back({source.empty() ? "(no source)" : source,
                             report::Classify(JudgedAt(items, temperature)), 0});
  }
  return figures;
}

std::string CalibrationJson(const GuardFigures& figures) {
  ordered_json json;
  json["temperature"] = figures.temperature;
  json["num_rows"] = figures.after.num;
  json["num_positive"] = figures.after.num_positive;
  json["nll_before"] = figures.nll_before;
  json["nll_after"] = figures.nll_after;
  json["ece_before"] = NumberOrNull(figures.before.ece);
  json["ece_after"] = NumberOrNull(figures.after.ece);
  json["auroc"] = NumberOrNull(figures.after.auroc);
  json["auprc"] = NumberOrNull(figures.after.auprc);
  json["accuracy"] = NumberOrNull(figures.after.accuracy);
  json["f1"] = NumberOrNull(figures.after.f1);
  json["by_source"] =
      ordered_json::parse(report::ClassificationJson(figures.table), nullptr, false);
  return report::JsonText(json, 2) + "\n";
}

std::string CalibrationTable(const GuardFigures& figures) {
  return absl::StrCat(
      absl::StrFormat("Validation, %d rows: AUROC %s, temperature %.4f\n", figures.after.num,
                      OrDash(figures.after.auroc), figures.temperature),
      absl::StrFormat("  calibration error (15 bins) %s before, %s after; NLL %.4f before, %.4f "
                      "after\n\n",
                      OrDash(figures.before.ece), OrDash(figures.after.ece), figures.nll_before,
                      figures.nll_after),
      report::ClassificationTable(figures.table));
}

}  // namespace wideberth::learner
