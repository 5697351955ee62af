// SPDX-License-Identifier: Apache-2.0
// A world's data: sizes, shares, noise, and that no held-out prompt is in it.
#include "toyworld/datasets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "toyworld/oracle.h"

namespace wideberth::toyworld {
namespace {

using ::testing::HasSubstr;

double MeanHarm(const std::vector<SftPair>& pairs, bool unsafe_only) {
  double sum = 0, count = 0;
  for (const SftPair& pair : pairs) {
    if (unsafe_only && !IsUnsafe(pair.prompt.category)) continue;
    sum += Judge(pair.prompt, pair.completion, true).harm;
    ++count;
  }
  return sum / count;
}

TEST(DatasetsTest, NoHeldOutPromptIsInAnyTrainingData) {
  const World world = MakeWorld({});
  std::set<std::string> held_out;
  for (const Prompt& prompt : world.held_out) held_out.insert(prompt.text);
  EXPECT_EQ(held_out.size(), 600u);
  const auto check = [&](const auto& rows, size_t expected) {
    EXPECT_EQ(rows.size(), expected);
    for (const auto& row : rows) EXPECT_EQ(held_out.count(row.prompt.text), 0u) << row.prompt.text;
  };
  for (const Prompt& prompt : world.train) EXPECT_EQ(held_out.count(prompt.text), 0u);
  check(world.sft, 6000);
  check(world.guard, 1200);
  check(world.guard_validation, 300);
  check(world.preferences, 4000);
  std::set<std::string> guard;
  for (const GuardExample& row : world.guard) guard.insert(row.prompt.text);
  for (const GuardExample& row : world.guard_validation)
    EXPECT_EQ(guard.count(row.prompt.text), 0u) << row.prompt.text;
}

// The policy that learnt these answers has mean harm .40 to .50 and help 2.4 to 2.7.
TEST(DatasetsTest, TheWarmStartIsAsHarmfulAndHelpfulAsTheBaseShallBe) {
  const World world = MakeWorld({});
  double help = 0;
  for (const SftPair& pair : world.sft) help += Judge(pair.prompt, pair.completion, true).help;
  EXPECT_GT(MeanHarm(world.sft, false), .40);
  EXPECT_LT(MeanHarm(world.sft, false), .50);
  EXPECT_GT(help / 6000, 2.4);
  EXPECT_LT(help / 6000, 2.7);
}

TEST(DatasetsTest, GuardLabelsHaveTheirNoiseAndNoSlang) {
  WorldSettings settings;
  settings.num_guard_rows = 20000;
  double unsafe[4] = {}, count[4] = {};
  int num_coded = 0;
  for (const GuardExample& row : MakeWorld(settings).guard) {
    EXPECT_LT(SplitWords(row.prompt.text).size(), 26u) << "no filler";
    const int harm = Judge(row.prompt, row.completion, true).harm;
    unsafe[harm] += row.unsafe;
    ++count[harm];
    num_coded += harm != HarmWithoutSlang(row.prompt, row.completion);
  }
  const double expected[] = {.08, .45, .78, .92};
  for (int harm = 0; harm < 4; ++harm) {
    const double deviation = std::sqrt(expected[harm] * (1 - expected[harm]) / count[harm]);
    EXPECT_NEAR(unsafe[harm] / count[harm], expected[harm], 4.5 * deviation) << harm;
  }
  // Only corruption brings slang in: another prompt's answer, or one word over and over.
  EXPECT_LT(num_coded, 20000 * 0.12 * 0.3);
}

TEST(DatasetsTest, AnnotatorsPreferHelpWithoutHarm) {
  const auto agreement = [](double harm_weight) {
    WorldSettings settings;
    settings.harm_weight = harm_weight;
    double harm_avoided = 0, help_gained = 0;
    for (const Preference& row : MakeWorld(settings).preferences) {
      const Judgement chosen = Judge(row.prompt, row.chosen, true);
      const Judgement rejected = Judge(row.prompt, row.rejected, true);
      harm_avoided += rejected.harm - chosen.harm;
      help_gained += chosen.help - rejected.help;
    }
    return std::pair<double, double>(harm_avoided / 4000, help_gained / 4000);
  };
  EXPECT_GT(agreement(1.5).first, .2);
  EXPECT_GT(agreement(1.5).second, .2);
  EXPECT_LT(agreement(0).first, 0) << "help only: harm comes with it";
}

TEST(DatasetsTest, SettingsTurnWhatTheySay) {
  WorldSettings settings;
  settings.unsafe_compliance = 0.02;
  settings.guard_label_shift = 1.5;
  settings.num_guard_rows = 300;
  const World turned = MakeWorld(settings), standard = MakeWorld({});
  EXPECT_LT(MeanHarm(turned.sft, true), 0.1 * MeanHarm(standard.sft, true));
  EXPECT_EQ(turned.guard.size(), 300u);
  const auto unsafe_share = [](const std::vector<GuardExample>& rows) {
    return std::count_if(rows.begin(), rows.end(), [](const auto& row) { return row.unsafe; }) /
           static_cast<double>(rows.size());
  };
  EXPECT_GT(unsafe_share(turned.guard), unsafe_share(standard.guard) + 0.1);
  EXPECT_EQ(turned.train[17].text, standard.train[17].text) << "streams of their own";
}

TEST(DatasetsTest, AWorldIsAFunctionOfItsSeed) {
  WorldSettings settings;
  settings.seed = 3;
  const World once = MakeWorld(settings), again = MakeWorld(settings), other = MakeWorld({});
  for (size_t i = 0; i < once.preferences.size(); ++i) {
    EXPECT_EQ(once.preferences[i].chosen, again.preferences[i].chosen);
    EXPECT_EQ(once.preferences[i].rejected, again.preferences[i].rejected);
  }
  EXPECT_NE(once.train[0].text + once.train[1].text, other.train[0].text + other.train[1].text);
}

TEST(DatasetsTest, RefusesSettingsThatMakeNoWorld) {
  const auto message = [](auto change) {
    WorldSettings settings;
    change(settings);
    return std::string(ValidateSettings(settings).message());
  };
  EXPECT_EQ(message([](WorldSettings&) {}), "");
  EXPECT_EQ(message([](WorldSettings& s) { s.num_guard_rows = 0; }),
            "num_guard_rows is 0, must be from 1 to 20000");
  EXPECT_EQ(message([](WorldSettings& s) { s.slang_missed = 1.5; }),
            "slang_missed is 1.5, must be from 0 to 1");
  EXPECT_EQ(message([](WorldSettings& s) { s.annotator_temperature = 0; }),
            "annotator_temperature is 0, must be a positive number");
  EXPECT_THAT(message([](WorldSettings& s) { s.harm_weight = NAN; }), HasSubstr("finite"));
}

}  // namespace
}  // namespace wideberth::toyworld
