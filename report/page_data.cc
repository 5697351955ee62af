// SPDX-License-Identifier: Apache-2.0
#include "report/page_data.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "report/json_text.h"

namespace wideberth::report {
namespace {

using nlohmann::ordered_json;

// What a learning curve shows, of metrics.jsonl.
constexpr const char* kCurves[] = {"reward",        "u_mean", "t_mean",
                                   "boundary_mass", "kl",     "completions/mean_length"};

ordered_json IntervalJson(const absl::optional<Interval>& interval) {
  if (!interval.has_value()) return nullptr;
  return {interval->low, interval->high};
}

ordered_json ArmJson(const ArmFigures& arm) {
  const auto value = [&](absl::string_view key) { return NumberOrNull(arm.Find(key)->value); };
  return {{"name", arm.arm},
          {"system",
           {{"harm", value("harm")},
            {"help", value("help")},
            {"harm_interval", IntervalJson(arm.Find("harm")->interval)},
            {"help_interval", IntervalJson(arm.Find("help")->interval)}}},
          {"raw", {{"harm", value("harm_unfiltered")}, {"help", value("help_unfiltered")}}}};
}

ordered_json CurvesJson(const Runs& runs) {
  ordered_json curves = ordered_json::array();
  for (size_t run = 0; run < runs.size(); ++run) {
    for (const SystemArm& arm : runs[run]->arms) {
      if (arm.arm->run_dir.empty()) continue;
      const std::vector<TrainingStep> steps = ReadLearningCurve(arm.arm->run_dir);
      ordered_json values = ordered_json::object();
      for (const char* name : kCurves) {
        ordered_json points = ordered_json::array();
        for (const TrainingStep& step : steps) {
          const auto found = step.values.find(name);
          if (found != step.values.end())
            points.push_back({step.step, NumberOrNull(found->second)});
        }
        if (!points.empty()) values[name] = std::move(points);
      }
      if (!values.empty())
        curves.push_back({{"arm", arm.arm->name}, {"run", run + 1}, {"values", values}});
    }
  }
  return curves;
}

ordered_json SweepJson(const Findings& findings) {
  ordered_json arms = ordered_json::array();
  for (const SweepPoint& point : findings.sweep) {
    if (!point.harm.has_value() || !point.help.has_value()) continue;
    if (arms.empty() || arms.back()["arm"] != point.arm)
      arms.push_back({{"arm", point.arm}, {"points", ordered_json::array()}});
    arms.back()["points"].push_back({{"harm", *point.harm},
                                     {"help", *point.help},
                                     {"tau", point.tau},
                                     {"front", point.on_front}});
  }
  return arms;
}

}  // namespace

std::vector<double> HistogramOver(const Runs& runs, const std::string& arm) {
  std::vector<double> sum(kHistogramBins, 0.0);
  double count = 0;
  for (const auto& run : runs) {
    const SystemArm* found = run->Find(arm);
    if (found == nullptr) continue;
    const std::vector<double> bins = GuardHistogram(found->prompts, kHistogramBins);
    for (int i = 0; i < kHistogramBins; ++i) sum[i] += bins[i];
    ++count;
  }
  for (double& share : sum) share /= std::max(1.0, count);
  return sum;
}

std::vector<CalibrationBin> ReliabilityOver(const Runs& runs, const std::string& arm) {
  std::vector<Judged> judged;
  for (const auto& run : runs) {
    const SystemArm* found = run->Find(arm);
    if (found == nullptr) continue;
    const std::vector<Judged> of_run = GuardJudged(found->prompts, 2);
    judged.insert(judged.end(), of_run.begin(), of_run.end());
  }
  return CalibrationBins(judged, kReliabilityBins);
}

std::string ChartData(const Findings& findings) {
  const std::string headline = HeadlineArm(findings.runs);
  ordered_json json = {{"tau", findings.runs.front()->evaluation.tau},
                       {"headline", headline},
                       {"arms", ordered_json::array()},
                       {"histogram", ordered_json::object()},
                       {"reliability", ordered_json::object()},
                       {"curves", CurvesJson(findings.runs)},
                       {"sweep", SweepJson(findings)}};
  for (const ArmFigures& arm : findings.arms) json["arms"].push_back(ArmJson(arm));
  for (const std::string& arm : {std::string("base"), headline}) {
    if (arm.empty()) continue;
    json["histogram"][arm] = HistogramOver(findings.runs, arm);
    ordered_json& bins = json["reliability"][arm] = ordered_json::array();
    for (const CalibrationBin& bin : ReliabilityOver(findings.runs, arm)) {
      if (bin.num > 0)
        bins.push_back({{"t", bin.probability}, {"harmful", bin.positives}, {"n", bin.num}});
    }
  }
  return JsonText(json);
}

}  // namespace wideberth::report
