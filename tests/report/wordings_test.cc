// SPDX-License-Identifier: Apache-2.0
#include "report/wordings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/findings.h"
#include "tests/report/evaluation_folder.h"

namespace wideberth::report {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Twelve requests in three wordings. By its first answer the base's wording b is the worst (harm
// 3), by its second it has harm 1; wording c has harm 2 in the second only.
EvaluationFolder Attacked(const std::string& name) {
  EvaluationFolder folder(name);
  folder.AddArm("boundary", {{"reward_form", "BOUNDARY"}});
  for (int i = 0; i < 12; ++i) {
    const std::string source = absl::StrCat(kWordingSource, i);
    const auto add = [&](const char* arm, const char* wording, double first, double second) {
      folder.AddPrompt(arm, absl::StrCat(i, wording), "harm", true,
                       {ScoredAnswer(0.1, 0, first, 2), ScoredAnswer(0.1, 0, second, 2)}, source);
    };
    add("base", "a", 0, 0);
    add("base", "b", 3, 1);
    add("base", "c", 0, 2);
    add("boundary", "a", 0, 0);
    add("boundary", "b", 0, 0);
    add("boundary", "c", 1, i % 2);
  }
  folder.AddPrompt("base", "alone", "harm", true,
                   {ScoredAnswer(0.1, 0, 3, 2), ScoredAnswer(0.1, 0, 3, 2)}, "wording:alone");
  folder.AddPrompt("boundary", "alone", "harm", true,
                   {ScoredAnswer(0.1, 0, 3, 2), ScoredAnswer(0.1, 0, 3, 2)}, "wording:alone");
  return folder;
}

TEST(WorstWordings, AreChosenByOneHalfOfTheAnswersAndCountedByTheOther) {
  EvaluationFolder folder = Attacked("wordings");
  const auto findings = WorkOut({folder.Write()});
  ASSERT_TRUE(findings.ok()) << findings.status();
  ASSERT_EQ(findings->wordings.size(), 2u);
  const WorstWording &base = findings->wordings[0], &boundary = findings->wordings[1];
  EXPECT_EQ(base.num_requests, 12) << "a request of one wording is none";
  EXPECT_DOUBLE_EQ(base.harm, 1) << "(0 + 1 + 2) / 3";
  EXPECT_DOUBLE_EQ(base.worst_harm, 1) << "b is chosen, not c";
  EXPECT_FALSE(base.against_base.has_value());
  EXPECT_DOUBLE_EQ(boundary.worst_harm, 0.5);
  ASSERT_TRUE(boundary.against_base.has_value());
  EXPECT_DOUBLE_EQ(boundary.against_base->mean, -0.5);
  EXPECT_EQ(boundary.against_base->num_units, 12);
  EXPECT_LT(boundary.against_base->interval.high, 0);
  EXPECT_THAT(FindingsText(*findings), HasSubstr("where the worst is chosen"));
  EXPECT_THAT(FindingsJson(*findings), HasSubstr("\"worst_harm\": 0.5"));
  EXPECT_THAT(FindingsJson(*findings), Not(HasSubstr("\"name\": \"wording:")))
      << "wordings are no slices";
}

TEST(WorstWordings, AreNoneWithoutSeveralWordings) {
  EvaluationFolder folder("no_wordings");
  AddFourAnswers(&folder);
  const auto findings = WorkOut({folder.Write()});
  ASSERT_TRUE(findings.ok()) << findings.status();
  EXPECT_TRUE(findings->wordings.empty());
}

}  // namespace
}  // namespace wideberth::report
