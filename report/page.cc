// SPDX-License-Identifier: Apache-2.0
#include "report/page.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "report/claims.h"
#include "report/examples.h"
#include "report/guard_page.h"
#include "report/html.h"
#include "report/page_data.h"
#include "report/page_facts.h"
#include "report/page_files.h"
#include "report/page_tables.h"

namespace wideberth::report {
namespace {

constexpr int kExamplesEach = 3;

std::string Section(absl::string_view id, absl::string_view title, absl::string_view content) {
  if (content.empty()) return "";
  return absl::StrCat("<section id=\"", id, "\"><h2>", title, "</h2>\n", content, "</section>\n");
}

// A canvas with its words; `numbers`: the table that says the same.
std::string Chart(absl::string_view name, absl::string_view caption, absl::string_view numbers) {
  return absl::StrCat("<figure id=\"figure-", name, "\"><div class=\"plot\"><canvas id=\"", name,
                      "\" role=\"img\" aria-label=\"", Escaped(caption),
                      "\"></canvas></div>\n<figcaption>", Escaped(caption), "</figcaption>\n",
                      numbers.empty() ? "" : Folded("The numbers of this chart", numbers),
                      "</figure>\n");
}

struct Curve {
  const char* metric;
  const char* title;
};
constexpr Curve kCurves[] = {{"reward", "Reward"},
                             {"u_mean", "Mean u"},
                             {"t_mean", "Mean t"},
                             {"boundary_mass", "Share of t within 0.1 of 0.5"},
                             {"kl", "KL to the base, per token"},
                             {"completions-mean_length", "Length, tokens"}};

bool HasCurves(const Findings& findings) {
  for (const auto& run : findings.runs) {
    for (const SystemArm& arm : run->arms) {
      if (!arm.arm->run_dir.empty() && !ReadLearningCurve(arm.arm->run_dir).empty()) return true;
    }
  }
  return false;
}

bool IsHelpJudged(const Findings& findings) {
  return std::any_of(findings.arms.begin(), findings.arms.end(), [](const ArmFigures& arm) {
    const Figure* const help = arm.Find("help");
    return help != nullptr && help->value.has_value();
  });
}

std::string HelpCharts(const Findings& findings) {
  if (!IsHelpJudged(findings)) return "";
  return absl::StrCat(
      Chart(
          "plane",
          "Harm and help of every arm: alone (hollow) and with the filter (filled, with intervals "
          "where one run is shown); dashed arrows: what the filter does; the bold arrow: what "
          "training does behind the filter.",
          ""),
      Chart("pareto",
            "Harm and help with filter as the threshold moves from 0.05 to none. Large filled "
            "points are on the Pareto front of all arms.",
            SweepTable(findings)));
}

std::string Charts(const Findings& findings) {
  const std::string headline = HeadlineArm(findings.runs);
  const std::string after = headline.empty() ? "" : absl::StrCat(" and of ", headline, " (after)");
  std::string html = "<div class=\"figures\">\n";
  absl::StrAppend(
      &html, HelpCharts(findings),
      Chart("histogram", absl::StrCat("The guard's t of the base's answers (before)", after, "."),
            HistogramTable(findings)),
      Chart("histogram-near", "The same around the filter's threshold, where it errs most.", ""),
      Chart("reliability",
            "Is the guard right? Mean t of a bin against the share of its answers that the judge "
            "calls harmful; larger points hold more answers.",
            ReliabilityTable(findings)),
      "</div>\n");
  if (!HasCurves(findings)) return html;
  absl::StrAppend(
      &html,
      "<h3>Learning curves</h3>\n<p class=\"soft\">From the training rollouts; every step "
      "has other prompts, so compare arms over a row of steps.</p>\n<ul class=\"legend\" "
      "id=\"curve-legend\"></ul>\n"
      "<div class=\"small figures\">\n");
  for (const Curve& curve : kCurves)
    absl::StrAppend(&html, Chart(absl::StrCat("curve-", curve.metric), curve.title, ""));
  absl::StrAppend(&html, "</div>\n");
  return html;
}

std::string Scores(const SystemAnswer& answer) {
  std::string text =
      absl::StrCat("t ", Decimals(answer.t, 2), ", u ", Decimals(answer.u, 2), ", harm ",
                   Decimals(answer.harm, 1), ", help ", Decimals(answer.help, 1));
  if (answer.blocked.has_value()) absl::StrAppend(&text, *answer.blocked ? ", blocked" : ", shown");
  return text;
}

std::string ExampleHtml(const Example& example, const std::string& arm, bool redact) {
  const EvaluatedPrompt& prompt = *example.prompt;
  const std::string what = absl::StrCat(
      prompt.category.empty() ? "" : absl::StrCat(prompt.category, ", "), "prompt ", prompt.id,
      ": base ", Scores(*example.base_figures), "; ", arm, " ", Scores(*example.arm_figures));
  return absl::StrCat(
      "<details", example.sensitive ? "" : " open", "><summary>", Escaped(what),
      example.sensitive ? " <span class=\"soft\">(folded: may be harmful)</span>" : "",
      "</summary>\n<pre class=\"prompt\">", TextOf(prompt.prompt, redact),
      "</pre>\n<div class=\"texts\"><div><strong>base</strong><pre>",
      TextOf(example.base_answer->text, redact), "</pre></div><div><strong>", Escaped(arm),
      "</strong><pre>", TextOf(example.arm_answer->text, redact), "</pre></div></div></details>\n");
}

std::string Examples(const Findings& findings, bool redact) {
  const std::string arm = HeadlineArm(findings.runs);
  std::string html;
  for (const ExampleGroup& group : ChooseExamples(findings.runs, arm, kExamplesEach)) {
    absl::StrAppend(&html, "<h3>", Escaped(group.title),
                    "</h3>\n<p class=\"soft\">Chosen by rule: ", Escaped(group.rule),
                    "; at most one answer a prompt.</p>\n");
    for (const Example& example : group.examples)
      absl::StrAppend(&html, ExampleHtml(example, arm, redact));
  }
  return html;
}

std::string Head(const Findings& findings) {
  const std::vector<std::string> claims = ClaimSentences(findings.runs, findings.differences);
  std::string html = absl::StrCat(
      "<header>\n<h1>", Escaped(findings.runs.front()->evaluation.Label()),
      findings.runs.size() > 1 ? absl::StrCat(" and ", findings.runs.size() - 1, " more") : "",
      "</h1>\n<p class=\"soft\">Evaluation of ", findings.arms.size(),
      findings.arms.size() == 1 ? " arm" : " arms",
      findings.runs.front()->evaluation.created.empty()
          ? ""
          : absl::StrCat(", ", Escaped(findings.runs.front()->evaluation.created)),
      "</p>\n");
  if (const auto warnings = WarningSentences(findings.runs); !warnings.empty())
    absl::StrAppend(&html, "<div class=\"warning\" role=\"alert\">", Paragraphs(warnings),
                    "</div>\n");
  absl::StrAppend(&html, "<p class=\"claim\">", Escaped(claims.front()), "</p>\n<ul>\n",
                  Paragraphs({claims.begin() + 1, claims.end()}, "li"),
                  findings.attributions.empty()
                      ? ""
                      : Paragraphs({AttributionConclusion(findings.attributions)}, "li"),
                  "</ul>\n<p class=\"soft\">", Escaped(SampleSentence(findings.runs)),
                  "</p>\n</header>\n");
  return html;
}

std::string AttributionSection(const Findings& findings) {
  if (findings.attributions.empty()) return "";
  return absl::StrCat(
      Paragraphs({AttributionConclusion(findings.attributions)}), AttributionTable(findings),
      Folded("The same in sentences",
             absl::StrCat("<ul>\n", Paragraphs(AttributionSentences(findings.attributions), "li"),
                          "</ul>\n")),
      Folded("All differences between the boundary arms and their controls",
             ControlsTable(findings)));
}

std::string Slices(const Findings& findings) {
  const std::string arm = HeadlineArm(findings.runs);
  std::string html;
  for (const char* kind : {"category", "source"}) {
    absl::StrAppend(&html, SlicesTable(findings, kind, arm));
    if (findings.arms.size() > 2)
      absl::StrAppend(&html, Folded("All arms", SlicesTable(findings, kind, "")));
  }
  return html;
}

std::string Navigation(const std::string& body) {
  constexpr std::pair<const char*, const char*> kPlaces[] = {
      {"arms", "Arms"},         {"boundary", "Boundary term"},
      {"charts", "Charts"},     {"differences", "Differences"},
      {"slices", "Categories"}, {"filters", "Filters"},
      {"guards", "Guards"},     {"runs", "Runs"},
      {"examples", "Examples"}, {"settings", "Settings"},
      {"data", "Data"},         {"costs", "Costs"},
      {"limits", "Limits"}};
  std::string html = "<nav aria-label=\"Sections\">";
  for (const auto& [id, title] : kPlaces) {
    if (absl::StrContains(body, absl::StrCat("<section id=\"", id, "\">")))
      absl::StrAppend(&html, "<a href=\"#", id, "\">", title, "</a>");
  }
  return absl::StrCat(html, "</nav>\n");
}

std::string Body(const Findings& findings, const PageOptions& options) {
  return absl::StrCat(
      Section("arms", "The arms",
              absl::StrCat(FourArmsTable(findings),
                           Folded("All metrics of all arms", AllArmsTable(findings)))),
      Section("boundary", "What the boundary term explains", AttributionSection(findings)),
      Section("charts", "Charts", Charts(findings)),
      Section(
          "differences", "Differences against the base",
          absl::StrCat(
              DifferencesTable(findings, HeadlineArm(findings.runs)),
              findings.arms.size() > 2 ? Folded("All arms", DifferencesTable(findings, "")) : "")),
      Section("slices", "By category and source",
              absl::StrCat(Slices(findings), WordingsTable(findings))),
      Section("filters", "Other filters",
              absl::StrCat(FiltersTable(findings), LambdaTable(findings))),
      Section("guards", "Guards", GuardsHtml(findings.guards, options.redact)),
      Section("runs", "Run by run", RunsTable(findings)),
      Section("examples", "Examples", Examples(findings, options.redact)),
      Section("settings", "Settings",
              absl::StrCat(TrainingTable(findings), SettingsTable(findings))),
      Section("data", "Data", ManifestTable(findings)),
      Section("costs", "Costs", CostsTable(findings)),
      Section("limits", "What this does not say",
              absl::StrCat("<ul>\n", Paragraphs(LimitSentences(findings.runs), "li"), "</ul>\n")));
}

std::string Document(absl::string_view title, absl::string_view head, const std::string& body,
                     absl::string_view scripts) {
  return absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
      Escaped(title), " \u2013 Wideberth</title>\n<style>\n", kPageCss,
      "</style>\n</head>\n<body>\n", head, Navigation(body), "<main>\n", body, "</main>\n", scripts,
      "</body>\n</html>\n");
}

}  // namespace

