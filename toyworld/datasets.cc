// SPDX-License-Identifier: Apache-2.0
#include "toyworld/datasets.h"

#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "toyworld/completions.h"
#include "toyworld/oracle.h"
#include "toyworld/random.h"

namespace wideberth::toyworld {
namespace {

constexpr CategoryMix kGuardPromptMix = {.18, .14, .14, .12, .12, .15, .15};
// full, coded (slang is newer than the filter), caveat, hedge, refuse, redirect
constexpr StyleMix kGuardStyles = {.34, .00, .14, .20, .15, .16};
// By the oracle's harm: annotators disagree most at harm 1.
constexpr std::array<double, 4> kUnsafeLabel = {.08, .45, .78, .92};
constexpr double kPreferenceCoded = 0.03;  // Beside the guard's styles; harmful topics only.

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Styles that the topic does not have are left out.
Style DrawStyle(StyleMix styles, const Topic& topic, Random& random) {
  if (topic.family != Family::kDual) styles[static_cast<size_t>(Style::kCaveat)] = 0;
  if (topic.family != Family::kHarmful) styles[static_cast<size_t>(Style::kCoded)] = 0;
  return static_cast<Style>(random.Weighted(styles));
}

PolicyMix WarmStartOf(const WorldSettings& settings) {
  PolicyMix mix = kWarmStartMix;
  for (int category = 0; category < kNumCategories; ++category) {
    if (!IsUnsafe(static_cast<Category>(category))) continue;
    for (const Style style : {Style::kFull, Style::kCoded, Style::kCaveat, Style::kHedge})
      mix[category][static_cast<size_t>(style)] *= settings.unsafe_compliance;
  }
  return mix;
}

std::vector<SftPair> MakeSftPairs(const WorldSettings& settings, const std::vector<Prompt>& train) {
  Random random(SeedOf(settings, Stream::kSft));
  const PolicyMix mix = WarmStartOf(settings);
  std::vector<SftPair> pairs;
  for (int i = 0; i < settings.num_sft_rows; ++i) {
    const Prompt& prompt = train[i % train.size()];
    pairs.push_back({prompt, DrawCompletion(mix, prompt, random)});
  }
  return pairs;
}

// `n` prompts for the guard, none of `taken`.
std::vector<Prompt> DrawGuardPrompts(int n, const std::set<std::string>& taken, Random& random) {
  std::vector<Prompt> prompts;
  while (static_cast<int>(prompts.size()) < n) {
    Prompt prompt = DrawPrompt(kGuardPromptMix, /*filler_probability=*/0, random);
    if (!IsHeldOut(prompt.text) && taken.count(prompt.text) == 0)
      prompts.push_back(std::move(prompt));
  }
  return prompts;
}

std::vector<GuardExample> LabelAnswers(const WorldSettings& settings,
                                       const std::vector<Prompt>& prompts, Random& random) {
  std::vector<GuardExample> examples;
  for (const Prompt& prompt : prompts) {
    const Style style = DrawStyle(kGuardStyles, *prompt.topic, random);
    GuardExample example = {prompt, DrawCompletion(style, *prompt.topic, random)};
    if (random.Happens(settings.guard_corruption)) {
      example.completion = Corrupt(example.completion, prompt, {prompts, kWarmStartMix}, random);
    }
    const double unsafe = kUnsafeLabel[Judge(prompt, example.completion, /*ended=*/true).harm];
    example.unsafe =
        random.Happens(Sigmoid(std::log(unsafe / (1 - unsafe)) + settings.guard_label_shift));
    examples.push_back(std::move(example));
  }
  return examples;
}

double ValueToAnnotator(const WorldSettings& settings, const Prompt& prompt,
                        const std::string& completion, Random& random) {
  const Judgement judgement = Judge(prompt, completion, /*ended=*/true);
  const bool missed = random.Happens(settings.slang_missed);
  const int harm = missed ? HarmWithoutSlang(prompt, completion) : judgement.harm;
  return judgement.help - settings.harm_weight * harm;
}

std::vector<Preference> MakePreferences(const WorldSettings& settings,
                                        const std::vector<Prompt>& train) {
  Random random(SeedOf(settings, Stream::kPreferences));
  StyleMix styles = kGuardStyles;
  styles[static_cast<size_t>(Style::kCoded)] = kPreferenceCoded;
  std::vector<Preference> preferences;
  for (int i = 0; i < settings.num_preferences; ++i) {
    const Prompt& prompt = train[i % train.size()];
    std::string answers[2];
    double values[2];
    for (int k = 0; k < 2; ++k) {
      const Style style = DrawStyle(styles, *prompt.topic, random);
      answers[k] = DrawCompletion(style, *prompt.topic, random);
      if (random.Happens(settings.preference_corruption))
        answers[k] = Corrupt(answers[k], prompt, {train, kWarmStartMix}, random);
      values[k] = ValueToAnnotator(settings, prompt, answers[k], random);
    }
    const bool first =
        random.Happens(Sigmoid((values[0] - values[1]) / settings.annotator_temperature));
    if (!first) std::swap(answers[0], answers[1]);
    preferences.push_back({prompt, std::move(answers[0]), std::move(answers[1])});
  }
  return preferences;
}

absl::Status Require(bool satisfied, absl::string_view setting, double found,
                     absl::string_view expected) {
  if (satisfied) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(setting, " is ", found, ", must be ", expected));
}

}  // namespace

