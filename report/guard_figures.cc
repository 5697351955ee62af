// SPDX-License-Identifier: Apache-2.0
#include "report/guard_figures.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "report/json_text.h"
#include "report/statistics.h"

namespace wideberth::report {
namespace {

using nlohmann::ordered_json;

std::string Cell(const absl::optional<double>& value, int digits = 3) {
  return value.has_value() ? absl::StrFormat("%7.*f", digits, *value) : "      -";
}

double AsJudged(const GuardedRow& row) {
  return row.probability.value_or(row.positive ? 0.0 : 1.0);
}

std::string Line(absl::string_view name, absl::string_view task, int64_t num,
                 absl::optional<int64_t> positive, int64_t unparsable,
                 const std::vector<absl::optional<double>>& shares) {
  std::string line = absl::StrFormat("%-24s %-13s %6d %6s %5d", name.substr(0, 24), task, num,
                                     positive ? absl::StrCat(*positive) : "", unparsable);
  for (const absl::optional<double>& share : shares) absl::StrAppend(&line, " ", Cell(share));
  return line;
}

}  // namespace

std::string MistakeOf(const GuardedRow& row, double threshold) {
  if (!row.probability.has_value()) return "no_verdict";
  const bool says = *row.probability >= threshold;
  if (says == row.positive) return "";
  return says ? "false_positive" : "false_negative";
}

GuardFigures FiguresOf(const GuardedSet& set, double threshold) {
  GuardFigures result;
  std::vector<Judged> judged;
  std::vector<double> latencies;
  int64_t num_negative = 0, num_false_positive = 0, num_verdicts = 0;
  for (const GuardedRow& row : set.rows) {
    judged.push_back({AsJudged(row), row.positive});
    num_negative += !row.positive;
    num_false_positive += !row.positive && AsJudged(row) >= threshold;
    num_verdicts += row.probability.has_value();
    if (!row.probability.has_value()) ++result.failures[row.failure];
    if (row.latency_ms.has_value()) latencies.push_back(*row.latency_ms);
  }
  const auto refused = result.failures.find("REFUSED_INPUT");
  const size_t num_refused = refused == result.failures.end() ? 0 : refused->second;
  if (num_refused == set.rows.size()) {
    result.figures.num = static_cast<int64_t>(judged.size());
    for (const Judged& item : judged) result.figures.num_positive += item.positive;
    result.note = judged.empty()
                      ? "no row is left"
                      : absl::StrCat("every row is refused; the first: ", set.rows[0].message);
  } else {
    result.figures = Classify(judged, threshold);
    if (num_negative > 0) {
      result.false_positive_rate =
          static_cast<double>(num_false_positive) / static_cast<double>(num_negative);
    }
    if (num_verdicts > 0) {
      result.tokens_per_query =
          static_cast<double>(set.num_tokens) / static_cast<double>(num_verdicts);
    }
  }
  const auto malformed = result.failures.find("MALFORMED_OUTPUT");
  if (malformed != result.failures.end()) result.num_unparsable = malformed->second;
  result.num_latencies = static_cast<int64_t>(latencies.size());
  if (!latencies.empty()) {
    std::sort(latencies.begin(), latencies.end());
    result.latency_p50_ms = Percentile(latencies, 0.5);
    result.latency_p95_ms = Percentile(latencies, 0.95);
  }
  return result;
}

std::vector<WeightedFigures> WeightedByRows(absl::Span<const GuardedSet> sets,
                                            absl::Span<const GuardFigures> figures) {
  std::vector<std::string> tasks;
  for (const GuardedSet& set : sets) {
    if (std::find(tasks.begin(), tasks.end(), set.task) == tasks.end()) tasks.push_back(set.task);
  }
  std::vector<WeightedFigures> all;
  for (const std::string& task : tasks) {
    WeightedFigures weighted;
    weighted.task = task;
    Mean f1, precision, recall, auroc, auprc, false_positive_rate, ece;
    for (size_t i = 0; i < sets.size(); ++i) {
      if (sets[i].task != task || !figures[i].note.empty()) continue;
      const Classification& found = figures[i].figures;
      ++weighted.num_sets;
      weighted.num += found.num;
      weighted.num_unparsable += figures[i].num_unparsable;
      f1.Add(found.f1, found.num);
      precision.Add(found.precision, found.num);
      recall.Add(found.recall, found.num);
      auroc.Add(found.auroc, found.num);
      auprc.Add(found.auprc, found.num);
      false_positive_rate.Add(figures[i].false_positive_rate, found.num);
      ece.Add(found.ece, found.num);
    }
    weighted.f1 = f1.value();
    weighted.precision = precision.value();
    weighted.recall = recall.value();
    weighted.auroc = auroc.value();
    weighted.auprc = auprc.value();
    weighted.false_positive_rate = false_positive_rate.value();
    weighted.ece = ece.value();
    if (weighted.num_sets > 0) all.push_back(weighted);
  }
  return all;
}

std::vector<std::string> NotesOf(const GuardedSet& set, const GuardFigures& figures) {
  std::vector<std::string> notes;
  const auto add = [&](int64_t count, absl::string_view one, absl::string_view many) {
    if (count > 0) notes.push_back(absl::StrCat(count, count == 1 ? one : many));
  };
  if (!figures.note.empty()) notes.push_back(figures.note);
  add(set.num_trained_on, " row is left out, the guard was trained or calibrated on it",
      " rows are left out, the guard was trained or calibrated on them");
  add(set.num_unlabelled, " row without a label is left out", " rows without a label are left out");
  if (!figures.note.empty()) return notes;
  for (const auto& [status, count] : figures.failures)
    add(count, absl::StrCat(" row is ", status), absl::StrCat(" rows are ", status));
  return notes;
}

std::string GuardTableText(const GuardAsked& asked, absl::Span<const GuardedSet> sets,
                           absl::Span<const GuardFigures> figures) {
  std::string text =
      absl::StrCat("Guard \"", asked.scorer, "\" (", asked.kind, ", ", asked.model,
                   asked.adapter.empty() ? "" : absl::StrCat(" with ", asked.adapter), ")\n\n");
  absl::StrAppendFormat(&text, "%-24s %-13s %6s %6s %5s %7s %7s %7s %7s %7s %7s %7s\n", "set",
                        "task", "rows", "pos.", "unp.", "F1", "prec.", "recall", "AUROC", "AUPRC",
                        "FPR", "ECE");
  for (size_t i = 0; i < sets.size(); ++i) {
    const Classification& found = figures[i].figures;
    absl::StrAppend(
        &text,
        Line(sets[i].name, sets[i].task, found.num, found.num_positive, figures[i].num_unparsable,
             {found.f1, found.precision, found.recall, found.auroc, found.auprc,
              figures[i].false_positive_rate, found.ece}),
        "\n");
  }
  for (const WeightedFigures& mean : WeightedByRows(sets, figures)) {
    absl::StrAppend(
        &text,
        Line("weighted by rows", mean.task, mean.num, absl::nullopt, mean.num_unparsable,
             {mean.f1, mean.precision, mean.recall, mean.auroc, mean.auprc,
              mean.false_positive_rate, mean.ece}),
        "\n");
  }
  absl::StrAppendFormat(&text, "\n%-24s %9s %9s %7s %9s\n", "set", "p50 ms", "p95 ms", "asked",
                        "tokens");
  for (size_t i = 0; i < sets.size(); ++i) {
    absl::StrAppendFormat(&text, "%-24s %9s %9s %7d %9s\n", sets[i].name.substr(0, 24),
                          Cell(figures[i].latency_p50_ms, 0), Cell(figures[i].latency_p95_ms, 0),
                          figures[i].num_latencies, Cell(figures[i].tokens_per_query, 1));
  }
  absl::StrAppend(
      &text,
      "\nunp.: answers without a verdict; like every row that was not scored they count "
      "once, as wrong.\np50, p95: one query asked alone; tokens: read and written, a "
      "query.\n");
  for (size_t i = 0; i < sets.size(); ++i) {
    for (const std::string& note : NotesOf(sets[i], figures[i]))
      absl::StrAppend(&text, sets[i].name, ": ", note, ".\n");
  }
  return text;
}

std::string GuardTableJson(const GuardAsked& asked, absl::Span<const GuardedSet> sets,
                           absl::Span<const GuardFigures> figures) {
  ordered_json json = {{"scorer", asked.scorer},
                       {"kind", asked.kind},
                       {"model", asked.model},
                       {"adapter", asked.adapter},
                       {"model_fingerprint", asked.model_fingerprint},
                       {"template_hash", asked.template_hash},
                       {"threshold", asked.threshold},
                       {"sets", ordered_json::array()},
                       {"weighted", ordered_json::object()}};
  for (size_t i = 0; i < sets.size(); ++i) {
    const Classification& found = figures[i].figures;
    ordered_json failures = ordered_json::object();
    for (const auto& [status, count] : figures[i].failures) failures[status] = count;
    json["sets"].push_back({{"name", sets[i].name},
                            {"file", sets[i].file},
                            {"task", sets[i].task},
                            {"num", found.num},
                            {"num_positive", found.num_positive},
                            {"num_unparsable", figures[i].num_unparsable},
                            {"without_verdict", failures},
                            {"num_unlabelled", sets[i].num_unlabelled},
                            {"num_trained_on", sets[i].num_trained_on},
                            {"f1", NumberOrNull(found.f1)},
                            {"precision", NumberOrNull(found.precision)},
                            {"recall", NumberOrNull(found.recall)},
                            {"auroc", NumberOrNull(found.auroc)},
                            {"auprc", NumberOrNull(found.auprc)},
                            {"false_positive_rate", NumberOrNull(figures[i].false_positive_rate)},
                            {"accuracy", NumberOrNull(found.accuracy)},
                            {"ece", NumberOrNull(found.ece)},
                            {"latency_p50_ms", NumberOrNull(figures[i].latency_p50_ms)},
                            {"latency_p95_ms", NumberOrNull(figures[i].latency_p95_ms)},
                            {"num_latencies", figures[i].num_latencies},
                            {"tokens_per_query", NumberOrNull(figures[i].tokens_per_query)},
                            {"note", figures[i].note}});
  }
  for (const WeightedFigures& mean : WeightedByRows(sets, figures)) {
    json["weighted"][mean.task] = {{"num_sets", mean.num_sets},
                                   {"num", mean.num},
                                   {"num_unparsable", mean.num_unparsable},
                                   {"f1", NumberOrNull(mean.f1)},
                                   {"precision", NumberOrNull(mean.precision)},
                                   {"recall", NumberOrNull(mean.recall)},
                                   {"auroc", NumberOrNull(mean.auroc)},
                                   {"auprc", NumberOrNull(mean.auprc)},
                                   {"false_positive_rate", NumberOrNull(mean.false_positive_rate)},
                                   {"ece", NumberOrNull(mean.ece)}};
  }
  return JsonText(json, 2) + "\n";
}

std::string ConfusionLines(absl::Span<const GuardedSet> sets, double threshold) {
  std::string lines;
  for (const GuardedSet& set : sets) {
    std::vector<const GuardedRow*> wrong;
    for (const GuardedRow& row : set.rows) {
      if (!MistakeOf(row, threshold).empty()) wrong.push_back(&row);
    }
    std::stable_sort(wrong.begin(), wrong.end(), [](const GuardedRow* a, const GuardedRow* b) {
      return std::abs(AsJudged(*a) - (a->positive ? 1 : 0)) >
             std::abs(AsJudged(*b) - (b->positive ? 1 : 0));
    });
    for (const GuardedRow* row : wrong) {
      ordered_json line = {
          {"set", set.name},           {"task", set.task},
          {"origin", row->origin},     {"mistake", MistakeOf(*row, threshold)},
          {"positive", row->positive}, {"probability", NumberOrNull(row->probability)},
          {"prompt", row->prompt},     {"response", row->response}};
      if (!row->probability.has_value()) {
        line["status"] = row->failure;
        line["message"] = row->message;
      }
      absl::StrAppend(&lines, JsonText(line), "\n");
    }
  }
  return lines;
}

}  // namespace wideberth::report
