// SPDX-License-Identifier: Apache-2.0
#include "report/completions_table.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "report/json_text.h"

namespace wideberth::report {
namespace {

constexpr int kNumberWidth = 9;    // The gap before it included.
constexpr int kSmallestText = 16;  // Of prompt and completion, however many scorers there are.

std::string Cell(const absl::optional<double>& value) {
  if (!value.has_value() || !std::isfinite(*value)) return "-";
  const double size = std::abs(*value);
  if (size < 100) return absl::StrFormat("%.4f", *value);
  return size < 1e5 ? absl::StrFormat("%.1f", *value) : absl::StrFormat("%.1e", *value);
}

std::vector<std::string> ScorersOf(const std::vector<CompletionRow>& rows) {
  std::vector<std::string> names;
  for (const CompletionRow& row : rows) {
    for (const CompletionScore& score : row.scores) {
      if (std::find(names.begin(), names.end(), score.scorer) == names.end())
        names.push_back(score.scorer);
    }
  }
  return names;
}

absl::optional<double> ScoreOf(const CompletionRow& row, const std::string& scorer) {
  for (const CompletionScore& score : row.scores) {
    if (score.scorer == scorer) return score.value;
  }
  return absl::nullopt;
}

}  // namespace

std::string Shortened(absl::string_view text, int width) {
  std::string line;
  for (const char c : text) {
    const bool space = static_cast<unsigned char>(c) <= ' ' || c == 0x7f;
    if (!space) {
      line.push_back(c);
    } else if (!line.empty() && line.back() != ' ') {
      line.push_back(' ');
    }
  }
  if (!line.empty() && line.back() == ' ') line.pop_back();
  if (static_cast<int>(line.size()) <= width) return line;
  size_t end = static_cast<size_t>(std::max(0, width - 2));
  // Not between the bytes of one character.
  while (end > 0 && (static_cast<unsigned char>(line[end]) & 0xc0) == 0x80) --end;
  return line.substr(0, end) + "..";
}

std::string CompletionsTable(const std::vector<CompletionRow>& rows, int width) {
  const std::vector<std::string> scorers = ScorersOf(rows);
  int group_width = 5;
  for (const CompletionRow& row : rows)
    group_width = std::max(group_width, static_cast<int>(absl::StrCat(row.group_id).size()));
  const int numbers = (static_cast<int>(scorers.size()) + 2) * kNumberWidth;
  const int texts = std::max(2 * kSmallestText, width - group_width - 4 - numbers);
  const int prompt_width = texts * 2 / 5, completion_width = texts - prompt_width;

  std::string out;
  const auto text = [&](const std::string& value, int text_width) {
    absl::StrAppend(
        &out, "  ", value,
        std::string(std::max<int>(0, text_width - static_cast<int>(value.size())), ' '));
  };
  const auto number = [&](const std::string& value) {
    absl::StrAppendFormat(&out, "%*s", kNumberWidth, value);
  };
  absl::StrAppendFormat(&out, "%*s", group_width, "group");
  text("prompt", prompt_width);
  text("completion", completion_width);
  for (const std::string& scorer : scorers) number(Shortened(scorer, kNumberWidth - 1));
  number("reward");
  number("advant.");
  out += '\n';
  for (const CompletionRow& row : rows) {
    absl::StrAppendFormat(&out, "%*d", group_width, row.group_id);
    text(Shortened(row.prompt, prompt_width), prompt_width);
    text(Shortened(row.completion, completion_width), completion_width);
    for (const std::string& scorer : scorers) number(Cell(ScoreOf(row, scorer)));
    number(Cell(row.reward));
    number(Cell(row.advantage));
    out += '\n';
  }
  return out;
}

std::string CompletionJson(const CompletionRow& row) {
  using nlohmann::ordered_json;
  ordered_json json = {{"step", row.step},
                       {"group_id", row.group_id},
                       {"index", row.index},
                       {"prompt_id", row.prompt_id},
                       {"prompt", row.prompt},
                       {"completion", row.completion},
                       {"finish_reason", row.finish_reason},
                       {"num_tokens", row.num_tokens}};
  json["scores"] = ordered_json::object();
  for (const CompletionScore& score : row.scores) {
    ordered_json& of_scorer = json["scores"][score.scorer];
    of_scorer["status"] = score.status;
    of_scorer["value"] = score.value.has_value() ? ordered_json(*score.value) : ordered_json();
  }
  json["reward"] = row.reward.has_value() ? ordered_json(*row.reward) : ordered_json();
  json["advantage"] = row.advantage;
  return JsonText(json);
}

}  // namespace wideberth::report
