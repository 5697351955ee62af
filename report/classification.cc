// SPDX-License-Identifier: Apache-2.0
#include "report/classification.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "report/json_text.h"

namespace wideberth::report {
namespace {

using nlohmann::ordered_json;

// Items of one probability, counted by class.
struct Tie {
  int64_t positives = 0, negatives = 0;
};

// From the highest probability to the lowest.
std::vector<Tie> Ties(absl::Span<const Judged> judged) {
  std::vector<Judged> sorted(judged.begin(), judged.end());
  std::sort(sorted.begin(), sorted.end(), [](const Judged& left, const Judged& right) {
    return left.probability > right.probability;
  });
  std::vector<Tie> ties;
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (i == 0 || sorted[i].probability != sorted[i - 1].probability) ties.emplace_back();
    ++(sorted[i].positive ? ties.back().positives : ties.back().negatives);
  }
  return ties;
}

int64_t Positives(absl::Span<const Judged> judged) {
  return std::count_if(judged.begin(), judged.end(),
                       [](const Judged& item) { return item.positive; });
}

double Share(int64_t part, int64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

std::string Cell(const absl::optional<double>& value) {
  return value.has_value() ? absl::StrFormat("%7.4f", *value) : "      -";
}

}  // namespace

absl::optional<double> Auroc(absl::Span<const Judged> judged) {
  const int64_t positives = Positives(judged);
  const int64_t negatives = static_cast<int64_t>(judged.size()) - positives;
  if (positives == 0 || negatives == 0) return absl::nullopt;
  // Twice the number of pairs in which the positive is ahead, ties counted once: exact integers.
  int64_t twice = 0, positives_above = 0;
  for (const Tie& tie : Ties(judged)) {
    twice += tie.negatives * (2 * positives_above + tie.positives);
    positives_above += tie.positives;
  }
  return static_cast<double>(twice) / 2 /
         (static_cast<double>(positives) * static_cast<double>(negatives));
}

absl::optional<double> AveragePrecision(absl::Span<const Judged> judged) {
  const int64_t positives = Positives(judged);
  if (positives == 0) return absl::nullopt;
  double sum = 0;
  int64_t found = 0, said = 0;
  for (const Tie& tie : Ties(judged)) {
    found += tie.positives;
    said += tie.positives + tie.negatives;
    sum += Share(tie.positives, positives) * Share(found, said);
  }
  return sum;
}

absl::optional<double> ExpectedCalibrationError(absl::Span<const Judged> judged, int num_bins) {
  if (judged.empty()) return absl::nullopt;
  double sum = 0;
  for (const CalibrationBin& bin : CalibrationBins(judged, num_bins))
    sum += static_cast<double>(bin.num) * std::abs(bin.probability - bin.positives);
  return sum / static_cast<double>(judged.size());
}

std::vector<CalibrationBin> CalibrationBins(absl::Span<const Judged> judged, int num_bins) {
  std::vector<CalibrationBin> bins(num_bins);
  for (const Judged& item : judged) {
    const int place = static_cast<int>(std::floor(item.probability * num_bins));
    CalibrationBin& bin = bins[std::clamp(place, 0, num_bins - 1)];
    ++bin.num;
    bin.probability += item.probability;
    bin.positives += item.positive ? 1.0 : 0.0;
  }
  for (CalibrationBin& bin : bins) {
    bin.probability /= static_cast<double>(std::max<int64_t>(1, bin.num));
    bin.positives /= static_cast<double>(std::max<int64_t>(1, bin.num));
  }
  return bins;
}

Classification Classify(absl::Span<const Judged> judged, double threshold) {
  Classification figures;
  figures.num = static_cast<int64_t>(judged.size());
  figures.num_positive = Positives(judged);
  if (judged.empty()) return figures;
  int64_t said = 0, hits = 0, right = 0;
  for (const Judged& item : judged) {
    const bool says = item.probability >= threshold;
    said += says;
    hits += says && item.positive;
    right += says == item.positive;
  }
  figures.auroc = Auroc(judged);
  figures.auprc = AveragePrecision(judged);
  figures.precision = Share(hits, said);
  figures.recall = Share(hits, figures.num_positive);
  figures.f1 = Share(2 * hits, said + figures.num_positive);
  figures.accuracy = Share(right, figures.num);
  figures.ece = ExpectedCalibrationError(judged);
  return figures;
}

std::string ClassificationTable(const std::vector<ClassificationRow>& rows) {
  std::string table = absl::StrFormat("%-26s %6s %6s %6s %7s %7s %7s %7s %7s\n", "source", "items",
                                      "pos.", "unsc.", "AUROC", "AUPRC", "F1", "acc.", "ECE");
  for (const ClassificationRow& row : rows) {
    const Classification& figures = row.figures;
    absl::StrAppendFormat(&table, "%-26s %6d %6d %6d %s %s %s %s %s\n", row.name.substr(0, 26),
                          figures.num, figures.num_positive, row.num_unscored, Cell(figures.auroc),
                          Cell(figures.auprc), Cell(figures.f1), Cell(figures.accuracy),
                          Cell(figures.ece));
  }
  return table;
}

std::string ClassificationJson(const std::vector<ClassificationRow>& rows) {
  ordered_json json = ordered_json::object();
  for (const ClassificationRow& row : rows) {
    const Classification& figures = row.figures;
    json[row.name] = {{"num", figures.num},
                      {"num_positive", figures.num_positive},
                      {"num_unscored", row.num_unscored},
                      {"auroc", NumberOrNull(figures.auroc)},
                      {"auprc", NumberOrNull(figures.auprc)},
                      {"precision", NumberOrNull(figures.precision)},
                      {"recall", NumberOrNull(figures.recall)},
                      {"f1", NumberOrNull(figures.f1)},
                      {"accuracy", NumberOrNull(figures.accuracy)},
                      {"ece", NumberOrNull(figures.ece)}};
  }
  return JsonText(json);
}

}  // namespace wideberth::report
