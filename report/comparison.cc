// SPDX-License-Identifier: Apache-2.0
#include "report/comparison.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace wideberth::report {
namespace {

using ByPrompt = std::map<std::string, double>;  // Prompt id -> mean over its answers.

ByPrompt MeansByPrompt(const SystemArm& arm, const Metric& metric) {
  ByPrompt means;
  for (const SystemPrompt& prompt : arm.prompts) {
    if (const absl::optional<double> mean = PromptMean(prompt, metric); mean.has_value())
      means[prompt.prompt->id] = *mean;
  }
  return means;
}

// Computes every arm's prompt means once.
class PromptMeans {
 public:
  explicit PromptMeans(const Runs& runs) : runs_(runs) {}
  // Null where the run has no such arm.
  const ByPrompt* Of(size_t run, const std::string& arm, const std::string& metric) {
    const SystemArm* found = runs_[run]->Find(arm);
    const Metric* how = FindMetric(runs_[run]->metrics, metric);
    if (found == nullptr || how == nullptr) return nullptr;
    const auto key = std::make_tuple(run, arm, metric);
    auto place = means_.find(key);
    if (place == means_.end()) place = means_.emplace(key, MeansByPrompt(*found, *how)).first;
    return &place->second;
  }
  // arm - against, by run. `keep`: only these prompts of the run (null: all).
  Strata Differences(const std::string& arm, const std::string& against, const std::string& metric,
                     const std::vector<std::set<std::string>>* keep = nullptr) {
    Strata strata;
    for (size_t run = 0; run < runs_.size(); ++run) {
      const ByPrompt* left = Of(run, arm, metric);
      const ByPrompt* right = Of(run, against, metric);
      std::vector<double>& differences = strata.emplace_back();
      if (left == nullptr || right == nullptr) continue;
      for (const auto& [id, mean] : *left) {
        const auto other = right->find(id);
        if (other == right->end() || (keep != nullptr && (*keep)[run].count(id) == 0)) continue;
        differences.push_back(mean - other->second);
      }
    }
    return strata;
  }

 private:
  const Runs& runs_;
  std::map<std::tuple<size_t, std::string, std::string>, ByPrompt> means_;
};

absl::optional<ArmDifference> Compare(PromptMeans* means, const std::string& arm,
                                      const std::string& against, const std::string& metric,
                                      const std::vector<std::set<std::string>>* keep = nullptr) {
  const Strata strata = means->Differences(arm, against, metric, keep);
  const absl::optional<PairedTest> test = TestPaired(strata, kStatisticsSeed);
  if (!test.has_value()) return absl::nullopt;
  ArmDifference difference{arm, against, metric, *test};
  for (const std::vector<double>& run : strata) {
    if (run.empty()) continue;
    double sum = 0;
    for (double d : run) sum += d;
    difference.run_means.push_back(sum / static_cast<double>(run.size()));
  }
  return difference;
}

void CorrectByHolm(const std::vector<ArmDifference*>& family) {
  std::vector<double> p_values;
  for (const ArmDifference* difference : family) p_values.push_back(difference->test.p);
  const std::vector<double> adjusted = HolmAdjusted(p_values);
  for (size_t i = 0; i < family.size(); ++i) family[i]->p_holm = adjusted[i];
}

const EvaluatedArm* ArmOf(const Runs& runs, absl::string_view name) {
  for (const auto& run : runs) {
    if (const SystemArm* arm = run->Find(name); arm != nullptr) return arm->arm;
  }
  return nullptr;
}

// Settings in which two trainings differ beside the reward's form; what only one names does not
// count, nor what says where a run lies.
std::vector<std::string> DifferingSettings(const EvaluatedArm& left, const EvaluatedArm& right) {
  std::vector<std::string> differing;
  for (const auto& [key, value] : left.training) {
    const bool says_where = key == "run" || absl::StrContains(key, "form") ||
                            absl::EndsWith(key, "dir") || absl::StrContains(key, "path") ||
                            absl::StrContains(key, "name") || absl::StrContains(key, "run_id") ||
                            absl::StrContains(key, "seconds") ||
                            absl::StrContains(key, "fingerprint");
    const auto other = right.training.find(key);
    if (!says_where && other != right.training.end() && other->second != value)
      differing.push_back(key);
  }
  return differing;
}

// The arms that lack the boundary term and are most alike otherwise, one or more a form.
std::vector<std::string> ControlsOf(const Runs& runs, const std::string& boundary) {
  const EvaluatedArm& arm = *ArmOf(runs, boundary);
  std::vector<std::string> controls;
  for (const char* form : {"U_ONLY", "U_MINUS_T", "COMPOUND"}) {
    size_t fewest = SIZE_MAX;
    std::vector<std::string> nearest;
    for (const std::string& name : ArmNames(runs)) {
      const EvaluatedArm& other = *ArmOf(runs, name);
      if (name == "base" || RewardFormOf(other) != form) continue;
      const size_t differing = DifferingSettings(arm, other).size();
      if (differing < fewest) nearest.clear();
      if (differing <= fewest) nearest.push_back(name);
      fewest = std::min(fewest, differing);
    }
    controls.insert(controls.end(), nearest.begin(), nearest.end());
  }
  return controls;
}

std::vector<std::string> BoundaryArms(const Runs& runs) {
  std::vector<std::string> arms;
  for (const std::string& name : ArmNames(runs)) {
    if (name != "base" && RewardFormOf(*ArmOf(runs, name)) == "BOUNDARY") arms.push_back(name);
  }
  return arms;
}

// The compared metrics of all runs, without those that repeat another's values.
std::vector<std::string> ComparedMetrics(const Runs& runs, PromptMeans* means) {
  std::vector<std::string> keys;
  for (const Metric& metric : runs.front()->metrics) {
    if (!metric.compared) continue;
    const std::string suffix = "_refusal_judged";
    bool repeats = false;
    if (absl::EndsWith(metric.key, suffix)) {
      const std::string plain = metric.key.substr(0, metric.key.size() - suffix.size());
      repeats = true;
      for (size_t run = 0; run < runs.size(); ++run) {
        for (const SystemArm& arm : runs[run]->arms) {
          const ByPrompt* judged = means->Of(run, arm.arm->name, metric.key);  // Null: not asked.
          repeats =
              repeats && (judged == nullptr || *judged == *means->Of(run, arm.arm->name, plain));
        }
      }
    }
    if (!repeats) keys.push_back(metric.key);
  }
  return keys;
}

}  // namespace