std::vector<std::string> MainCharts(const Findings& findings) {
  std::vector<std::string> names = {"histogram", "reliability"};
  if (IsHelpJudged(findings)) names.insert(names.begin(), {"plane", "pareto"});
  return names;
}

std::string PageHtml(const Findings& findings, const PageOptions& options) {
  if (findings.runs.empty()) {
    const std::string body =
        Section("guards", "On labelled sets", GuardsHtml(findings.guards, options.redact));
    return Document("Guards", "<header>\n<h1>Guards</h1>\n</header>\n", body, "");
  }
  return Document(findings.runs.front()->evaluation.Label(), Head(findings),
                  Body(findings, options),
                  absl::StrCat("<script type=\"application/json\" id=\"chart-data\">",
                               ScriptSafe(ChartData(findings)), "</script>\n<script>\n", kChartJs,
                               "\n</script>\n<script>\n", kPageJs, "</script>\n"));
}

absl::StatusOr<Findings> WriteReport(const std::vector<std::string>& folders,
                                     const std::string& out, const PageOptions& options) {
  WB_ASSIGN_OR_RETURN(Findings findings, WorkOut(folders));
  WB_RETURN_IF_ERROR(MakeDirectories(out));
  WB_RETURN_IF_ERROR(
      WriteFileAtomically(absl::StrCat(out, "/summary.json"), FindingsJson(findings)));
  WB_RETURN_IF_ERROR(
      WriteFileAtomically(absl::StrCat(out, "/report.html"), PageHtml(findings, options)));
  return findings;
}

}  // namespace wideberth::report
