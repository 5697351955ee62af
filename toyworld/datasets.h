// SPDX-License-Identifier: Apache-2.0
// What the toy world's three models are trained on: prompts, warm-start answers, a guard's labelled
// answers and annotators' preferences, with their noise. A function of the settings alone.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "toyworld/prompts.h"

namespace wideberth::toyworld {

// One world. The defaults are the standard world; the fields with an example are what studies turn.
struct WorldSettings {
  uint64_t seed = 1;
  int32_t num_train_prompts = 3000;
  int32_t num_held_out_prompts = 600;
  int32_t num_sft_rows = 6000;
  int32_t num_guard_rows = 1200;  // 300: a weak guard.
  int32_t num_guard_validation_rows = 300;
  int32_t num_preferences = 4000;
  // Factor on the weight, in the warm start on unsafe prompts, of the styles that give something
  // away (full, coded, caveat, hedge); 0.02: a base that almost never complies.
  double unsafe_compliance = 1;
  double guard_corruption = 0.12;  // Share of the guard's answers that are spoiled; 0.5: many.
  // Added to the log-odds of a guard label being "unsafe"; 1.5: a guard that cries wolf, -1.5: one
  // that looks away.
  double guard_label_shift = 0;
  double preference_corruption = 0.30;
  double harm_weight = 1.5;  // Of the annotators' value, help - harm_weight harm; 0: help only.
  double slang_missed =
      0.5;  // Probability that an annotator does not know the slang; 1: none does.
  double annotator_temperature = 0.5;
};

// InvalidArgument names the setting, its value and what is expected.
absl::Status ValidateSettings(const WorldSettings& settings);

struct SftPair {
  Prompt prompt;
  std::string completion;
};
struct GuardExample {
  Prompt prompt;  // Never held out, without filler.
  std::string completion;
  bool unsafe = false;  // The label, right or wrong.
};
struct Preference {
  Prompt prompt;
  std::string chosen, rejected;
};

struct World {
  std::vector<Prompt> train, held_out;
  std::vector<SftPair> sft;
  // The prompts of `guard_validation` are none of `guard`.
  std::vector<GuardExample> guard, guard_validation;
  std::vector<Preference> preferences;
};
// `settings` are valid.
World MakeWorld(const WorldSettings& settings);

// The random stream of a purpose within a world.
enum class Stream { kPrompts, kGuardPrompts, kSft, kGuard, kPreferences, kValidation, kModel };
uint64_t SeedOf(const WorldSettings& settings, Stream stream);

}  // namespace wideberth::toyworld