EvaluatedRun::EvaluatedRun(Evaluation read)
    : evaluation(std::move(read)), arms(BuildArms(evaluation)), metrics(Metrics(evaluation)) {}

const SystemArm* EvaluatedRun::Find(absl::string_view arm) const {
  const auto found = std::find_if(arms.begin(), arms.end(),
                                  [&](const SystemArm& one) { return one.arm->name == arm; });
  return found == arms.end() ? nullptr : &*found;
}

std::string RewardFormOf(const EvaluatedArm& arm) {
  static const auto& forms = *new std::vector<std::string>{
      "BOUNDARY", "ABSOLUTE", "SQUARED",   "GUARD_ONLY",  "PROMPT_AWARE",
      "COMPOUND", "U_ONLY",   "U_MINUS_T", "WEIGHTED_SUM"};
  for (const char* key : {"reward_form", "reward.form"}) {
    const auto found = arm.training.find(key);
    if (found != arm.training.end()) return absl::AsciiStrToUpper(found->second);
  }
  const std::string name = absl::AsciiStrToUpper(arm.name);
  for (const std::string& form : forms) {
    if (absl::StartsWith(name, form)) return form;
  }
  return "";
}

std::vector<std::string> ArmNames(const Runs& runs) {
  std::vector<std::string> names;
  for (const auto& run : runs) {
    for (const SystemArm& arm : run->arms) {
      if (std::find(names.begin(), names.end(), arm.arm->name) == names.end())
        names.push_back(arm.arm->name);
    }
  }
  return names;
}

std::vector<std::string> HeadlineArms(const Runs& runs) {
  std::vector<std::string> arms = BoundaryArms(runs);
  if (const std::vector<std::string> names = ArmNames(runs); arms.empty() && names.size() > 1)
    arms.push_back(names[1]);
  return arms;
}

std::string HeadlineArm(const Runs& runs) {
  const std::vector<std::string> arms = HeadlineArms(runs);
  return arms.empty() ? "" : arms.front();
}

std::vector<ArmDifference> CompareArms(const Runs& runs) {
  PromptMeans means(runs);
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const std::string& name : ArmNames(runs)) {
    if (name != "base") pairs.emplace_back(name, "base");
  }
  for (const std::string& boundary : BoundaryArms(runs)) {
    for (const std::string& control : ControlsOf(runs, boundary))
      pairs.emplace_back(boundary, control);
  }
  std::vector<ArmDifference> differences;
  const std::vector<std::string> metrics = ComparedMetrics(runs, &means);
  for (const auto& [arm, against] : pairs) {
    for (const std::string& metric : metrics) {
      if (auto difference = Compare(&means, arm, against, metric); difference.has_value())
        differences.push_back(*std::move(difference));
    }
  }
  std::vector<ArmDifference*> judged, others;
  for (ArmDifference& difference : differences) {
    const bool is_judged = difference.metric == "harm" || difference.metric == "help";
    (is_judged ? judged : others).push_back(&difference);
  }
  CorrectByHolm(judged);
  CorrectByHolm(others);
  return differences;
}

const ArmDifference* FindDifference(const std::vector<ArmDifference>& differences,
                                    absl::string_view arm, absl::string_view against,
                                    absl::string_view metric) {
  for (const ArmDifference& difference : differences) {
    if (difference.arm == arm && difference.against == against && difference.metric == metric)
      return &difference;
  }
  return nullptr;
}