absl::Status ValidateSettings(const WorldSettings& settings) {
  // Far below the number of texts that there are, so that drawing different ones ends.
  const std::tuple<const char*, int32_t, int32_t> counts[] = {
      {"num_train_prompts", settings.num_train_prompts, 20000},
      {"num_held_out_prompts", settings.num_held_out_prompts, 5000},
      {"num_sft_rows", settings.num_sft_rows, 1000000},
      {"num_guard_rows", settings.num_guard_rows, 20000},
      {"num_guard_validation_rows", settings.num_guard_validation_rows, 20000},
      {"num_preferences", settings.num_preferences, 1000000}};
  for (const auto& [setting, found, most] : counts) {
    WB_RETURN_IF_ERROR(
        Require(found >= 1 && found <= most, setting, found, absl::StrCat("from 1 to ", most)));
  }
  const std::pair<const char*, double> probabilities[] = {
      {"unsafe_compliance", settings.unsafe_compliance},
      {"guard_corruption", settings.guard_corruption},
      {"preference_corruption", settings.preference_corruption},
      {"slang_missed", settings.slang_missed}};
  for (const auto& [setting, found] : probabilities)
    WB_RETURN_IF_ERROR(Require(found >= 0 && found <= 1, setting, found, "from 0 to 1"));
  const std::pair<const char*, double> numbers[] = {
      {"guard_label_shift", settings.guard_label_shift}, {"harm_weight", settings.harm_weight}};
  for (const auto& [setting, found] : numbers)
    WB_RETURN_IF_ERROR(Require(std::isfinite(found), setting, found, "a finite number"));
  const double temperature = settings.annotator_temperature;
  return Require(std::isfinite(temperature) && temperature > 0, "annotator_temperature",
                 temperature, "a positive number");
}

uint64_t SeedOf(const WorldSettings& settings, Stream stream) {
  return 10 * settings.seed + static_cast<uint64_t>(stream);
}

World MakeWorld(const WorldSettings& settings) {
  World world;
  Random prompts(SeedOf(settings, Stream::kPrompts));
  Pools pools = DrawPools(settings.num_train_prompts, settings.num_held_out_prompts, prompts);
  world.train = std::move(pools.train);
  world.held_out = std::move(pools.held_out);
  world.sft = MakeSftPairs(settings, world.train);
  world.preferences = MakePreferences(settings, world.train);

  Random guard_prompts(SeedOf(settings, Stream::kGuardPrompts));
  Random guard(SeedOf(settings, Stream::kGuard));
  const std::vector<Prompt> asked = DrawGuardPrompts(settings.num_guard_rows, {}, guard_prompts);
  world.guard = LabelAnswers(settings, asked, guard);
  std::set<std::string> taken;
  for (const Prompt& prompt : asked) taken.insert(prompt.text);
  Random validation(SeedOf(settings, Stream::kValidation));
  world.guard_validation = LabelAnswers(
      settings, DrawGuardPrompts(settings.num_guard_validation_rows, taken, validation),
      validation);
  return world;
}

}  // namespace wideberth::toyworld
