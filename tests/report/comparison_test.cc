// SPDX-License-Identifier: Apache-2.0
// Differences between arms, what is credited to the boundary term, and that the sentences claim no
// more than the numbers.
#include "report/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/claims.h"
#include "report/findings.h"
#include "report/sweep.h"
#include "tests/report/evaluation_folder.h"

namespace wideberth::report {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// Forty prompts of "plain" and three of "rare". Help: base 2, u_only 3, boundary 3 but 4 on
// `num_better` plain prompts; harm alternates in base (1, 0, 1, ...) and is 0 elsewhere.
EvaluationFolder FortyThree(const std::string& name, int num_better,
                            const std::string& seed = "1") {
  EvaluationFolder folder(name);
  folder.AddArm("boundary", {{"reward_form", "BOUNDARY"}, {"seed", seed}});
  folder.AddArm("u_only", {{"reward_form", "U_ONLY"}, {"seed", seed}});
  for (int i = 0; i < 43; ++i) {
    const std::string id = absl::StrCat("p", i), category = i < 40 ? "plain" : "rare";
    const double harm = i % 2 == 0 ? 1 : 0;
    folder.AddPrompt("base", id, category, false,
                     {ScoredAnswer(0.1, 0, harm, 2), ScoredAnswer(0.2, 0, harm, 2)});
    folder.AddPrompt("u_only", id, category, false,
                     {ScoredAnswer(0.1, 0, 0, 3), ScoredAnswer(0.2, 0, 0, 3)});
    folder.AddPrompt("boundary", id, category, false,
                     {ScoredAnswer(0.1, 0, 0, i < num_better ? 4 : 3), ScoredAnswer(0.2, 0, 0, 3)});
  }
  return folder;
}

Findings FindingsOf(std::vector<EvaluationFolder> folders) {
  std::vector<std::string> paths;
  for (EvaluationFolder& folder : folders) paths.push_back(folder.Write());
  auto findings = WorkOut(paths);
  EXPECT_TRUE(findings.ok()) << findings.status();
  return *std::move(findings);
}

TEST(ComparisonTest, DifferencesArePairedByPromptAndCorrectedByHolm) {
  const Findings findings = FindingsOf({FortyThree("pairs", 20)});
  const ArmDifference* help = FindDifference(findings.differences, "boundary", "base", "help");
  ASSERT_NE(help, nullptr);
  EXPECT_NEAR(help->test.mean, (20 * 1.5 + 23) / 43.0, 1e-12);
  EXPECT_EQ(help->test.num_units, 43);
  EXPECT_NEAR(help->test.p, 1e-4, 1e-12);  // No flip reaches it.
  EXPECT_GT(help->p_holm, help->test.p);
  EXPECT_TRUE(help->Significant());
  const ArmDifference* harm = FindDifference(findings.differences, "boundary", "base", "harm");
  EXPECT_NEAR(harm->test.mean, -22 / 43.0, 1e-12);
  const ArmDifference* shown = FindDifference(findings.differences, "u_only", "base", "shown");
  EXPECT_DOUBLE_EQ(shown->test.p, 1.0);
  EXPECT_FALSE(shown->Significant());
  EXPECT_NE(FindDifference(findings.differences, "boundary", "u_only", "help"), nullptr);
  EXPECT_EQ(FindDifference(findings.differences, "u_only", "boundary", "help"), nullptr);
}

TEST(ComparisonTest, ACategoryOfThreePromptsGetsNoInterval) {
  const Findings findings = FindingsOf({FortyThree("rare", 20)});
  std::map<std::string, const Slice*> slices;
  for (const Slice& slice : findings.slices) slices[slice.name] = &slice;
  ASSERT_EQ(slices.count("rare"), 1u);
  EXPECT_EQ(slices["rare"]->num_prompts, 3);
  ASSERT_EQ(slices["rare"]->rows.size(), 3u);
  EXPECT_NEAR(*slices["rare"]->rows[1].help, 3.0, 1e-12);  // The mean is told all the same.
  EXPECT_FALSE(slices["rare"]->rows[1].help_change.has_value());
  ASSERT_TRUE(slices["plain"]->rows[1].help_change.has_value());
  EXPECT_NEAR(slices["plain"]->rows[1].help_change->test.mean, 1.25, 1e-12);
  EXPECT_FALSE(slices["plain"]->rows[0].help_change.has_value());  // The base against itself.
  EXPECT_THAT(LimitSentences(findings.runs), Contains(HasSubstr("fewer than 10 prompts")));
}

TEST(ComparisonTest, NothingIsCreditedToTheBoundaryTermWhereUAloneDoesAsWell) {
  const Findings findings = FindingsOf({FortyThree("nothing", 1)});
  const std::vector<std::string> sentences = AttributionSentences(findings.attributions);
  ASSERT_EQ(sentences.size(), 2u);  // Harm and help against u_only.
  EXPECT_THAT(sentences[0],
              AllOf(HasSubstr("Harm: over base + filter boundary changes it by -0.512 "
                              "and u_only by -0.512"),
                    HasSubstr("not significant): no part of the change can be credited "
                              "to the boundary term")));
  EXPECT_THAT(sentences[1], HasSubstr("no part of the change can be credited"));
}

TEST(ComparisonTest, AShareOfTheGainIsToldWithItsInterval) {
  const Findings findings = FindingsOf({FortyThree("share", 30)});
  const Attribution* help = nullptr;
  for (const Attribution& one : findings.attributions) {
    if (one.metric == "help") help = &one;
  }
  ASSERT_NE(help, nullptr);
  const double share = 30 * 0.5 / (30 * 1.5 + 13);
  EXPECT_NEAR(*help->share, share, 1e-12);
  EXPECT_LT(help->interval->low, share);
  EXPECT_GT(help->interval->high, share);
  EXPECT_TRUE(help->own->Significant());
  EXPECT_THAT(AttributionSentences(findings.attributions)[1],
              AllOf(HasSubstr("here the boundary term helps over u_only"),
                    HasSubstr("as measured it is 26 % of the change")));
}

TEST(ComparisonTest, ControlsAreTheMostAlikeTrainings) {
  EvaluationFolder folder("controls");
  const auto add = [&](const std::string& name, const char* form, const char* weight) {
    folder.AddArm(name, {{"reward_form", form}, {"utility_weight", weight}, {"run_dir", name}});
    folder.AddPrompt(name, "p1", "plain", false, {ScoredAnswer(0.1, 0, 0, 2)});
  };
  add("boundary", "BOUNDARY", "1.5");
  add("u", "U_ONLY", "1.5");
  add("boundary_small", "BOUNDARY", "0.3");
  add("u_small", "U_ONLY", "0.3");
  add("minus", "U_MINUS_T", "1.5");
  folder.AddPrompt("base", "p1", "plain", false, {ScoredAnswer(0.1, 0, 0, 2)});
  const Findings findings = FindingsOf({folder});
  std::vector<std::string> pairs;
  for (const Attribution& one : findings.attributions) {
    if (one.metric == "help")
      pairs.push_back(absl::StrCat(one.arm, " ", one.control, " ", one.differing.size()));
  }
  EXPECT_THAT(pairs, ElementsAre("boundary u 0", "boundary minus 0", "boundary_small u_small 0",
                                 "boundary_small minus 1"));
  // Both boundary arms are spoken of.
  EXPECT_THAT(ClaimSentences(findings.runs, findings.differences),
              AllOf(Contains(HasSubstr("filter, boundary shows")),
                    Contains(HasSubstr("filter, boundary_small shows"))));
  EXPECT_THAT(AttributionSentences(findings.attributions),
              Contains(HasSubstr("minus (which also differs in utility_weight)")));
}

TEST(ComparisonTest, TheClaimSaysWhatIsSignificantAndWhatIsNot) {
  const Findings findings = FindingsOf({FortyThree("claim", 20)});
  const auto sentences = ClaimSentences(findings.runs, findings.differences);
  EXPECT_THAT(sentences[0],
              AllOf(HasSubstr("Behind the same filter, boundary lowers harm by 0.512"),
                    HasSubstr("raises help by 1.233")));
  EXPECT_THAT(sentences, Contains(HasSubstr("Share of answers shown: +0.000")));
  EXPECT_THAT(sentences, Contains(HasSubstr("not significant")));

  EXPECT_THAT(sentences, Not(Contains(HasSubstr("cannot be said"))));  // u_only is there.

  EvaluationFolder even("even");
  even.AddArm("boundary", TestJson::object());
  for (int i = 0; i < 12; ++i) {
    even.AddPrompt("base", absl::StrCat("p", i), "plain", false, {ScoredAnswer(0.1, 0, 0, 2)});
    even.AddPrompt("boundary", absl::StrCat("p", i), "plain", false,
                   {ScoredAnswer(0.1, 0, 0, i % 2 == 0 ? 3 : 1)});
  }
  const Findings nothing = FindingsOf({even});
  EXPECT_THAT(ClaimSentences(nothing.runs, nothing.differences)[0],
              AllOf(HasSubstr("shows no significant change of help"), Not(HasSubstr("raises"))));
  EXPECT_THAT(ClaimSentences(nothing.runs, nothing.differences),
              Contains(HasSubstr("how much of this the boundary term did cannot be said")));
}

TEST(ComparisonTest, SeveralRunsArePooledWithPromptsInsideThem) {
  EvaluationFolder second = FortyThree("pool2", 0, "2");
  second.head()["settings"]["temperature"] = "0.7";
  const Findings findings = FindingsOf({FortyThree("pool1", 20, "1"), second});
  const ArmDifference* help = FindDifference(findings.differences, "boundary", "base", "help");
  EXPECT_EQ(help->test.num_units, 86);
  EXPECT_THAT(help->run_means, ElementsAre(::testing::DoubleNear(53 / 43.0, 1e-12), 1.0));
  EXPECT_NEAR(help->test.mean, 96 / 86.0, 1e-12);
  EXPECT_NEAR(*findings.arms[1].Find("help")->value, (53 / 43.0 + 1) / 2 + 2, 1e-12);
  EXPECT_THAT(
      SampleSentence(findings.runs),
      HasSubstr("86 prompts in all, 172 answers of each arm, 2 runs, 2 training seeds (1, 2)"));
  EXPECT_THAT(WarningSentences(findings.runs), ElementsAre(HasSubstr("differ in temperature")));
  EXPECT_THAT(ClaimSentences(findings.runs, findings.differences),
              Contains(HasSubstr("harm in 2 of 2, help in 2 of 2")));
}

TEST(ComparisonTest, OneTrainingOfEachIsSaidToBeOne) {
  constexpr char kOnce[] = "Each reward was trained once";
  const Findings one = FindingsOf({FortyThree("once", 20)});
  EXPECT_THAT(AttributionConclusion(one.attributions), HasSubstr(kOnce));
  const Findings two = FindingsOf({FortyThree("twice1", 20, "1"), FortyThree("twice2", 20, "2")});
  EXPECT_THAT(AttributionConclusion(two.attributions), Not(HasSubstr(kOnce)));
}

TEST(ComparisonTest, TheSecondScoringIsComparedWhereItDiffersAndWhereItWasAskedFor) {
  const auto with_refusal = [](const std::string& name, double help) {
    EvaluationFolder folder(name);
    folder.AddArm("boundary", TestJson::object());
    folder.AddArm("refusal", TestJson::object());
    folder.AddPrompt("base", "p1", "plain", false, {ScoredAnswer(0.9, 0, 0, 2)});
    folder.AddPrompt("boundary", "p1", "plain", false, {ScoredAnswer(0.1, 0, 0, 3)});
    folder.AddPrompt("refusal", "p1", "plain", false, {ScoredAnswer(0, 0, 0, help)});
    return folder;
  };
  EvaluationFolder without("second_scoring_without");
  without.AddArm("boundary", TestJson::object());
  without.AddPrompt("base", "p1", "plain", false, {ScoredAnswer(0.9, 0, 0, 2)});
  without.AddPrompt("boundary", "p1", "plain", false, {ScoredAnswer(0.1, 0, 0, 3)});
  const auto second = [](const Findings& findings) {
    return FindDifference(findings.differences, "boundary", "base", "help_refusal_judged");
  };
  EXPECT_EQ(second(FindingsOf({with_refusal("second_scoring_same", 1)})), nullptr);
  const Findings both = FindingsOf({with_refusal("second_scoring_two", 2), without});
  ASSERT_NE(second(both), nullptr);
  EXPECT_DOUBLE_EQ(second(both)->test.mean, 1.0);  // 3 shown, against the refusal's 2.
  EXPECT_EQ(second(both)->test.num_units, 1);
}

TEST(ComparisonTest, WhatIsUnfinishedOrTrainedOnStandsAtTheTop) {
  EvaluationFolder folder = FortyThree("top", 5);
  folder.head()["ended"] = "failed";
  folder.head()["num_prompts"] = 50;
  folder.head()["trained_prompts"] = {{"allowed", true}, {"found", 4}};
  const Findings findings = FindingsOf({folder});
  const std::string text = FindingsText(findings);
  EXPECT_EQ(text.find("This evaluation is unfinished (failed)"), 0u) << text;
  EXPECT_THAT(text, HasSubstr("base 43 of 50"));
  EXPECT_THAT(text, HasSubstr("4 of the prompts occur in training"));
}

TEST(ComparisonTest, TheFrontHoldsWhatNothingElseDominates) {
  std::vector<SweepPoint> points = {{"a", 0.1, 0.1, 2.0},
                                    {"a", 0.2, 0.2, 3.0},
                                    {"b", 0.1, 0.2, 2.5},
                                    {"b", 0.2, 0.1, 2.0},
                                    {"c", 0.1, absl::nullopt, 4.0}};
  MarkParetoFront(&points);
  std::vector<bool> front;
  for (const SweepPoint& point : points) front.push_back(point.on_front);
  EXPECT_THAT(front, ElementsAre(true, true, false, true, false));
}

TEST(ComparisonTest, ALowerThresholdShowsLessAndAHigherPriceOfBlockingCostsMore) {
  EvaluationFolder folder("sweep");
  AddFourAnswers(&folder);
  const Findings findings = FindingsOf({folder});
  std::map<int, const SweepPoint*> at;
  for (const SweepPoint& point : findings.sweep)
    at[static_cast<int>(point.tau * 100 + 0.5)] = &point;
  ASSERT_EQ(at.size(), 20u);
  EXPECT_DOUBLE_EQ(*at[5]->shown, 0.0);
  EXPECT_DOUBLE_EQ(*at[20]->shown, 0.25);
  EXPECT_DOUBLE_EQ(*at[101]->shown, 1.0);
  EXPECT_DOUBLE_EQ(*at[101]->harm, 1.25);
  // tau 0.5: blocked with t 0.9 and 0.55; lambda 0, 1 and 4 (places 0, 2 and 4).
  EXPECT_NEAR(*at[50]->utility[0], 1.95 / 4, 1e-12);
  EXPECT_NEAR(*at[50]->utility[2], 1.40 / 4, 1e-12);
  EXPECT_NEAR(*at[50]->utility[4], (1.95 - 4 * 0.55) / 4, 1e-12);
}

TEST(FindingsTest, TheSummaryHoldsArmsDifferencesSettingsAndSeconds) {
  const auto json = nlohmann::json::parse(FindingsJson(FindingsOf({FortyThree("json", 20)})));
  for (const char* key : {"harm", "help", "utility", "shown", "boundary_mass", "clear_errors",
                          "errors_harm2", "harm_unfiltered", "help_unfiltered"})
    EXPECT_TRUE(json["arms"]["boundary"][key].is_number()) << key;
  EXPECT_NEAR(json["arms"]["base"]["harm"], 22 / 43.0, 1e-12);
  const auto& first = json["differences"][0];
  EXPECT_EQ(first["arm"], "boundary");
  EXPECT_EQ(first["against"], "base");
  EXPECT_EQ(first["metric"], "harm");
  EXPECT_NEAR(first["mean"], -22 / 43.0, 1e-12);
  EXPECT_LT(first["low"], first["high"]);
  EXPECT_EQ(first["n"], 43);
  EXPECT_EQ(json["settings"]["temperature"], "1");
  EXPECT_EQ(json["seconds"]["generate"], 2.5);
  EXPECT_TRUE(json["arms"]["base"]["false_negative_rate"].is_null());  // No answer with harm 2.
}

TEST(FindingsTest, TheTextKeepsToItsWidth) {
  const std::string text = FindingsText(FindingsOf({FortyThree("text", 20)}));
  EXPECT_THAT(text, HasSubstr("boundary - u_only"));
  size_t start = 0;
  for (size_t end; (end = text.find('\n', start)) != std::string::npos; start = end + 1)
    EXPECT_LE(end - start, 100u) << text.substr(start, end - start);
}

}  // namespace
}  // namespace wideberth::report
