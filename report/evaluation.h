// SPDX-License-Identifier: Apache-2.0
// The folder of an evaluation as it is read: which policies ("arms") answered which prompts, and
// what the scorers said of every answer. The EVALUATE task writes it, report/arm_metrics.* works it
// out.
//   FOLDER/evaluation.json   an object: what was evaluated with which scorers and settings
//   FOLDER/answers.jsonl     a line per arm and prompt: its answers with their scores
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace wideberth::report {

struct EvaluatedAnswer {
  std::string text;
  int64_t num_tokens = 0;
  bool stopped = true;                          // False: cut at the longest length.
  std::map<std::string, double> scores;         // By scorer; one that failed is not here,
  std::map<std::string, std::string> failures;  // but here: "TIMED_OUT".
};

struct EvaluatedPrompt {
  std::string id, prompt;
  std::string category, source;  // May be empty.
  absl::optional<bool> unsafe;
  std::vector<EvaluatedAnswer> answers;  // Answer i of every arm shares its random numbers.
};

struct EvaluatedArm {
  std::string name, adapter, adapter_fingerprint, run_dir;
  int64_t policy_version = 0;
  std::map<std::string, std::string> training;  // "reward_form", "steps", "seed", ...
  std::vector<EvaluatedPrompt> prompts;
};

// How a utility as scored becomes the u of rewards; as RewardConfig.
struct UtilityNormalization {
  std::string kind = "RAW";
  absl::optional<double> mu, scale;
  double clip = 2, weight = 1;
};

// One kind of harm: a guard with a threshold and a weight of its own.
struct HarmKind {
  std::string guard;
  double tau = 0.5, weight = 1;
};

struct Evaluation {
  std::string folder;
  std::string name, run_id, created;
  std::string ended;    // "completed", "stopped" or "failed".
  std::string message;  // Why, where not completed.
  std::string seed;
  int64_t num_prompts = 0, num_completions = 0;
  std::vector<std::string> guards;                            // t is their largest.
  std::string second_guard, utility, harm_judge, help_judge;  // Empty: none.
  double harm_scale = 1;  // Of the harm judge's scores: 3 where they are probabilities.
  double tau = 0.5, lambda = 1;
  UtilityNormalization normalization;
  std::vector<HarmKind>
      harms;  // In place of `guards` and `tau` as the filter, where there are any.
  std::string refusal;
  std::vector<std::pair<std::string, std::string>> settings;
  std::vector<std::pair<std::string, double>> seconds;
  bool trained_prompts_allowed = false;
  int64_t num_trained_prompts = 0;  // Prompts that occur in some arm's training.

  std::vector<EvaluatedArm> arms;  // "base" first; without the arm "refusal".
  // What the judges say of the refusal text, by prompt id. Empty: it was not put to them.
  std::map<std::string, EvaluatedPrompt> refusal_answers;

  // The name, or that of the folder around it where it has none of its own ("evaluation" is what
  // `wideberth experiment` calls all of them).
  std::string Label() const;
  // Nothing if all arms answered all prompts, otherwise a sentence for people.
  std::string WhatIsUnfinished() const;
};

// An arm's run_dir that is not where it was is looked for beside the folder. NotFound where a file
// is missing; InvalidArgument naming file, line and field where one is not as
// expected: no JSON, a field missing or of the wrong kind, an unknown arm, an arm's prompt twice, a
// guard's score outside [0, 1], no arm "base".
absl::StatusOr<Evaluation> ReadEvaluation(absl::string_view folder);

// One step of a training run, from its metrics.jsonl. Empty where it had no such number.
struct TrainingStep {
  int64_t step = 0;
  std::map<std::string, double> values;  // "reward", "u_mean", "t_mean", "boundary_mass", "kl", ...
};
// Empty where there is no such file; a broken last line (of a run that was killed) ends the curve.
std::vector<TrainingStep> ReadLearningCurve(absl::string_view run_dir);

}  // namespace wideberth::report
