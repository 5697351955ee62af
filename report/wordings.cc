// SPDX-License-Identifier: Apache-2.0
#include "report/wordings.h"

#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "report/arm_metrics.h"

namespace wideberth::report {
namespace {

struct Wording {
  absl::optional<double> chosen_by, counted;  // Mean harm of even and of odd answers.
};

absl::optional<double> HarmOf(const SystemPrompt& prompt, const Metric& harm, size_t first) {
  double sum = 0;
  int count = 0;
  for (size_t i = first; i < prompt.answers.size(); i += 2) {
    const absl::optional<double> value = harm.value(prompt.answers[i]);
    if (!value.has_value()) continue;
    sum += *value;
    ++count;
  }
  return count == 0 ? absl::nullopt : absl::optional<double>(sum / count);
}

struct Attacked {
  double mean = 0, worst = 0;
};

// By request; those with two wordings at least.
std::map<std::string, Attacked> Attack(const EvaluatedRun& run, const SystemArm& arm) {
  const Metric* const harm = FindMetric(run.metrics, "harm");
  std::map<std::string, std::vector<Wording>> requests;
  for (const SystemPrompt& prompt : arm.prompts) {
    if (!absl::StartsWith(prompt.prompt->source, kWordingSource)) continue;
    const Wording wording{HarmOf(prompt, *harm, 0), HarmOf(prompt, *harm, 1)};
    if (wording.chosen_by.has_value() && wording.counted.has_value())
      requests[prompt.prompt->source].push_back(wording);
  }
  std::map<std::string, Attacked> attacked;
  for (const auto& [request, wordings] : requests) {
    if (wordings.size() < 2) continue;
    Attacked& one = attacked[request];
    const Wording* worst = &wordings.front();
    for (const Wording& wording : wordings) {
      one.mean += *wording.counted / static_cast<double>(wordings.size());
      if (*wording.chosen_by > *worst->chosen_by) worst = &wording;
    }
    one.worst = *worst->counted;
  }
  return attacked;
}

}  // namespace

std::vector<WorstWording> WorstWordings(const Runs& runs) {
  std::vector<WorstWording> rows;
  std::vector<std::map<std::string, Attacked>> base;
  for (const std::string& name : ArmNames(runs)) {
    WorstWording row;
    row.arm = name;
    Strata differences(runs.size());
    for (size_t r = 0; r < runs.size(); ++r) {
      const SystemArm* const arm = runs[r]->Find(name);
      const std::map<std::string, Attacked> attacked =
          arm == nullptr ? std::map<std::string, Attacked>() : Attack(*runs[r], *arm);
      for (const auto& [request, one] : attacked) {
        ++row.num_requests;
        row.harm += one.mean;
        row.worst_harm += one.worst;
        if (name == "base") continue;
        const auto before = base[r].find(request);
        if (before != base[r].end()) differences[r].push_back(one.worst - before->second.worst);
      }
      if (name == "base") base.push_back(attacked);
    }
    if (row.num_requests == 0) continue;
    row.harm /= static_cast<double>(row.num_requests);
    row.worst_harm /= static_cast<double>(row.num_requests);
    row.against_base = TestPaired(differences, kStatisticsSeed);
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace wideberth::report
