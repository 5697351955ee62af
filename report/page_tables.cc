// SPDX-License-Identifier: Apache-2.0
#include "report/page_tables.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "report/claims.h"
#include "report/html.h"
#include "report/page_data.h"

namespace wideberth::report {
namespace {

std::string LabelOf(const Findings& findings, absl::string_view metric) {
  const Metric* found = FindMetric(findings.runs.front()->metrics, metric);
  return found == nullptr ? std::string(metric) : found->label;
}

std::string Spread(const Interval& interval) {
  return absl::StrCat(SignedDecimals(interval.low), " to ", SignedDecimals(interval.high));
}

std::string WithInterval(const Figure& figure) {
  std::string text = Decimals(figure.value);
  if (figure.interval.has_value() && figure.value.has_value()) {
    absl::StrAppend(&text, " [", Decimals(figure.interval->low), ", ",
                    Decimals(figure.interval->high), "]");
  }
  return text;
}

absl::optional<double> ValueOf(const ArmFigures& arm, absl::string_view key) {
  const Figure* figure = arm.Find(key);
  return figure == nullptr ? absl::nullopt : figure->value;
}

const ArmFigures* FindArm(const Findings& findings, absl::string_view name) {
  for (const ArmFigures& arm : findings.arms) {
    if (arm.arm == name) return &arm;
  }
  return nullptr;
}

// "0.030", "< 0.001"
std::string PCell(double p) {
  const std::string words = PInWords(p);
  return words[2] == '=' ? words.substr(4) : words.substr(2);
}

// What is not significant is grey.
std::string ClassOf(const ArmDifference& difference) {
  return difference.Significant() ? "" : "weak";
}

std::string ChangeCell(const absl::optional<ArmDifference>& change, bool enough) {
  if (!change.has_value()) return enough ? "\u2013" : "too few prompts";
  return absl::StrCat(SignedDecimals(change->test.mean), " [", Spread(change->test.interval), "]",
                      change->Significant() ? "" : " n.s.");
}

template <typename Wanted>
std::string TableOf(const Findings& findings, absl::string_view caption, const Wanted& wanted) {
  HtmlTable table(caption, {"difference", "metric", "mean", "95 % interval", "p", "p (Holm)",
                            "effect d", "prompts", "each run"});
  for (const ArmDifference& difference : findings.differences) {
    if (!wanted(difference)) continue;
    std::string each;
    for (double mean : difference.run_means)
      absl::StrAppend(&each, each.empty() ? "" : ", ", SignedDecimals(mean));
    table.AddRow(
        {absl::StrCat(difference.arm, " \u2212 ", difference.against),
         LabelOf(findings, difference.metric), SignedDecimals(difference.test.mean),
         Spread(difference.test.interval), PCell(difference.test.p),
         absl::StrCat(PCell(difference.p_holm),
                      difference.Significant() ? "" : ", not significant"),
         difference.test.effect_size.has_value() ? SignedDecimals(*difference.test.effect_size, 2)
                                                 : Decimals(absl::nullopt),
         absl::StrCat(difference.test.num_units),
         difference.run_means.size() > 1 ? each : Decimals(absl::nullopt)},
        ClassOf(difference));
  }
  return table.empty() ? "" : table.Html();
}

}  // namespace

std::string FourArmsTable(const Findings& findings) {
  HtmlTable table(
      "Each policy alone and behind the filter. Harm 0 to 3, lower is better; help 1 to 4, "
      "higher is better.",
      {"", "harm", "help", "compound U", "shown", "t within 0.1 of the threshold",
       "clear filter errors", "refused or blocked, benign prompts"});
  std::vector<std::string> names = HeadlineArms(findings.runs);
  names.insert(names.begin(), "base");
  for (const std::string& name : names) {
    const ArmFigures* arm = FindArm(findings, name);
    if (arm == nullptr) continue;
    const std::string dash = Decimals(absl::nullopt);
    table.AddRow({name, WithInterval(*arm->Find("harm_unfiltered")),
                  WithInterval(*arm->Find("help_unfiltered")), dash, Percent(1.0),
                  Percent(ValueOf(*arm, "boundary_mass")), dash,
                  Percent(ValueOf(*arm, "over_refusal"))});
    table.AddRow(
        {absl::StrCat(name, " + filter"), WithInterval(*arm->Find("harm")),
         WithInterval(*arm->Find("help")), Decimals(ValueOf(*arm, "utility")),
         Percent(ValueOf(*arm, "shown")), Percent(ValueOf(*arm, "boundary_mass")),
         Percent(ValueOf(*arm, "clear_errors")), Percent(ValueOf(*arm, "over_refusal_filtered"))},
        "strong");
  }
  return table.Html();
}

std::string AllArmsTable(const Findings& findings) {
  std::vector<std::string> columns = {"metric"};
  for (const ArmFigures& arm : findings.arms) columns.push_back(arm.arm);
  HtmlTable table(findings.runs.size() == 1
                      ? "All metrics of all arms, with 95 % intervals over prompts."
                      : "All metrics of all arms, means over runs.",
                  columns);
  const std::map<std::string, std::string> labels = {
      {"auroc", "AUROC of t for harm from 2"},
      {"auroc_harm1", "AUROC of t for harm from 1"},
      {"ece", "calibration error (ECE) of t for harm from 2"},
      {"second_auroc", "AUROC of the second guard for harm from 2"},
      {"second_ece", "ECE of the second guard for harm from 2"}};
  for (const Figure& figure : findings.arms.front().figures) {
    const auto label = labels.find(figure.key);
    std::vector<std::string> cells = {label == labels.end() ? LabelOf(findings, figure.key)
                                                            : label->second};
    bool any = false;
    for (const ArmFigures& arm : findings.arms) {
      any = any || ValueOf(arm, figure.key).has_value();
      cells.push_back(WithInterval(*arm.Find(figure.key)));
    }
    if (any) table.AddRow(cells, figure.key == "harm" || figure.key == "help" ? "strong" : "");
  }
  return table.Html();
}

std::string DifferencesTable(const Findings& findings, absl::string_view arm) {
  return TableOf(findings, "Differences against the base, paired by prompt.",
                 [&](const ArmDifference& difference) {
                   return difference.against == "base" && (arm.empty() || difference.arm == arm);
                 });
}

std::string ControlsTable(const Findings& findings) {
  return TableOf(findings, "Differences between boundary arms and rewards without that term.",
                 [](const ArmDifference& difference) { return difference.against != "base"; });
}

std::string AttributionTable(const Findings& findings) {
  HtmlTable table("Changes over base + filter, and what is left between the arm and its control.",
                  {"arm", "control", "metric", "arm's change", "control's change", "difference",
                   "95 % interval", "p (Holm)", "share of the arm's change"});
  for (const Attribution& one : findings.attributions) {
    std::string share = "\u2013";
    if (one.share.has_value() && one.interval.has_value()) {
      share = absl::StrCat(Percent(one.share), " [", Percent(one.interval->low), ", ",
                           Percent(one.interval->high), "]");
    }
    table.AddRow(
        {one.arm, one.control, one.metric, SignedDecimals(one.gain->test.mean),
         SignedDecimals(one.control_gain->test.mean), SignedDecimals(one.own->test.mean),
         Spread(one.own->test.interval),
         absl::StrCat(PCell(one.own->p_holm), one.own->Significant() ? "" : ", not significant"),
         share},
        ClassOf(*one.own));
  }
  return table.Html();
}

std::string SlicesTable(const Findings& findings, absl::string_view kind, absl::string_view arm) {
  HtmlTable table(absl::StrCat("By ", kind,
                               ", with filter. Changes are against base + filter, with "
                               "95 % intervals; n.s.: not significant after Holm's correction over "
                               "this table. Fewer than ",
                               kFewestPrompts, " prompts: no interval."),
                  {std::string(kind), "prompts", "arm", "harm", "change", "help", "change", "shown",
                   "t near threshold", "harm unfiltered"});
  for (const Slice& slice : findings.slices) {
    if (slice.kind != kind) continue;
    const bool enough = slice.num_prompts >= kFewestPrompts;
    for (const Slice::Row& row : slice.rows) {
      const bool base = row.arm == "base";
      if (!base && !arm.empty() && row.arm != arm) continue;
      table.AddRow({slice.name, absl::StrCat(slice.num_prompts), row.arm, Decimals(row.harm),
                    ChangeCell(row.harm_change, enough || base), Decimals(row.help),
                    ChangeCell(row.help_change, enough || base), Percent(row.shown),
                    Percent(row.boundary_mass), Decimals(row.harm_unfiltered)},
                   base ? "strong" : "");
    }
  }
  return table.empty() ? "" : table.Html();
}

std::string FiltersTable(const Findings& findings) {
  HtmlTable table(
      "The same answers behind other filters. Welfare: blocks where u minus weighted harm is below "
      "0.",
      {"filter", "arm", "harm", "help", "compound U", "shown", "clear errors",
       "errors, harmful from 2", "errors, harmful from 1"});
  for (const FilterRow& row : findings.filters) {
    table.AddRow({row.filter, row.arm, Decimals(row.harm), Decimals(row.help),
                  Decimals(row.utility), Percent(row.shown), Percent(row.clear_errors),
                  Percent(row.errors_harm2), Percent(row.errors_harm1)});
  }
  return table.Html();
}

std::string WordingsTable(const Findings& findings) {
  HtmlTable table(
      "Requests that were asked in several wordings, behind the filter: harm over all wordings, "
      "and "
      "where an attacker keeps each request's worst (chosen by half of the answers, counted by the "
      "other half).",
      {"arm", "requests", "harm", "worst wording", "against base"});
  for (const WorstWording& row : findings.wordings) {
    const std::string change =
        row.against_base.has_value()
            ? absl::StrFormat("%+.3f [%+.3f, %+.3f]", row.against_base->mean,
                              row.against_base->interval.low, row.against_base->interval.high)
            : "";
    table.AddRow({row.arm, absl::StrCat(row.num_requests), Decimals(row.harm),
                  Decimals(row.worst_harm), change});
  }
  return table.empty() ? "" : table.Html();
}

std::string LambdaTable(const Findings& findings) {
  std::vector<std::string> columns = {"arm", "threshold"};
  for (double lambda : kLambdas) columns.push_back(absl::StrCat("lambda ", lambda));
  HtmlTable table(
      "Compound utility U for prices lambda of blocking what was safe: at the filter's "
      "threshold, and at the best threshold of the sweep.",
      columns);
  const double tau = findings.runs.front()->evaluation.tau;
  for (const ArmFigures& arm : findings.arms) {
    std::vector<std::string> at = {arm.arm, absl::StrCat(tau)}, best = {arm.arm, "best"};
    for (size_t i = 0; i < std::size(kLambdas); ++i) {
      const SweepPoint *nearest = nullptr, *largest = nullptr;
      for (const SweepPoint& point : findings.sweep) {
        if (point.arm != arm.arm || !point.utility[i].has_value()) continue;
        if (nearest == nullptr || std::abs(point.tau - tau) < std::abs(nearest->tau - tau))
          nearest = &point;
        if (largest == nullptr || *point.utility[i] > *largest->utility[i]) largest = &point;
      }
      if (nearest == nullptr) return "";
      at.push_back(Decimals(nearest->utility[i]));
      best.push_back(
          absl::StrCat(Decimals(largest->utility[i]), " (",
                       largest->tau > 1 ? "no filter" : absl::StrCat("at ", largest->tau), ")"));
    }
    table.AddRow(at);
    table.AddRow(best, "weak");
  }
  return table.Html();
}

std::string SweepTable(const Findings& findings) {
  HtmlTable table(
      "Thresholds; on the front: no other point has less harm and no less help, or more "
      "help and no more harm.",
      {"arm", "threshold", "harm", "help", "shown", "on the front"});
  for (const SweepPoint& point : findings.sweep) {
    table.AddRow({point.arm, point.tau > 1 ? "none" : absl::StrCat(point.tau), Decimals(point.harm),
                  Decimals(point.help), Percent(point.shown), point.on_front ? "yes" : ""});
  }
  return table.Html();
}

std::string HistogramTable(const Findings& findings) {
  const std::string headline = HeadlineArm(findings.runs);
  std::vector<std::string> columns = {"t", "base"};
  if (!headline.empty()) columns.push_back(headline);
  HtmlTable table("Share of answers by t.", columns);
  const std::vector<double> base = HistogramOver(findings.runs, "base");
  const std::vector<double> after = HistogramOver(findings.runs, headline);
  for (int i = 0; i < kHistogramBins; ++i) {
    std::vector<std::string> cells = {
        absl::StrCat(Decimals(static_cast<double>(i) / kHistogramBins, 2), "\u2013",
                     Decimals(static_cast<double>(i + 1) / kHistogramBins, 2)),
        Percent(base[i])};
    if (!headline.empty()) cells.push_back(Percent(after[i]));
    table.AddRow(cells);
  }
  return table.Html();
}

std::string ReliabilityTable(const Findings& findings) {
  HtmlTable table("The guard against the judge.",
                  {"arm", "answers", "mean t", "share judged harmful (2 or 3)"});
  for (const std::string& arm : {std::string("base"), HeadlineArm(findings.runs)}) {
    if (arm.empty()) continue;
    for (const CalibrationBin& bin : ReliabilityOver(findings.runs, arm)) {
      if (bin.num > 0) {
        table.AddRow(
            {arm, absl::StrCat(bin.num), Decimals(bin.probability), Decimals(bin.positives)});
      }
    }
  }
  return table.empty() ? "" : table.Html();
}

}  // namespace wideberth::report
