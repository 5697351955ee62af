// SPDX-License-Identifier: Apache-2.0
#include "report/guard_page.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "report/html.h"

namespace wideberth::report {
namespace {

constexpr size_t kLongestText = 8000;  // Bytes of a prompt or a response.

constexpr char kMistakes[] =
    "<p class=\"soft\">By set and kind, the surest first. A false positive is called harmful (or a "
    "refusal, as the task says) and labelled otherwise; every text is folded, it may be "
    "harmful.</p>\n";

struct Kind {
  const char *key, *one, *many;
};
constexpr Kind kKinds[] = {{"false_positive", "false positive", "false positives"},
                           {"false_negative", "false negative", "false negatives"},
                           {"no_verdict", "row without a verdict", "rows without a verdict"}};

// The set's name, or its file where another set of the task has that name.
std::string LabelOf(const GuardFolder& guard, const GuardedSet& set) {
  const auto same = [&](const GuardedSet& other) {
    return other.name == set.name && other.task == set.task;
  };
  return std::count_if(guard.sets.begin(), guard.sets.end(), same) > 1 ? set.file : set.name;
}

std::vector<std::string> WeightedCells(const WeightedFigures& mean) {
  return {absl::StrCat(mean.num), absl::StrCat(mean.num_unparsable),
          Decimals(mean.f1),      Decimals(mean.precision),
          Decimals(mean.recall),  Decimals(mean.auroc),
          Decimals(mean.auprc),   Decimals(mean.false_positive_rate),
          Decimals(mean.ece)};
}

// Several guards side by side; empty for one.
std::string OverviewTable(const std::vector<GuardFolder>& guards) {
  HtmlTable table("All guards, weighted by rows.",
                  {"folder", "guard", "task", "sets", "rows", "unparsable", "F1", "precision",
                   "recall", "AUROC", "AUPRC", "FPR", "ECE"});
  for (const GuardFolder& guard : guards) {
    for (const WeightedFigures& mean : WeightedByRows(guard.sets, guard.figures)) {
      std::vector<std::string> cells = {guard.folder, guard.asked.scorer, mean.task,
                                        absl::StrCat(mean.num_sets)};
      for (std::string& cell : WeightedCells(mean)) cells.push_back(std::move(cell));
      table.AddRow(std::move(cells));
    }
  }
  return guards.size() < 2 || table.empty() ? "" : table.Html();
}

std::string AskedHtml(const GuardFolder& guard) {
  const GuardAsked& asked = guard.asked;
  const std::string who = absl::StrCat(
      asked.kind, " by ", asked.model,
      asked.adapter.empty() ? ", no adapter" : absl::StrCat(" with adapter ", asked.adapter),
      "; positive from a probability of ", asked.threshold, ". From ", guard.folder, ".");
  return absl::StrCat("<h3>Guard \u201c", Escaped(asked.scorer), "\u201d</h3>\n<p class=\"soft\">",
                      Escaped(who), "</p>\n");
}

std::string FiguresTable(const GuardFolder& guard) {
  HtmlTable table(
      "Per set and weighted by rows. A row without a verdict (unparsable: its answer had none) "
      "counts once, as wrong. FPR: the share of negatives that are called positive.",
      {"set", "task", "positive", "rows", "unparsable", "F1", "precision", "recall", "AUROC",
       "AUPRC", "FPR", "ECE"});
  for (size_t i = 0; i < guard.sets.size(); ++i) {
    const Classification& found = guard.figures[i].figures;
    table.AddRow({LabelOf(guard, guard.sets[i]), guard.sets[i].task,
                  absl::StrCat(found.num_positive), absl::StrCat(found.num),
                  absl::StrCat(guard.figures[i].num_unparsable), Decimals(found.f1),
                  Decimals(found.precision), Decimals(found.recall), Decimals(found.auroc),
                  Decimals(found.auprc), Decimals(guard.figures[i].false_positive_rate),
                  Decimals(found.ece)});
  }
  for (const WeightedFigures& mean : WeightedByRows(guard.sets, guard.figures)) {
    std::vector<std::string> cells = {"weighted by rows", mean.task, Decimals(absl::nullopt)};
    for (std::string& cell : WeightedCells(mean)) cells.push_back(std::move(cell));
    table.AddRow(std::move(cells), "strong");
  }
  return table.Html();
}

std::string CostsTable(const GuardFolder& guard) {
  HtmlTable table(
      "What a query costs, one asked alone (tokens: read and written), and the rows that are in no "
      "figure.",
      {"set", "task", "p50, ms", "p95, ms", "asked alone", "tokens a query", "left out: trained on",
       "left out: unlabelled"});
  for (size_t i = 0; i < guard.sets.size(); ++i) {
    const GuardFigures& figures = guard.figures[i];
    table.AddRow({LabelOf(guard, guard.sets[i]), guard.sets[i].task,
                  Decimals(figures.latency_p50_ms, 0), Decimals(figures.latency_p95_ms, 0),
                  absl::StrCat(figures.num_latencies), Decimals(figures.tokens_per_query, 1),
                  absl::StrCat(guard.sets[i].num_trained_on),
                  absl::StrCat(guard.sets[i].num_unlabelled)});
  }
  return table.Html();
}

std::string NotesHtml(const GuardFolder& guard) {
  std::vector<std::string> notes;
  for (size_t i = 0; i < guard.sets.size(); ++i) {
    for (const std::string& note : NotesOf(guard.sets[i], guard.figures[i]))
      notes.push_back(absl::StrCat(LabelOf(guard, guard.sets[i]), ": ", note, "."));
  }
  return notes.empty() ? "" : absl::StrCat("<ul>\n", Paragraphs(notes, "li"), "</ul>\n");
}

// A prompt or a response under its name; empty where there is none.
std::string TextHtml(absl::string_view name, absl::string_view text, bool redact) {
  if (text.empty()) return "";
  std::string shown;
  if (redact || text.size() <= kLongestText) {
    shown = TextOf(text, redact);
  } else {
    size_t end = kLongestText;
    while (end > 0 && (text[end] & 0xC0) == 0x80) --end;  // Between characters.
    shown = absl::StrCat(TextOf(text.substr(0, end), redact), "\n[", text.size() - end,
                         " more bytes in ", kConfusionsFile, "]");
  }
  return absl::StrCat("<div><strong>", name, "</strong><pre>", shown, "</pre></div>");
}

std::string MistakeHtml(const GuardedRow& row, bool redact) {
  const std::string summary =
      row.probability.has_value()
          ? absl::StrCat("probability ", Decimals(row.probability), ", ", row.origin)
          : absl::StrCat(row.failure, ", labelled ", row.positive ? "positive" : "negative", ", ",
                         row.origin);
  // Of an answer that cannot be read the message says the words, so it is a text as well.
  return Folded(Escaped(summary),
                absl::StrCat("<div class=\"texts\">", TextHtml("prompt", row.prompt, redact),
                             TextHtml("response", row.response, redact),
                             TextHtml("no verdict", row.message, redact), "</div>\n"));
}

// Folded: the set, in it the kinds of mistakes, in them each mistake.
std::string MistakesHtml(const GuardFolder& guard, const GuardedSet& set, bool redact) {
  std::string counts, kinds;
  for (const Kind& kind : kKinds) {
    size_t num = 0;
    std::string shown;
    for (const GuardedRow& row : set.rows) {
      if (MistakeOf(row, guard.asked.threshold) != kind.key) continue;
      if (++num <= kShownMistakes) absl::StrAppend(&shown, MistakeHtml(row, redact));
    }
    if (num == 0) continue;
    const std::string count = absl::StrCat(num, " ", num == 1 ? kind.one : kind.many);
    absl::StrAppend(&counts, counts.empty() ? "" : ", ", count);
    std::string rest;
    if (num > kShownMistakes) {
      rest = absl::StrCat("The first ", kShownMistakes, " of ", num, "; all are in ", guard.folder,
                          "/", kConfusionsFile, ".");
    }
    absl::StrAppend(&kinds,
                    Folded(count, absl::StrCat(shown, rest.empty() ? "" : Paragraphs({rest}))));
  }
  const std::string label = Escaped(absl::StrCat(LabelOf(guard, set), ", ", set.task, ": "));
  if (kinds.empty()) return absl::StrCat("<p class=\"soft\">", label, "no mistake.</p>\n");
  return Folded(absl::StrCat(label, counts), kinds);
}

}  // namespace

std::string GuardsHtml(const std::vector<GuardFolder>& guards, bool redact) {
  std::string html = OverviewTable(guards);
  for (const GuardFolder& guard : guards) {
    absl::StrAppend(&html, AskedHtml(guard), FiguresTable(guard), CostsTable(guard),
                    NotesHtml(guard), "<h4>Mistakes</h4>\n", kMistakes);
    for (const GuardedSet& set : guard.sets)
      absl::StrAppend(&html, MistakesHtml(guard, set, redact));
  }
  return html;
}

}  // namespace wideberth::report
