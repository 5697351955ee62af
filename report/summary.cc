// SPDX-License-Identifier: Apache-2.0
#include "report/summary.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "report/json_text.h"
#include "report/statistics.h"

namespace wideberth::report {
namespace {

using nlohmann::ordered_json;
using Value = std::function<absl::optional<double>(const Answer&)>;

absl::optional<double> MeanOf(const std::vector<Answer>& answers, const Value& value) {
  double sum = 0;
  int64_t n = 0;
  for (const Answer& answer : answers) {
    if (const absl::optional<double> v = value(answer); v.has_value()) {
      sum += *v;
      ++n;
    }
  }
  if (n == 0) return absl::nullopt;
  return sum / static_cast<double>(n);
}

absl::optional<double> MeanOverAll(const std::vector<PromptPair>& pairs,
                                   std::vector<Answer> PromptPair::*side, const Value& value) {
  std::vector<Answer> all;
  for (const PromptPair& pair : pairs)
    all.insert(all.end(), (pair.*side).begin(), (pair.*side).end());
  return MeanOf(all, value);
}

struct Quantity {
  const char* key;
  const char* label;
  Value value;
};

std::vector<Quantity> Quantities() {
  const auto boundary = [](const Answer& a) {
    return a.t.has_value() ? absl::optional<double>(std::abs(*a.t - 0.5) < 0.1 ? 1.0 : 0.0)
                           : absl::nullopt;
  };
  return {
      {"reward_mean", "mean reward", [](const Answer& a) { return a.reward; }},
      {"u_mean", "mean u (utility)", [](const Answer& a) { return a.u; }},
      {"t_mean", "mean t (guard)", [](const Answer& a) { return a.t; }},
      {"boundary_mass", "share of t within 0.1 of 0.5", boundary},
      {"kl_to_base", "KL to the base, nats per token", [](const Answer& a) { return a.kl; }},
      {"length_mean", "length, tokens",
       [](const Answer& a) { return absl::optional<double>(static_cast<double>(a.num_tokens)); }},
      {"cut_off", "share cut off by length",
       [](const Answer& a) { return absl::optional<double>(a.stopped ? 0.0 : 1.0); }},
      {"unscored", "share not scored",
       [](const Answer& a) {
         return absl::optional<double>(a.t.has_value() && a.u.has_value() ? 0.0 : 1.0);
       }},
  };
}

ordered_json AnswerJson(const Answer& answer) {
  return {{"text", answer.text},          {"tokens", answer.num_tokens},
          {"stopped", answer.stopped},    {"u", NumberOrNull(answer.u)},
          {"t", NumberOrNull(answer.t)},  {"reward", NumberOrNull(answer.reward)},
          {"kl", NumberOrNull(answer.kl)}};
}

ordered_json AnswersJson(const std::vector<Answer>& answers) {
  ordered_json list = ordered_json::array();
  for (const Answer& answer : answers) list.push_back(AnswerJson(answer));
  return list;
}

ordered_json EvaluationJson(const Summary& summary) {
  ordered_json rows = ordered_json::object();
  for (const Row& row : CompareBeforeAfter(summary)) {
    ordered_json entry = {{"before", NumberOrNull(row.before)}, {"after", NumberOrNull(row.after)}};
    if (row.difference.has_value()) {
      entry["difference"] = {{"mean", row.difference->mean},
                             {"interval_95", {row.difference->low, row.difference->high}},
                             {"num_prompts", row.difference->num_prompts}};
    }
    rows[row.key] = entry;
  }
  ordered_json prompts = ordered_json::array();
  for (const PromptPair& pair : summary.evaluation) {
    prompts.push_back({{"id", pair.prompt_id},
                       {"prompt", pair.prompt},
                       {"before", AnswersJson(pair.before)},
                       {"after", AnswersJson(pair.after)}});
  }
  return {{"num_prompts", summary.evaluation.size()}, {"comparison", rows}, {"prompts", prompts}};
}

// Breaks `text` at spaces into lines of at most `width` columns (bytes; a longer word stands
// alone), at most `max_lines`.
std::vector<std::string> Wrap(absl::string_view text, size_t width, size_t max_lines) {
  std::vector<std::string> lines(1);
  for (absl::string_view word :
       absl::StrSplit(text, absl::ByAnyChar(" \n\t\r"), absl::SkipEmpty())) {
    if (!lines.back().empty() && lines.back().size() + 1 + word.size() > width) {
      if (lines.size() == max_lines) {
        absl::StrAppend(&lines.back(), " ...");
        return lines;
      }
      lines.emplace_back();
    }
    absl::StrAppend(&lines.back(), lines.back().empty() ? "" : " ", word);
  }
  return lines;
}

void AppendAnswer(const char* label, const std::vector<Answer>& answers, std::string* out) {
  if (answers.empty()) return;
  const Answer& answer = answers.front();
  const auto show = [](const absl::optional<double>& v) {
    return v.has_value() ? absl::StrFormat("%.3f", *v) : std::string("-");
  };
  absl::StrAppendFormat(out, "  %-6s t %s  u %s\n", label, show(answer.t), show(answer.u));
  for (const std::string& line : Wrap(answer.text, 86, 4))
    absl::StrAppend(out, "         ", line, "\n");
}

// Four decimals, or as many digits where four would show nothing (a KL of 2e-5).
std::string Decimals(double value, bool sign) {
  const bool tiny = value != 0 && std::abs(value) < 1e-3;
  if (sign) return tiny ? absl::StrFormat("%+.1e", value) : absl::StrFormat("%+.4f", value);
  return tiny ? absl::StrFormat("%.1e", value) : absl::StrFormat("%.4f", value);
}

std::string Cell(const absl::optional<double>& value) {
  return value.has_value() ? Decimals(*value, false) : "-";
}

std::string DifferenceCell(const absl::optional<Difference>& difference) {
  if (!difference.has_value()) return "-";
  return absl::StrCat(Decimals(difference->mean, true), " [", Decimals(difference->low, true), ", ",
                      Decimals(difference->high, true), "]");
}

}  // namespace

absl::optional<Difference> PairedDifference(const std::vector<PromptPair>& pairs,
                                            const Value& value, uint64_t seed) {
  std::vector<double> differences;
  for (const PromptPair& pair : pairs) {
    const absl::optional<double> before = MeanOf(pair.before, value);
    const absl::optional<double> after = MeanOf(pair.after, value);
    if (before.has_value() && after.has_value()) differences.push_back(*after - *before);
  }
  if (differences.empty()) return absl::nullopt;
  Difference result;
  result.num_prompts = static_cast<int64_t>(differences.size());
  for (double d : differences) result.mean += d / static_cast<double>(differences.size());
  const Interval interval = *BootstrapMean({std::move(differences)}, seed);
  result.low = interval.low;
  result.high = interval.high;
  return result;
}

std::vector<Row> CompareBeforeAfter(const Summary& summary) {
  std::vector<Row> rows;
  for (const Quantity& quantity : Quantities()) {
    Row row{quantity.key, quantity.label,
            MeanOverAll(summary.evaluation, &PromptPair::before, quantity.value),
            MeanOverAll(summary.evaluation, &PromptPair::after, quantity.value),
            PairedDifference(summary.evaluation, quantity.value, summary.seed)};
    if (row.before.has_value() || row.after.has_value()) rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<const PromptPair*> Examples(const Summary& summary) {
  std::vector<const PromptPair*> pairs;
  for (const PromptPair& pair : summary.evaluation) {
    if (!pair.before.empty()) pairs.push_back(&pair);
  }
  const auto change = [](const PromptPair* pair) {
    if (pair->after.empty() || pair->before.front().text == pair->after.front().text) return -1.0;
    const absl::optional<double> before = pair->before.front().t, after = pair->after.front().t;
    return before.has_value() && after.has_value() ? std::abs(*after - *before) : 0.0;
  };
  std::stable_sort(pairs.begin(), pairs.end(),
                   [&](const PromptPair* a, const PromptPair* b) { return change(a) > change(b); });
  if (pairs.size() > static_cast<size_t>(summary.num_examples)) pairs.resize(summary.num_examples);
  return pairs;
}

std::string SummaryJson(const Summary& summary) {
  ordered_json json = {
      {"name", summary.name},
      {"run_id", summary.run_id},
      {"run_dir", summary.run_dir},
      {"ended", summary.ended},
      {"message", summary.message},
      {"steps", summary.steps},
      {"max_steps", summary.max_steps},
      {"policy_version", summary.policy_version},
      {"seconds", summary.seconds},
      {"training_seconds", summary.training_seconds},
      {"adapter", {{"path", summary.adapter_path}, {"fingerprint", summary.adapter_fingerprint}}},
      {"base", {{"path", summary.base_model}, {"fingerprint", summary.base_fingerprint}}}};
  for (const auto& [key, value] : summary.settings) json["settings"][key] = value;
  for (const auto& [key, value] : summary.totals) json["totals"][key] = NumberOrNull(value);
  if (!summary.evaluation.empty()) json["evaluation"] = EvaluationJson(summary);
  // Completions may hold bytes that are no character; they become U+FFFD.
  return JsonText(json, 2) + "\n";
}

std::string SummaryTable(const Summary& summary) {
  std::string out = absl::StrFormat("%s: %s after %d of %d steps, policy version %d, %.0f s\n",
                                    summary.name, summary.ended, summary.steps, summary.max_steps,
                                    summary.policy_version, summary.seconds);
  if (!summary.message.empty()) absl::StrAppend(&out, summary.message, "\n");
  if (!summary.evaluation.empty()) {
    size_t num_answers = 0;
    for (const PromptPair& pair : summary.evaluation) num_answers += pair.before.size();
    absl::StrAppendFormat(&out,
                          "\n%d held-out prompts, %d answers each side, same seeds;\n"
                          "differences with 95 %% intervals (paired bootstrap over prompts)\n\n",
                          summary.evaluation.size(), num_answers);
    absl::StrAppendFormat(&out, "  %-32s %10s %10s   %s\n", "", "before", "after", "difference");
    for (const Row& row : CompareBeforeAfter(summary)) {
      absl::StrAppendFormat(&out, "  %-32s %10s %10s   %s\n", row.label, Cell(row.before),
                            Cell(row.after), DifferenceCell(row.difference));
    }
    for (const PromptPair* pair : Examples(summary)) {
      absl::StrAppend(&out, "\n");
      for (const std::string& line : Wrap(pair->prompt, 95, 2))
        absl::StrAppend(&out, "> ", line, "\n");
      AppendAnswer("before", pair->before, &out);
      AppendAnswer("after", pair->after, &out);
    }
  }
  if (!summary.adapter_path.empty())
    absl::StrAppend(&out, "\nadapter: ", summary.adapter_path, "\n");
  return out;
}

}  // namespace wideberth::report
