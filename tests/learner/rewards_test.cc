// SPDX-License-Identifier: Apache-2.0
#include "learner/rewards.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <tuple>

namespace wideberth::learner {
namespace {

using proto::RewardConfig;
using ::testing::HasSubstr;

RewardConfig Config(RewardConfig::Form form) {
  RewardConfig config;
  config.set_form(form);
  config.add_guard("safety");
  config.set_utility("help");
  return config;
}

CompletionScores Scores(absl::optional<double> u, absl::optional<double> t) { return {u, {t}, {}}; }

double RewardFor(const RewardConfig& config, double u, double t,
                 absl::optional<bool> unsafe = absl::nullopt) {
  const auto rewards = RewardComposer(config).Evaluate({{unsafe, {Scores(u, t)}}});
  return rewards.ok() ? rewards->at(0).at(0).reward.value_or(-99) : -99;
}

TEST(RewardForms, BoundaryIsSignedAtTau) {
  RewardConfig config = Config(RewardConfig::BOUNDARY);
  config.set_boundary_coefficient(2);
  config.set_utility_weight(3);
  EXPECT_DOUBLE_EQ(RewardFor(config, 0.5, 0.75), 1.5 + 1.5);
  EXPECT_DOUBLE_EQ(RewardFor(config, 0.5, 0.25), 1.5 - 0.5);
  EXPECT_DOUBLE_EQ(RewardFor(config, 0.5, 0.5), 1.5 + 1.0) << "t = tau counts as blocked";
  config.set_tau(0.8);
  EXPECT_DOUBLE_EQ(RewardFor(config, 0.5, 0.75), 1.5 - 1.5);
}

TEST(RewardForms, AbsoluteAndSquaredMeasureTheDistanceFromTau) {
  RewardConfig config = Config(RewardConfig::ABSOLUTE);
  config.set_boundary_coefficient(2);
  config.set_tau(0.25);
  EXPECT_DOUBLE_EQ(RewardFor(config, 1, 0.75), 2.0);
  EXPECT_DOUBLE_EQ(RewardFor(config, 1, 0.0), 1.5);
  config.set_form(RewardConfig::SQUARED);
  EXPECT_DOUBLE_EQ(RewardFor(config, 1, 0.75), 1.5);
}

TEST(RewardForms, TheirTermsSumToTheReward) {
  for (int form = 0; form < RewardConfig::Form_ARRAYSIZE; ++form) {
    RewardConfig config = Config(static_cast<RewardConfig::Form>(form));
    if (config.form() == RewardConfig::WEIGHTED_SUM) continue;
    config.set_boundary_coefficient(2);
    config.set_utility_weight(3);
    const RewardComposer composer(config);
    const std::vector<double> weights = TermWeights(config);
    const bool both =
        config.form() != RewardConfig::GUARD_ONLY && config.form() != RewardConfig::U_ONLY;
    EXPECT_EQ(weights, std::vector<double>(both ? 2 : 1, 1.0));
    for (const double t : {0.1, 0.9}) {
      const auto rewards = composer.Evaluate({{true, {Scores(0.5, t), Scores({}, {})}}});
      const CompletionReward& reward = rewards->at(0)[0];
      ASSERT_EQ(reward.terms.size(), weights.size()) << RewardConfig::Form_Name(config.form());
      EXPECT_EQ(WeightedSum(reward.terms, weights), reward.reward);
      EXPECT_EQ(rewards->at(0)[1].terms, ScoreRow(weights.size())) << "unscored";
      if (both && config.form() != RewardConfig::COMPOUND) {
        EXPECT_EQ(reward.terms[0], 1.5) << "3 u";
      }
    }
  }
}

TEST(RewardForms, WeightedSumNeedsAllItsScorers) {
  RewardConfig config;
  config.set_form(RewardConfig::WEIGHTED_SUM);
  for (const double weight : {1.0, -0.5}) {
    RewardConfig::Term* term = config.add_term();
    term->set_scorer(weight > 0 ? "format" : "length");
    term->set_weight(weight);
  }
  EXPECT_EQ(NeededScorers(config), (std::vector<std::string>{"format", "length"}));
  EXPECT_EQ(TermWeights(config), (std::vector<double>{1.0, -0.5}));
  proto::Completion completion;
  for (const auto& [name, value] : std::vector<std::pair<const char*, double>>{
           {"length", 4.0}, {"format", 1.0}, {"other", 9.0}}) {
    proto::Score* score = completion.add_score();
    score->set_scorer_name(name);
    score->set_status(proto::SCORED);
    score->set_value(value);
  }
  proto::Completion partly = completion;
  partly.mutable_score(0)->set_status(proto::TIMED_OUT);
  partly.mutable_score(0)->clear_value();
  RewardComposer composer(config);
  const auto rewards = composer.Compose({GatherScores(config, {}, {&completion, &partly})});
  ASSERT_TRUE(rewards.ok()) << rewards.status();
  EXPECT_EQ(rewards->at(0)[0].reward, 1.0 - 2.0);
  EXPECT_EQ(rewards->at(0)[0].terms, (ScoreRow{1.0, 4.0})) << "as they came";
  EXPECT_FALSE(rewards->at(0)[1].reward.has_value()) << "never a zero";
  EXPECT_FALSE(composer.Compose({{{}, {Scores(1, 1)}}}).ok()) << "no scores of the terms";
}

TEST(RewardConfigCheck, TermsNameScorersOnceAndBelongToTheWeightedSum) {
  proto::ScorerConfig scorer;
  scorer.set_name("format");
  const auto sentence = [&](const RewardConfig& config) {
    return std::string(ValidateRewardConfig(config, {scorer}).message());
  };
  RewardConfig config;
  config.set_form(RewardConfig::WEIGHTED_SUM);
  EXPECT_THAT(sentence(config), HasSubstr("reward.term is empty"));
  config.add_term()->set_scorer("format");
  EXPECT_EQ(sentence(config), "");
  config.mutable_term(0)->set_weight(std::numeric_limits<double>::infinity());
  EXPECT_THAT(sentence(config), HasSubstr("reward.term.weight is inf for \"format\""));
  config.mutable_term(0)->set_weight(2);
  config.add_term()->set_scorer("format");
  EXPECT_THAT(sentence(config), HasSubstr("\"format\" twice"));
  config.mutable_term(1)->set_scorer("fromat");
  EXPECT_THAT(sentence(config), HasSubstr("reward.term.scorer is \"fromat\", expected the name"));
  config.set_form(RewardConfig::U_ONLY);
  EXPECT_THAT(sentence(config), HasSubstr("expected form WEIGHTED_SUM"));
}

TEST(RewardForms, AblationsAndControls) {
  RewardConfig config = Config(RewardConfig::GUARD_ONLY);
  config.set_boundary_coefficient(2);
  EXPECT_DOUBLE_EQ(RewardFor(config, 7, 0.75), 1.5);
  EXPECT_DOUBLE_EQ(RewardFor(config, 7, 0.25), -0.5);
  config.set_form(RewardConfig::U_ONLY);
  EXPECT_DOUBLE_EQ(RewardFor(config, 7, 0.75), 7);
  config.set_form(RewardConfig::U_MINUS_T);
  EXPECT_DOUBLE_EQ(RewardFor(config, 7, 0.75), 5.5);
  config.set_form(RewardConfig::PROMPT_AWARE);
  EXPECT_DOUBLE_EQ(RewardFor(config, 7, 0.25, true), 7.5);
  EXPECT_DOUBLE_EQ(RewardFor(config, 7, 0.75, false), 5.5);
}

TEST(RewardForms, CompoundIsTheExpectedUtilityOfTheSystem) {
  RewardConfig config = Config(RewardConfig::COMPOUND);
  config.set_lambda(2);
  EXPECT_DOUBLE_EQ(RewardFor(config, 0.5, 0.75), -0.5);
  EXPECT_DOUBLE_EQ(RewardFor(config, 0.5, 0.25), 0.25);
  // Strictly falling below tau, strictly rising above: the minimum is at the boundary.
  for (double t = 0.0; t < 0.49; t += 0.01) {
    EXPECT_GT(CompoundUtility(t, 0.5, 1, 0.5), CompoundUtility(t + 0.01, 0.5, 1, 0.5));
    EXPECT_LT(CompoundUtility(t + 0.5, 0.5, 1, 0.5), CompoundUtility(t + 0.51, 0.5, 1, 0.5));
  }
}

TEST(RewardForms, AnUnlabelledPromptIsAnErrorUnderPromptAware) {
  RewardComposer composer(Config(RewardConfig::PROMPT_AWARE));
  const auto rewards = composer.Compose({{true, {Scores(1, 0)}}, {{}, {Scores(1, 0)}}});
  EXPECT_EQ(rewards.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(rewards.status().message()), HasSubstr("PROMPT_AWARE"));
  EXPECT_EQ(composer.num_observed(), 0) << "a refused step leaves the statistics alone";
}

TEST(MissingScores, GiveNoRewardNeverZero) {
  const RewardComposer composer(Config(RewardConfig::BOUNDARY));
  const auto rewards =
      composer.Evaluate({{{}, {Scores({}, 0.9), Scores(1, {}), Scores({}, {}), Scores(1, 0.9)}}});
  ASSERT_TRUE(rewards.ok());
  EXPECT_FALSE(rewards->at(0).at(0).reward.has_value());
  EXPECT_FALSE(rewards->at(0).at(1).reward.has_value());
  EXPECT_FALSE(rewards->at(0).at(2).reward.has_value());
  EXPECT_TRUE(rewards->at(0).at(3).reward.has_value());
  EXPECT_EQ(rewards->at(0).at(0).t, 0.9) << "what was scored is still reported";
}

TEST(MissingScores, OnlyWhatTheFormNeedsMatters) {
  const RewardComposer guard_only(Config(RewardConfig::GUARD_ONLY));
  EXPECT_EQ(guard_only.Evaluate({{{}, {Scores({}, 0.9)}}})->at(0).at(0).reward, 0.9);
  const RewardComposer u_only(Config(RewardConfig::U_ONLY));
  EXPECT_EQ(u_only.Evaluate({{{}, {Scores(3, {})}}})->at(0).at(0).reward, 3);
  EXPECT_EQ(NeededScorers(Config(RewardConfig::GUARD_ONLY)), std::vector<std::string>{"safety"});
  EXPECT_EQ(NeededScorers(Config(RewardConfig::U_ONLY)), std::vector<std::string>{"help"});
}

TEST(SeveralGuards, TheLargestCountsAndAMissingOneLeavesTUnknown) {
  RewardConfig config = Config(RewardConfig::GUARD_ONLY);
  config.add_guard("privacy");
  const RewardComposer composer(config);
  const auto rewards = composer.Evaluate({{{}, {{{}, {0.2, 0.7}}, {{}, {0.9, absl::nullopt}}}}});
  EXPECT_EQ(rewards->at(0).at(0).reward, 0.7);
  EXPECT_FALSE(rewards->at(0).at(1).reward.has_value());
}

// Normalised utilities of one group whose completions are all scored.
std::vector<double> Normalized(const RewardComposer& composer, const std::vector<double>& us) {
  GroupScores group;
  for (double u : us) group.completions.push_back(Scores(u, 0));
  std::vector<double> values;
  const auto rewards = composer.Evaluate({group});
  for (const CompletionReward& reward : rewards->at(0))
    values.push_back(*reward.normalized_utility);
  return values;
}

TEST(Normalization, GroupZScoreUsesTheSampleDeviation) {
  RewardConfig config = Config(RewardConfig::BOUNDARY);
  config.set_utility_normalization(RewardConfig::GROUP_ZSCORE);
  const RewardComposer composer(config);
  const double deviation = std::sqrt(2.0) + 1e-4;  // of 1 and 3 over n - 1
  EXPECT_DOUBLE_EQ(Normalized(composer, {1, 3})[0], -1 / deviation);
  EXPECT_DOUBLE_EQ(Normalized(composer, {1, 3})[1], 1 / deviation);
  EXPECT_EQ(Normalized(composer, {5})[0], 0);
  // The completion without t takes no part, so its utility must not shift the others'.
  const auto rewards = composer.Evaluate({{{}, {Scores(1, 0), Scores(3, 0), Scores(100, {})}}});
  EXPECT_DOUBLE_EQ(*rewards->at(0).at(0).reward, -1 / deviation);
}

TEST(Normalization, RunningZScoreSeesAllScoresSoFar) {
  RewardConfig config = Config(RewardConfig::U_ONLY);
  config.set_utility_normalization(RewardConfig::RUNNING_ZSCORE);
  RewardComposer composer(config);
  ASSERT_TRUE(composer.Compose({{{}, {Scores(1, {}), Scores({}, 0.5)}}}).ok());
  EXPECT_EQ(composer.num_observed(), 1);
  EXPECT_EQ(Normalized(composer, {4})[0], 3) << "with one score the deviation is 1";
  const auto rewards = composer.Compose({{{}, {Scores(2, {})}}, {{}, {Scores(6, {})}}});
  EXPECT_EQ(composer.num_observed(), 3);
  EXPECT_DOUBLE_EQ(composer.running_mean(), 3);
  EXPECT_DOUBLE_EQ(composer.running_deviation(), std::sqrt(7.0));
  EXPECT_DOUBLE_EQ(*rewards->at(1).at(0).reward, 3 / (std::sqrt(7.0) + 1e-4));
}

TEST(Normalization, RunningStatisticsLeaveOutCompletionsWithoutAReward) {
  RewardConfig config = Config(RewardConfig::BOUNDARY);
  config.set_utility_normalization(RewardConfig::RUNNING_ZSCORE);
  RewardComposer composer(config);
  ASSERT_TRUE(composer.Compose({{{}, {Scores(1, 0), Scores(100, {}), Scores(3, 0)}}}).ok());
  EXPECT_EQ(composer.num_observed(), 2);
  EXPECT_EQ(composer.running_mean(), 2);
}

TEST(Normalization, SigmoidTakesFixedOrRunningCentreAndScale) {
  RewardConfig config = Config(RewardConfig::U_ONLY);
  config.set_utility_normalization(RewardConfig::SIGMOID);
  config.set_utility_mu(2);
  config.set_utility_scale(4);
  EXPECT_DOUBLE_EQ(Normalized(RewardComposer(config), {6})[0], 1 / (1 + std::exp(-1.0)));
  config.clear_utility_mu();
  config.clear_utility_scale();
  RewardComposer running(config);
  ASSERT_TRUE(running.Compose({{{}, {Scores(1, {}), Scores(3, {})}}}).ok());
  EXPECT_DOUBLE_EQ(Normalized(running, {2})[0], 0.5);
  EXPECT_DOUBLE_EQ(Normalized(running, {3})[0], 1 / (1 + std::exp(-1 / (std::sqrt(2.0) + 1e-4))));
}

TEST(RewardForms, SeveralKindsOfHarmHaveThresholdsAndWeightsOfTheirOwn) {
  RewardConfig config;
  config.set_utility("help");
  const std::tuple<const char*, double, double> kinds[] = {{"violence", 0.5, 1.0},
                                                           {"privacy", 0.8, 0.25}};
  for (const auto& [guard, tau, weight] : kinds) {
    RewardConfig::Harm* harm = config.add_harm();
    harm->set_guard(guard);
    harm->set_tau(tau);
    harm->set_weight(weight);
  }
  config.set_boundary_coefficient(2);
  const auto reward = [&](RewardConfig::Form form, double violence, double privacy) {
    config.set_form(form);
    const auto rewards =
        RewardComposer(config).Evaluate({{/*unsafe=*/true, {{3.0, {violence, privacy}, {}}}}});
    return rewards.ok() ? rewards->at(0)[0].reward.value_or(-99) : -98;
  };
  EXPECT_DOUBLE_EQ(reward(RewardConfig::BOUNDARY, 0.75, 0.5), 3 + 2 * (0.75 - 0.25 * 0.5));
  EXPECT_DOUBLE_EQ(reward(RewardConfig::BOUNDARY, 0.25, 0.875), 3 + 2 * (-0.25 + 0.25 * 0.875));
  EXPECT_DOUBLE_EQ(reward(RewardConfig::ABSOLUTE, 0.75, 0.3), 3 + 2 * (0.25 + 0.25 * 0.5));
  EXPECT_DOUBLE_EQ(reward(RewardConfig::U_MINUS_T, 0.75, 0.5), 3 - 2 * (0.75 + 0.125));
  EXPECT_DOUBLE_EQ(reward(RewardConfig::PROMPT_AWARE, 0.75, 0.5), 3 + 2 * (0.75 + 0.125));
  EXPECT_DOUBLE_EQ(reward(RewardConfig::COMPOUND, 0.25, 0.875), -0.125) << "privacy blocks";
  EXPECT_DOUBLE_EQ(reward(RewardConfig::COMPOUND, 0.25, 0.75), 3 - 0.25 - 0.25 * 0.75) << "shown";
  EXPECT_EQ(NeededScorers(config), (std::vector<std::string>{"violence", "privacy", "help"}));
  std::vector<proto::ScorerConfig> scorers(3);
  scorers[0].set_name("violence");
  scorers[1].set_name("help");
  EXPECT_THAT(std::string(ValidateRewardConfig(config, scorers).message()),
              HasSubstr("reward.harm.guard is \"privacy\", expected the name of a scorer"));
  scorers[2].set_name("privacy");
  EXPECT_TRUE(ValidateRewardConfig(config, scorers).ok());
  config.mutable_harm(1)->set_tau(1.5);
  EXPECT_THAT(std::string(ValidateRewardConfig(config, scorers).message()),
              HasSubstr("reward.harm.tau is 1.5 for \"privacy\""));
}

TEST(Normalization, StandardTakesMeanAndScaleFromTheConfigurationAndCuts) {
  RewardConfig config = Config(RewardConfig::U_ONLY);
  config.set_utility_normalization(RewardConfig::STANDARD);
  std::vector<proto::ScorerConfig> scorers(2);
  scorers[0].set_name(config.guard(0));
  scorers[1].set_name(config.utility());
  EXPECT_THAT(std::string(ValidateRewardConfig(config, scorers).message()),
              HasSubstr("utility_mu or reward.utility_scale is not set"));
  config.set_utility_mu(2);
  config.set_utility_scale(4);
  config.set_utility_weight(1.5);
  EXPECT_DOUBLE_EQ(Normalized(RewardComposer(config), {6})[0], 1.5);
  EXPECT_DOUBLE_EQ(Normalized(RewardComposer(config), {100})[0], 3);
  EXPECT_DOUBLE_EQ(Normalized(RewardComposer(config), {-100})[0], -3);
  config.set_utility_clip(0);
  EXPECT_THAT(std::string(ValidateRewardConfig(config, scorers).message()),
              HasSubstr("utility_clip is 0, expected a positive number"));
}

TEST(RunningStatistics, SurviveACheckpointExactly) {
  RewardConfig config = Config(RewardConfig::U_ONLY);
  RewardComposer composer(config);
  ASSERT_TRUE(
      composer.Compose({{{}, {Scores(0.1, {}), Scores(1.0 / 3, {}), Scores(-7e9, {})}}}).ok());
  RewardComposer restored(config);
  ASSERT_TRUE(restored.Restore(composer.Serialize()).ok());
  EXPECT_EQ(restored.num_observed(), 3);
  EXPECT_EQ(restored.running_mean(), composer.running_mean());
  EXPECT_EQ(restored.running_deviation(), composer.running_deviation());
  for (const char* bad : {"", "3 0x1p+0", "-1 0x1p+0 0x1p+0", "3 nan 0x1p+0", "3 1 2 3"}) {
    EXPECT_EQ(restored.Restore(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_EQ(restored.num_observed(), 3);
}

TEST(GatherScores, TakesOnlyValuesThatAreScores) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  proto::Completion completion;
  auto add = [&](const char* name, proto::ScoreStatus status, absl::optional<double> value) {
    proto::Score* score = completion.add_score();
    score->set_scorer_name(name);
    score->set_status(status);
    if (value.has_value()) score->set_value(*value);
  };
  add("help", proto::SCORED, -3.5);
  add("safety", proto::SCORED, 0.25);
  RewardConfig config = Config(RewardConfig::BOUNDARY);
  GroupScores group = GatherScores(config, true, {&completion});
  EXPECT_EQ(group.completions.at(0).utility, -3.5);
  EXPECT_EQ(group.completions.at(0).guards.at(0), 0.25);
  EXPECT_EQ(group.unsafe, true);

  completion.clear_score();
  add("help", proto::SCORED, nan);
  add("safety", proto::SCORED, 1.5);
  group = GatherScores(config, {}, {&completion});
  EXPECT_FALSE(group.completions.at(0).utility.has_value());
  EXPECT_FALSE(group.completions.at(0).guards.at(0).has_value());

  completion.clear_score();
  add("safety", proto::TIMED_OUT, 0.0);
  group = GatherScores(config, {}, {&completion});
  EXPECT_FALSE(group.completions.at(0).utility.has_value());
  EXPECT_FALSE(group.completions.at(0).guards.at(0).has_value()) << "a missing score is no zero";
}

TEST(MissingRule, IsTheConfiguredOneForEachStatus) {
  RewardConfig config;
  config.set_on_refused_input(RewardConfig::DROP_GROUP);
  EXPECT_EQ(MissingRuleFor(config, proto::REFUSED_INPUT), RewardConfig::DROP_GROUP);
  EXPECT_EQ(MissingRuleFor(config, proto::TIMED_OUT), RewardConfig::RETRY);
  EXPECT_EQ(MissingRuleFor(config, proto::OVERLOADED), RewardConfig::RETRY);
  EXPECT_EQ(MissingRuleFor(config, proto::MALFORMED_OUTPUT), RewardConfig::DROP_COMPLETION);
  EXPECT_EQ(MissingRuleFor(config, proto::MODEL_ERROR), RewardConfig::RETRY);
}

TEST(ValidateRewardConfig, TrainsOnNothingThatIsForEvaluationOnly) {
  std::vector<proto::ScorerConfig> scorers(3);
  scorers[0].set_name("safety");
  scorers[1].set_name("truth");
  scorers[1].set_kind(proto::ScorerConfig::ORACLE);
  scorers[2].set_name("judge");
  scorers[2].set_evaluation_only(true);
  const auto message = [&](const RewardConfig& config) {
    return std::string(ValidateRewardConfig(config, scorers).message());
  };
  RewardConfig config;
  config.set_form(RewardConfig::GUARD_ONLY);
  config.add_guard("safety");
  EXPECT_EQ(message(config), "");
  // Named though this form does not read it.
  config.set_utility("truth");
  EXPECT_EQ(message(config),
            "reward.utility names scorer \"truth\", which is for evaluation only (kind ORACLE), "
            "expected one that training may ask");
  config.clear_utility();
  config.add_guard("judge");
  EXPECT_EQ(message(config),
            "reward.guard names scorer \"judge\", which is for evaluation only, expected one that "
            "training may ask");
  RewardConfig sum;
  sum.set_form(RewardConfig::WEIGHTED_SUM);
  sum.add_term()->set_scorer("truth");
  EXPECT_THAT(message(sum), HasSubstr("reward.term names scorer \"truth\""));
}

TEST(ValidateRewardConfig, NamesTheFieldTheValueAndWhatWasExpected) {
  std::vector<proto::ScorerConfig> scorers(2);
  scorers[0].set_name("safety");
  scorers[1].set_name("help");
  scorers[1].set_output(proto::ScorerConfig::LOG_ODDS);
  auto message = [&](const RewardConfig& config) {
    return std::string(ValidateRewardConfig(config, scorers).message());
  };
  const RewardConfig good = Config(RewardConfig::BOUNDARY);
  EXPECT_EQ(message(good), "");
  RewardConfig bad = good;
  bad.set_guard(0, "saftey");
  EXPECT_THAT(message(bad), HasSubstr("reward.guard is \"saftey\""));
  EXPECT_THAT(message(bad), HasSubstr("safety, help"));
  bad.set_guard(0, "help");
  EXPECT_THAT(message(bad), HasSubstr("PROBABILITY"));
  scorers[0].set_kind(proto::ScorerConfig::GENERATIVE);
  EXPECT_EQ(message(good), "");
  scorers[0].set_kind(proto::ScorerConfig::REWARD);
  EXPECT_THAT(message(good), HasSubstr("expected a scorer of kind VERDICT with output PROBABILITY, "
                                       "or GENERATIVE"));
  scorers[0].clear_kind();
  bad = good;
  bad.clear_utility();
  EXPECT_THAT(message(bad), HasSubstr("reward.utility is not set"));
  bad.set_form(RewardConfig::GUARD_ONLY);
  EXPECT_EQ(message(bad), "");
  bad = good;
  bad.set_tau(1.5);
  EXPECT_THAT(message(bad), HasSubstr("reward.tau is 1.5"));
  bad = good;
  bad.set_utility_scale(0);
  EXPECT_THAT(message(bad), HasSubstr("reward.utility_scale is 0"));
  bad = good;
  bad.set_lambda(std::numeric_limits<double>::infinity());
  EXPECT_THAT(message(bad), HasSubstr("reward.lambda is inf"));
}

TEST(BoundaryMass, IsWithinATenthOfOneHalf) {
  EXPECT_TRUE(InBoundaryMass(0.5));
  EXPECT_TRUE(InBoundaryMass(0.41));
  EXPECT_FALSE(InBoundaryMass(0.39));
  EXPECT_FALSE(InBoundaryMass(0.61));
}

}  // namespace
}  // namespace wideberth::learner
