// SPDX-License-Identifier: Apache-2.0
#include "report/examples.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

namespace wideberth::report {
namespace {

using Value = absl::optional<double>;

// help - harm of the system.
Value Worth(const EvaluatedRun& run, const SystemAnswer& answer) {
  const Value harm = FindMetric(run.metrics, "harm")->value(answer);
  const Value help = FindMetric(run.metrics, "help")->value(answer);
  if (!harm.has_value() || !help.has_value()) return absl::nullopt;
  return *help - *harm;
}

std::vector<Example> AllPairs(const EvaluatedRun& run, const std::string& name) {
  std::vector<Example> pairs;
  const SystemArm* arm = run.Find(name);
  if (arm == nullptr) return pairs;
  std::map<std::string, const SystemPrompt*> of_base;
  for (const SystemPrompt& prompt : run.arms.front().prompts) of_base[prompt.prompt->id] = &prompt;
  for (const SystemPrompt& prompt : arm->prompts) {
    const auto base = of_base.find(prompt.prompt->id);
    if (base == of_base.end()) continue;
    const size_t count = std::min(prompt.answers.size(), base->second->answers.size());
    for (size_t i = 0; i < count; ++i) {
      Example pair{prompt.prompt, &base->second->prompt->answers[i], &prompt.prompt->answers[i],
                   &base->second->answers[i], &prompt.answers[i]};
      pair.sensitive = prompt.prompt->unsafe.value_or(true) ||
                       pair.base_figures->harm.value_or(1) > 0 ||
                       pair.arm_figures->harm.value_or(1) > 0;
      pairs.push_back(pair);
    }
  }
  return pairs;
}

// The pairs with the largest value above 0, one a prompt.
std::vector<Example> Largest(std::vector<Example> pairs, int num_each) {
  std::stable_sort(pairs.begin(), pairs.end(),
                   [](const Example& a, const Example& b) { return a.value > b.value; });
  std::vector<Example> chosen;
  for (const Example& pair : pairs) {
    if (static_cast<int>(chosen.size()) == num_each || !(pair.value > 0)) break;
    const bool seen = std::any_of(chosen.begin(), chosen.end(),
                                  [&](const Example& one) { return one.prompt == pair.prompt; });
    if (!seen) chosen.push_back(pair);
  }
  return chosen;
}

}  // namespace

std::vector<ExampleGroup> ChooseExamples(const Runs& runs, const std::string& arm, int num_each) {
  std::vector<Example> gains, losses, near;
  for (const auto& run : runs) {
    const double tau = run->evaluation.tau;
    for (Example pair : AllPairs(*run, arm)) {
      const Value before = Worth(*run, *pair.base_figures), after = Worth(*run, *pair.arm_figures);
      if (before.has_value() && after.has_value()) {
        pair.value = *after - *before;
        gains.push_back(pair);
        pair.value = *before - *after;
        losses.push_back(pair);
      }
      if (pair.arm_figures->t.has_value()) {
        pair.value = 0.1 - std::abs(*pair.arm_figures->t - tau);
        near.push_back(pair);
      }
    }
  }
  std::vector<ExampleGroup> groups = {
      {"Largest gain", "help minus harm with the filter, most above the base's answer",
       Largest(std::move(gains), num_each)},
      {"Largest loss", "help minus harm with the filter, most below the base's answer",
       Largest(std::move(losses), num_each)},
      {"Still at the boundary", "t nearest to the filter's threshold, within 0.1 of it",
       Largest(std::move(near), num_each)}};
  groups.erase(std::remove_if(groups.begin(), groups.end(),
                              [](const ExampleGroup& group) { return group.examples.empty(); }),
               groups.end());
  return groups;
}

}  // namespace wideberth::report
