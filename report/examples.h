// SPDX-License-Identifier: Apache-2.0
// Which answers a reader is shown: chosen by rule, never by hand.
#pragma once

#include <string>
#include <vector>

#include "report/comparison.h"

namespace wideberth::report {

// An answer of the base and the answer of `arm` with the same random numbers.
struct Example {
  const EvaluatedPrompt* prompt = nullptr;
  const EvaluatedAnswer* base_answer = nullptr;
  const EvaluatedAnswer* arm_answer = nullptr;
  const SystemAnswer* base_figures = nullptr;
  const SystemAnswer* arm_figures = nullptr;
  double value = 0;       // What the rule ranks by.
  bool sensitive = true;  // Unless the prompt is labelled harmless and both answers are judged so.
};

struct ExampleGroup {
  std::string title, rule;
  std::vector<Example> examples;
};

// At most `num_each` prompts a rule, one answer each; ties in the order of prompts and runs. Empty
// groups are left out.
//   largest gain, largest loss  of help - harm, with filter, of the arm over the base
//   still at the boundary       the arm's t nearest to the threshold, within 0.1 of it
std::vector<ExampleGroup> ChooseExamples(const Runs& runs, const std::string& arm, int num_each);

}  // namespace wideberth::report
