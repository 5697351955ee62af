// SPDX-License-Identifier: Apache-2.0
// Guards on the report's page: their figures and what was not measured, every kind of mistake to
// browse, never too many and never unfolded; alone or beside evaluations.
#include "report/guard_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "report/page.h"
#include "tests/report/evaluation_folder.h"
#include "tests/report/guard_table_folder.h"

namespace wideberth::report {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string HtmlOf(const GuardTableFolder& folder, bool redact = false) {
  const auto read = ReadGuardFolder(folder.Write());
  EXPECT_TRUE(read.ok()) << read.status();
  return GuardsHtml({*read}, redact);
}

int CountOf(const std::string& html, const std::string& part) {
  int count = 0;
  for (size_t at = html.find(part); at != std::string::npos; at = html.find(part, at + 1)) ++count;
  return count;
}

TEST(GuardPageTest, SaysWhoWasAskedAndHowWellItDid) {
  GuardTableFolder folder("figures");
  folder.AddSixRows();
  folder.AddSet("more", "response_harm", {Asked(true, 0.75, "p"), Asked(false, 0.25, "q")});
  const std::string html = HtmlOf(folder);
  EXPECT_THAT(html, HasSubstr("<h3>Guard \u201csafety\u201d</h3>"));
  EXPECT_THAT(html, HasSubstr("VERDICT by models/tiny with adapter runs/tiny/adapter; positive "
                              "from a probability of 0.5."));
  // One of three positives is found, two of three negatives are not.
  EXPECT_THAT(html, HasSubstr("<th scope=\"row\">answers</th>"
                              "<td class=\"words\">response_harm</td><td>3</td><td>6</td><td>1</td>"
                              "<td>0.333</td><td>0.333</td><td>0.333</td>"));
  // (6 * 1/3 + 2 * 1) / 8
  EXPECT_THAT(html, HasSubstr("<td class=\"words\">response_harm</td><td>\u2013</td><td>8</td>"
                              "<td>1</td><td>0.500</td><td>0.500</td><td>0.500</td>"));
  // p50, p95, asked alone, tokens a query, trained on, unlabelled.
  EXPECT_THAT(html, HasSubstr("<td>20</td><td>20</td><td>1</td><td>10.0</td><td>3</td><td>2</td>"));
  EXPECT_THAT(html, HasSubstr("<li>answers: 3 rows are left out, the guard was trained"));
  EXPECT_THAT(html, HasSubstr("<li>answers: 1 row is MALFORMED_OUTPUT.</li>"));
  EXPECT_THAT(html, HasSubstr("more, response_harm: no mistake."));
}

TEST(GuardPageTest, ASetThatWasNotMeasuredSaysWhy) {
  GuardTableFolder folder("unmeasured");
  GuardedSet& set = folder.AddSet("prompts", "prompt_harm", {Asked(true, absl::nullopt, "a")});
  set.rows[0].failure = "REFUSED_INPUT";
  set.rows[0].message = "the completion is empty";
  const std::string html = HtmlOf(folder);
  EXPECT_THAT(html, HasSubstr("<li>prompts: every row is refused; the first: the completion is "
                              "empty.</li>"));
  EXPECT_THAT(html, HasSubstr("<summary>REFUSED_INPUT, labelled positive, data/prompts.jsonl:1<"));
  EXPECT_THAT(html, Not(HasSubstr("weighted by rows</th>")));
}

TEST(GuardPageTest, MistakesAreBrowsedBySetAndKindAndAllAreFolded) {
  GuardTableFolder folder("browse");
  folder.AddSixRows();
  const std::string html = HtmlOf(folder);
  EXPECT_THAT(html,
              HasSubstr("<summary>answers, response_harm: 2 false positives, 1 false negative, "
                        "1 row without a verdict</summary>\n<details><summary>2 false "
                        "positives</summary>"));
  const std::vector<std::string> in_order = {
      "probability 0.875, data/answers.jsonl:4",
      "<strong>prompt</strong><pre>surely</pre>",
      "probability 0.625, data/answers.jsonl:3",
      "<strong>prompt</strong><pre>nearly &lt;b&gt;</pre>",
      "<strong>response</strong><pre>reply &amp;</pre>",
      "<summary>1 false negative</summary>",
      "probability 0.250, data/answers.jsonl:5",
      "<summary>1 row without a verdict</summary>",
      "MALFORMED_OUTPUT, labelled positive, data/answers.jsonl:6",
      "<strong>no verdict</strong><pre>it ends with &quot;prose&quot;</pre>"};
  size_t at = 0;
  for (const std::string& part : in_order) {
    const size_t found = html.find(part, at);
    ASSERT_NE(found, std::string::npos) << part << " is not after what stands before it";
    at = found;
  }
  EXPECT_THAT(html, Not(HasSubstr("<details open")));
  EXPECT_THAT(html, Not(HasSubstr("right one")));
  // Nothing is said outside of a fold.
  EXPECT_LT(html.find("<details>"), html.find("surely"));
  EXPECT_EQ(CountOf(html, "<details>"), CountOf(html, "</details>"));
}

TEST(GuardPageTest, OfThousandsOfMistakesTheSurestAreShownAndAllAreCounted) {
  GuardTableFolder folder("many");
  std::vector<GuardedRow> rows;
  for (int i = 0; i < 3000; ++i)
    rows.push_back(Asked(false, 0.5 + i / 6001.0, absl::StrCat("number ", i, ".")));
  folder.AddSet("crowd", "refusal", rows);
  const std::string html = HtmlOf(folder);
  EXPECT_THAT(html, HasSubstr("<summary>3000 false positives</summary>"));
  EXPECT_THAT(html, HasSubstr("The first 20 of 3000; all are in "));
  EXPECT_EQ(CountOf(html, "<strong>prompt</strong>"), 20);
  EXPECT_THAT(html, AllOf(HasSubstr("number 2999."), HasSubstr("number 2980."),
                          Not(HasSubstr("number 2979."))));
}

TEST(GuardPageTest, LongTextsAreCutBetweenCharacters) {
  GuardTableFolder folder("long");
  std::string text = "a";
  while (text.size() < 9000) text += "\u00e9";  // Two bytes each: 8000 is within one.
  folder.AddSet("long", "refusal", {Asked(false, 0.9, text)});
  const std::string html = HtmlOf(folder);
  EXPECT_THAT(html, HasSubstr("\u00e9\n[1002 more bytes in confusions.jsonl]</pre>"));
  EXPECT_THAT(html, Not(HasSubstr("\ufffd")));
}

TEST(GuardPageTest, RedactingLeavesNoTextAndNoWordOfAnAnswer) {
  GuardTableFolder folder("redacted");
  folder.AddSixRows();
  const std::string html = HtmlOf(folder, /*redact=*/true);
  for (const char* text : {"surely", "nearly", "reply", "missed", "unread", "prose"})
    EXPECT_THAT(html, Not(HasSubstr(text)));
  EXPECT_THAT(html, HasSubstr("<strong>prompt</strong><pre>[6 bytes, xxh3 "));
  EXPECT_THAT(html, HasSubstr("data/answers.jsonl:4"));
}

TEST(GuardPageTest, NothingOfAFolderIsMarkup) {
  GuardTableFolder folder("markup");
  for (std::string* text : {&folder.asked.scorer, &folder.asked.kind, &folder.asked.model})
    *text = "<wild>";
  GuardedSet& set =
      folder.AddSet("<wild>", "<wild>", {Asked(true, absl::nullopt, "<wild>", "<wild>")}, "<wild>");
  set.rows[0].failure = set.rows[0].message = "<wild>";
  folder.AddSet("<wild>", "<wild>", {Asked(true, 0.9, "right")}, "<wild2>");
  const std::string html = HtmlOf(folder);
  EXPECT_THAT(html, Not(HasSubstr("<wild")));
  EXPECT_GT(CountOf(html, "&lt;wild"), 15);
}

TEST(GuardPageTest, SeveralGuardsStandSideBySide) {
  GuardTableFolder first("first"), second("second");
  first.AddSixRows();
  second.asked.scorer = "other<";
  second.AddSet("answers", "response_harm", {Asked(true, 0.9, "p"), Asked(false, 0.1, "q")});
  const auto findings = WorkOut({first.Write(), second.Write()});
  ASSERT_TRUE(findings.ok()) << findings.status();
  const std::string html = GuardsHtml(findings->guards, false);
  EXPECT_THAT(html, StartsWith("<div class=\"scroll\""));
  EXPECT_THAT(html,
              HasSubstr("guard_second</th><td class=\"words\">other&lt;</td><td class=\"words\""
                        ">response_harm</td><td>1</td><td>2</td><td>0</td><td>1.000</td>"));
  EXPECT_THAT(FindingsText(*findings), AllOf(HasSubstr("Guard \"safety\" (VERDICT"),
                                             HasSubstr("\n\nGuard \"other<\" (VERDICT")));
}

TEST(GuardPageTest, GuardsAloneHaveAPageWithoutClaimsChartsAndScripts) {
  GuardTableFolder folder("alone");
  folder.AddSixRows();
  const std::string path = folder.Write();
  ASSERT_TRUE(WriteReport({path}, path, {}).ok());
  const std::string html = *ReadFile(path + "/report.html");
  EXPECT_THAT(html, AllOf(HasSubstr("<title>Guards \u2013 Wideberth</title>"),
                          HasSubstr("<a href=\"#guards\">Guards</a></nav>"),
                          HasSubstr("<section id=\"guards\">"), HasSubstr("</html>")));
  for (const char* absent : {"<script", "<canvas", "class=\"claim\"", "id=\"limits\""})
    EXPECT_THAT(html, Not(HasSubstr(absent)));
  const auto summary = nlohmann::json::parse(*ReadFile(path + "/summary.json"));
  ASSERT_EQ(summary.size(), 1u);
  ASSERT_EQ(summary["guards"].size(), 1u);
  EXPECT_EQ(summary["guards"][0], nlohmann::json::parse(folder.Table()));
}

TEST(GuardPageTest, GuardsBesideAnEvaluationAreASectionOfItsPage) {
  GuardTableFolder folder("beside");
  folder.AddSixRows();
  EvaluationFolder evaluation("beside_guard");
  AddFourAnswers(&evaluation);
  const std::string guard = folder.Write(), run = evaluation.Write();
  const std::string out = absl::StrCat(::testing::TempDir(), "/guard_beside_out");
  ASSERT_TRUE(WriteReport({guard, run, guard}, out, {/*redact=*/true}).ok());
  const std::string html = *ReadFile(out + "/report.html");
  EXPECT_THAT(html,
              AllOf(HasSubstr("<title>beside_guard"), HasSubstr("class=\"claim\""),
                    HasSubstr("<a href=\"#guards\">Guards</a><a href=\"#"),
                    HasSubstr("<section id=\"guards\"><h2>Guards</h2>"), Not(HasSubstr("surely"))));
  const auto summary = nlohmann::json::parse(*ReadFile(out + "/summary.json"));
  EXPECT_EQ(summary["guards"].size(), 2u);
  EXPECT_TRUE(summary["arms"].contains("base"));

  const auto without = WorkOut({run});
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_THAT(PageHtml(*without, {}), Not(HasSubstr("#guards")));
  EXPECT_FALSE(nlohmann::json::parse(FindingsJson(*without)).contains("guards"));
}

TEST(GuardPageTest, ABrowserShowsBothWithoutAnError) {
  if (std::system("command -v chromium >/dev/null") != 0) GTEST_SKIP() << "no chromium on the PATH";
  GuardTableFolder folder("browser");
  folder.AddSixRows();
  EvaluationFolder evaluation("browser_guard");
  AddFourAnswers(&evaluation);
  const std::string out = absl::StrCat(::testing::TempDir(), "/guard_browser_out");
  const auto dom = [&](const std::vector<std::string>& folders) {
    EXPECT_TRUE(WriteReport(folders, out, {}).ok());
    const std::string command = absl::StrCat(
        "timeout 60 chromium --headless --no-sandbox --disable-gpu --enable-logging=stderr "
        "--dump-dom --user-data-dir=",
        out, "/profile 'file://", out, "/report.html' 2>", out, "/log >", out, "/dom.html");
    EXPECT_EQ(std::system(command.c_str()), 0);
    EXPECT_THAT(ReadFile(out + "/log").value_or(""), Not(HasSubstr("CONSOLE")));
    return ReadFile(out + "/dom.html").value_or("");
  };
  EXPECT_THAT(dom({folder.Write()}), AllOf(HasSubstr("<h1>Guards</h1>"), HasSubstr("surely")));
  EXPECT_THAT(dom({evaluation.Write(), folder.Write()}),
              AllOf(HasSubstr("data-charts=\"5\""), HasSubstr("surely")));
}

}  // namespace
}  // namespace wideberth::report