namespace {

const std::string& SliceName(const EvaluatedPrompt& prompt, absl::string_view kind) {
  return kind == "category" ? prompt.category : prompt.source;
}

// The prompts of the slice, of all runs.
std::vector<SystemPrompt> PromptsOf(const Runs& runs, const std::string& arm, const Slice& slice) {
  std::vector<SystemPrompt> prompts;
  for (const auto& run : runs) {
    const SystemArm* found = run->Find(arm);
    if (found == nullptr) continue;
    for (const SystemPrompt& prompt : found->prompts) {
      if (SliceName(*prompt.prompt, slice.kind) == slice.name) prompts.push_back(prompt);
    }
  }
  return prompts;
}

void FillRows(const Runs& runs, PromptMeans* means, Slice* slice) {
  std::vector<std::set<std::string>> ids(runs.size());
  for (size_t run = 0; run < runs.size(); ++run) {
    for (const SystemPrompt& prompt : runs[run]->arms.front().prompts) {
      if (SliceName(*prompt.prompt, slice->kind) == slice->name) ids[run].insert(prompt.prompt->id);
    }
    slice->num_prompts += static_cast<int64_t>(ids[run].size());
  }
  for (const std::string& arm : ArmNames(runs)) {
    const std::vector<SystemPrompt> prompts = PromptsOf(runs, arm, *slice);
    Slice::Row row;
    row.arm = arm;
    const auto mean = [&](absl::string_view key) {
      return MeanOf(prompts, *FindMetric(runs.front()->metrics, key));
    };
    row.harm = mean("harm");
    row.help = mean("help");
    row.harm_unfiltered = mean("harm_unfiltered");
    row.help_unfiltered = mean("help_unfiltered");
    row.shown = mean("shown");
    row.boundary_mass = mean("boundary_mass");
    if (arm != "base" && slice->num_prompts >= kFewestPrompts) {
      row.harm_change = Compare(means, arm, "base", "harm", &ids);
      row.help_change = Compare(means, arm, "base", "help", &ids);
    }
    slice->rows.push_back(std::move(row));
  }
}

}  // namespace

std::vector<Slice> CompareSlices(const Runs& runs) {
  PromptMeans means(runs);
  std::vector<Slice> slices;
  for (const char* kind : {"category", "source"}) {
    std::vector<std::string> names;
    for (const auto& run : runs) {
      for (const SystemPrompt& prompt : run->arms.front().prompts) {
        const std::string& name = SliceName(*prompt.prompt, kind);
        // Wordings of one request have a table of their own.
        if (absl::StartsWith(name, kWordingSource)) continue;
        if (!name.empty() && std::find(names.begin(), names.end(), name) == names.end())
          names.push_back(name);
      }
    }
    const size_t first = slices.size();
    for (const std::string& name : names) {
      slices.push_back({kind, name});
      FillRows(runs, &means, &slices.back());
    }
    std::vector<ArmDifference*> family;
    for (size_t i = first; i < slices.size(); ++i) {
      for (Slice::Row& row : slices[i].rows) {
        if (row.harm_change.has_value()) family.push_back(&*row.harm_change);
        if (row.help_change.has_value()) family.push_back(&*row.help_change);
      }
    }
    CorrectByHolm(family);
  }
  return slices;
}

std::vector<Attribution> Attribute(const Runs& runs,
                                   const std::vector<ArmDifference>& differences) {
  PromptMeans means(runs);
  std::vector<Attribution> attributions;
  for (const std::string& arm : BoundaryArms(runs)) {
    for (const std::string& control : ControlsOf(runs, arm)) {
      for (const char* metric : {"harm", "help"}) {
        Attribution found{arm, control, metric};
        found.gain = FindDifference(differences, arm, "base", metric);
        found.control_gain = FindDifference(differences, control, "base", metric);
        found.own = FindDifference(differences, arm, control, metric);
        if (found.gain == nullptr || found.own == nullptr || found.control_gain == nullptr)
          continue;
        found.higher_is_better = std::string(metric) == "help";
        found.differing = DifferingSettings(*ArmOf(runs, arm), *ArmOf(runs, control));
        if (found.gain->Significant()) {
          std::vector<std::vector<std::pair<double, double>>> units(runs.size());
          for (size_t run = 0; run < runs.size(); ++run) {
            const ByPrompt* of_arm = means.Of(run, arm, metric);
            const ByPrompt* of_control = means.Of(run, control, metric);
            const ByPrompt* of_base = means.Of(run, "base", metric);
            if (of_arm == nullptr || of_control == nullptr) continue;
            for (const auto& [id, mean] : *of_arm) {
              const auto other = of_control->find(id), base = of_base->find(id);
              if (other != of_control->end() && base != of_base->end())
                units[run].emplace_back(mean - other->second, mean - base->second);
            }
          }
          found.share = found.own->test.mean / found.gain->test.mean;
          found.interval = BootstrapRatio(units, kStatisticsSeed);
        }
        attributions.push_back(std::move(found));
      }
    }
  }
  return attributions;
}

}  // namespace wideberth::report
