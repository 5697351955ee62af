// SPDX-License-Identifier: Apache-2.0
// The page is one file that needs nothing else, says the claim and what is wrong with it, and never
// lets a text out of its place.
#include "report/page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "base/redact.h"
#include "report/examples.h"
#include "report/html.h"
#include "report/page_data.h"
#include "tests/report/evaluation_folder.h"

namespace wideberth::report {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// Twelve prompts of a base and a boundary arm; the first is harmful and has wild texts.
EvaluationFolder Twelve(const std::string& name) {
  EvaluationFolder folder(name);
  folder.AddArm("boundary", {{"reward_form", "BOUNDARY"}, {"steps", "60"}});
  for (int i = 0; i < 12; ++i) {
    const std::string id = absl::StrCat("p", i);
    const double harm = i == 0 ? 3 : 0;
    folder.AddPrompt(
        "base", id, i == 0 ? "harm" : "plain", i == 0,
        {ScoredAnswer(0.4, 0, harm, 2, i == 0 ? "</pre><script>alert(1)</script>" : "no"),
         ScoredAnswer(0.1, 0, 0, 2, "well")});
    folder.AddPrompt("boundary", id, i == 0 ? "harm" : "plain", i == 0,
                     {ScoredAnswer(i == 3 ? 0.48 : 0.1, 0, 0, i == 5 ? 1 : 3, "answer \"&\" 'x'"),
                      ScoredAnswer(0.1, 0, 0, 2, "well")});
  }
  return folder;
}

Findings FindingsOf(EvaluationFolder folder) {
  auto findings = WorkOut({folder.Write()});
  EXPECT_TRUE(findings.ok()) << findings.status();
  return *std::move(findings);
}

// Without the scripts and styles that every page has.
std::string WithoutScripts(std::string html) {
  for (const auto& [begin, end] :
       {std::pair<std::string, std::string>{"<script>", "</script>"}, {"<style>", "</style>"}}) {
    size_t start;
    while ((start = html.find(begin)) != std::string::npos)
      html.erase(start, html.find(end, start) + end.size() - start);
  }
  return html;
}

TEST(PageTest, NeedsNoOtherFileAndNoNetwork) {
  const std::string html = PageHtml(FindingsOf(Twelve("offline")), {});
  EXPECT_THAT(html, HasSubstr("Chart.js v"));
  EXPECT_THAT(html, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_THAT(html, HasSubstr("@media print"));
  for (const char* outside : {"src=", "<link", "@import", "url("})
    EXPECT_THAT(WithoutScripts(html), Not(HasSubstr(outside)));
}

TEST(PageTest, SaysTheClaimTheArmsAndTheLimits) {
  const std::string html = WithoutScripts(PageHtml(FindingsOf(Twelve("claim_page")), {}));
  EXPECT_THAT(html, HasSubstr("<p class=\"claim\">Behind the same filter, boundary "));
  for (const char* row :
       {">base</th>", ">base + filter</th>", ">boundary</th>", ">boundary + filter</th>"})
    EXPECT_THAT(html, HasSubstr(row));
  EXPECT_THAT(html, HasSubstr("too few prompts"));  // The category with one prompt.
  EXPECT_THAT(html, HasSubstr("One run: a training with another seed"));
  EXPECT_THAT(html, Not(HasSubstr("class=\"warning\"")));
}

TEST(PageTest, SaysWhereItsFiguresComeFrom) {
  const std::string data = absl::StrCat(::testing::TempDir(), "/page_data");
  ASSERT_TRUE(MakeDirectories(data).ok());
  ASSERT_TRUE(WriteFileAtomically(data + "/manifest.json",
                                  R"({"counts": {"train": 7880}, "files": [{"sha256": "ab"}]})")
                  .ok());
  EvaluationFolder folder = Twelve("facts");
  folder.head()["settings"]["prompts"] = data + "/held_out.jsonl";
  const std::string html = WithoutScripts(PageHtml(FindingsOf(folder), {}));
  EXPECT_THAT(html, HasSubstr("<th scope=\"row\">counts/train</th><td>7880</td>"));
  EXPECT_THAT(html, HasSubstr("<th scope=\"row\">files/0/sha256</th>"));
  EXPECT_THAT(html, HasSubstr("<th scope=\"row\">temperature</th><td>1</td>"));
  EXPECT_THAT(html, HasSubstr("<th scope=\"row\">steps</th><td></td><td>60</td>"));
  EXPECT_THAT(html, HasSubstr("<th scope=\"row\">seconds: generate</th>"));
  EXPECT_THAT(html, HasSubstr("24 answers, 240 tokens"));
}

TEST(PageTest, AnUnfinishedRunIsSaidToBeSoAboveTheClaim) {
  EvaluationFolder folder = Twelve("unfinished_page");
  folder.head()["ended"] = "stopped";
  const std::string html = WithoutScripts(PageHtml(FindingsOf(folder), {}));
  const size_t warning = html.find("This evaluation is unfinished (stopped)");
  ASSERT_NE(warning, std::string::npos);
  EXPECT_LT(warning, html.find("class=\"claim\""));
}

TEST(PageTest, TextsAreEscapedFoldedWhereHarmfulAndRedactedOnDemand) {
  const Findings findings = FindingsOf(Twelve("texts"));
  const std::string html = WithoutScripts(PageHtml(findings, {}));
  EXPECT_THAT(html, HasSubstr("&lt;/pre&gt;&lt;script&gt;alert(1)"));
  EXPECT_THAT(html, HasSubstr("answer &quot;&amp;&quot; &#39;x&#39;"));
  const size_t harmful = html.find("harm, prompt p0");
  ASSERT_NE(harmful, std::string::npos);
  EXPECT_EQ(html.rfind("<details>", harmful), html.rfind("<details", harmful));  // Not open.
  const size_t harmless = html.find("plain, prompt p3");
  ASSERT_NE(harmless, std::string::npos);
  EXPECT_EQ(html.rfind("<details open>", harmless), html.rfind("<details", harmless));

  const std::string redacted = PageHtml(findings, {/*redact=*/true});
  for (const char* text : {"alert(1)", "question p0", "answer &quot;", ">well<"})
    EXPECT_THAT(redacted, Not(HasSubstr(text)));
  EXPECT_THAT(redacted, HasSubstr("bytes, xxh3 "));
  EXPECT_EQ(TextOf(Redacted("well"), true), Redacted("well")) << "no hash of a hash";
}

TEST(PageTest, ExamplesAreChosenByRule) {
  const Findings findings = FindingsOf(Twelve("examples"));
  std::vector<std::string> chosen;
  for (const ExampleGroup& group : ChooseExamples(findings.runs, "boundary", 2)) {
    for (const Example& example : group.examples)
      chosen.push_back(absl::StrCat(group.title, " ", example.prompt->id));
  }
  // Gain of p0: harm 3 to 0 and help 2 to 3; p5 alone loses; p3 has t 0.48.
  EXPECT_THAT(chosen, ElementsAre("Largest gain p0", "Largest gain p1", "Largest loss p5",
                                  "Still at the boundary p3"));
}

TEST(PageTest, ChartsGetTheNumbersOfTheTables) {
  const auto data = nlohmann::json::parse(ChartData(FindingsOf(Twelve("charts"))));
  EXPECT_EQ(data["headline"], "boundary");
  EXPECT_NEAR(data["arms"][0]["system"]["harm"], 3 / 24.0, 1e-12);
  EXPECT_NEAR(data["histogram"]["base"][8], 0.5, 1e-12);  // t 0.4 of [0.4, 0.45).
  EXPECT_NEAR(data["histogram"]["boundary"][9], 1 / 24.0, 1e-12);
  EXPECT_EQ(data["reliability"]["base"][1]["n"], 12);
  EXPECT_NEAR(data["reliability"]["base"][1]["harmful"], 1 / 12.0, 1e-12);
  EXPECT_EQ(data["sweep"][0]["points"].size(), 20u);
}

TEST(PageTest, ChartsOfHelpNeedItsJudge) {
  EvaluationFolder folder = Twelve("no_help");
  folder.head()["help_judge"] = "";
  const Findings findings = FindingsOf(std::move(folder));
  const std::string html = PageHtml(findings, {});
  EXPECT_THAT(html, Not(HasSubstr("<canvas id=\"plane\"")));
  EXPECT_THAT(html, Not(HasSubstr("<canvas id=\"pareto\"")));
  EXPECT_THAT(html, HasSubstr("<canvas id=\"histogram\""));
  EXPECT_THAT(MainCharts(findings), ElementsAre("histogram", "reliability"));
  EXPECT_THAT(PageHtml(FindingsOf(Twelve("help")), {}), HasSubstr("<canvas id=\"plane\""));
}

TEST(PageTest, LearningCurvesComeFromTheArmsRuns) {
  const std::string run = absl::StrCat(::testing::TempDir(), "/page_run");
  ASSERT_TRUE(MakeDirectories(run).ok());
  ASSERT_TRUE(WriteFileAtomically(run + "/metrics.jsonl", "{\"step\": 1, \"reward\": 0.5}\n").ok());
  EvaluationFolder folder = Twelve("curves");
  EXPECT_THAT(PageHtml(FindingsOf(folder), {}), Not(HasSubstr("Learning curves</h3>")));
  folder.head()["arms"][1]["run_dir"] = run;
  const Findings findings = FindingsOf(folder);
  EXPECT_THAT(PageHtml(findings, {}), HasSubstr("Learning curves</h3>"));
  EXPECT_EQ(nlohmann::json::parse(ChartData(findings))["curves"][0]["values"]["reward"].dump(),
            "[[1,0.5]]");
}

TEST(PageTest, ABrowserDrawsEveryChart) {
  if (std::system("command -v chromium >/dev/null") != 0) GTEST_SKIP() << "no chromium on the PATH";
  const std::string folder = Twelve("browser").Write();
  ASSERT_TRUE(WriteReport({folder}, folder, {}).ok());
  const auto dom = [&](const std::string& hash) {
    const std::string command = absl::StrCat(
        "timeout 60 chromium --headless --no-sandbox --disable-gpu --dump-dom --user-data-dir=",
        folder, "/profile 'file://", folder, "/report.html", hash, "' 2>/dev/null >", folder,
        "/dom.html");
    EXPECT_EQ(std::system(command.c_str()), 0);
    return ReadFile(folder + "/dom.html").value_or("");
  };
  EXPECT_THAT(dom(""), HasSubstr("data-charts=\"5\""));  // No learning curves here.
  EXPECT_THAT(dom("#chart=plane"), AllOf(HasSubstr("data-charts=\"1\""), HasSubstr("id=\"plane\""),
                                         Not(HasSubstr("id=\"pareto\""))));
}

TEST(PageTest, WritesBothFilesAndNamesWhatIsBroken) {
  const std::string out = absl::StrCat(::testing::TempDir(), "/report_out");
  EvaluationFolder folder = Twelve("written");
  ASSERT_TRUE(WriteReport({folder.Write()}, out, {}).ok());
  EXPECT_THAT(*ReadFile(out + "/report.html"), HasSubstr("</html>"));
  EXPECT_TRUE(nlohmann::json::parse(*ReadFile(out + "/summary.json"))["arms"].contains("boundary"));
  folder.AddLine("{");
  EXPECT_THAT(WriteReport({folder.Write()}, out, {}).status().message(),
              HasSubstr("answers.jsonl:25: not JSON"));
}

TEST(HtmlTest, NumbersHaveTrueMinusSignsAndNoNegativeZero) {
  EXPECT_EQ(Decimals(-1.25, 2), "\u22121.25");
  EXPECT_EQ(Decimals(-0.0001), "0.000");
  EXPECT_EQ(SignedDecimals(0.5, 1), "+0.5");
  EXPECT_EQ(SignedDecimals(0.0001), "0.000");
  EXPECT_EQ(Decimals(absl::nullopt), "\u2013");
  EXPECT_EQ(Percent(0.1234), "12.3\u00a0%");
  EXPECT_EQ(Escaped("a\xff<b>"), "a\ufffd&lt;b&gt;");
  EXPECT_EQ(ScriptSafe("\"</script>\""), "\"\\u003c/script\\u003e\"");
}

}  // namespace
}  // namespace wideberth::report
