// SPDX-License-Identifier: Apache-2.0
#include "learner/hard_samples.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"

namespace wideberth::learner {
namespace {

using nlohmann::json;

constexpr absl::string_view kMarks = " \t\r*_#>-`";

absl::Status Bad(absl::string_view origin, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(origin, ": ", what));
}

absl::string_view WithoutMarks(absl::string_view text) {
  return text.substr(std::min(text.find_first_not_of(kMarks), text.size()));
}

const std::string* Longest(const std::vector<const std::string*>& texts) {
  // The first of the longest.
  return *std::max_element(texts.begin(), texts.end(),
                           [](const auto* a, const auto* b) { return a->size() < b->size(); });
}

void SetWeights(double gamma, std::vector<HardSample>* samples) {
  const auto x = [](const HardSample& sample) { return sample.num_wrong - sample.num_right; };
  const auto [low, high] = std::minmax_element(
      samples->begin(), samples->end(), [&](const auto& a, const auto& b) { return x(a) < x(b); });
  if (low == samples->end() || x(*low) == x(*high)) return;
  const auto min = static_cast<double>(x(*low)), range = static_cast<double>(x(*high)) - min;
  for (HardSample& sample : *samples)
    sample.weight = 1 + gamma * (2 * (static_cast<double>(x(sample)) - min) / range - 1);
}

}  // namespace

absl::StatusOr<std::vector<SampledItem>> SampledItems(const std::vector<JournalGroup>& groups,
                                                      const PromptSet& prompts) {
  std::vector<SampledItem> items;
  std::map<std::string, size_t> place;
  for (const JournalGroup& group : groups) {
    if (group.phase != Phase::kTrain || group.disposition != Disposition::kUse) continue;
    const PromptRecord& record = prompts.Train(group.request.group_id());
    if (record.prompt.id() != group.prompt_id) {
      return absl::FailedPreconditionError(
          absl::StrCat(record.origin, ": the prompt of group ", group.request.group_id(), " is \"",
                       record.prompt.id(), "\", the journal has \"", group.prompt_id,
                       "\"; expected the prompts that the run had"));
    }
    const auto [it, inserted] = place.emplace(group.prompt_id, items.size());
    if (inserted) items.push_back({record.prompt, {}});
    for (const proto::Completion& completion : group.request.completion()) {
      items[it->second].answers.push_back(
          {completion.text(), completion.finish_reason() == proto::LENGTH});
    }
  }
  return items;
}

absl::StatusOr<std::map<std::string, std::string>> ReadLabels(const std::string& path) {
  WB_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  std::map<std::string, std::string> labels;
  int line_number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    const std::string origin = absl::StrCat(path, ":", line_number);
    const json row = json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
    if (!row.is_object())
      return Bad(origin, "not a JSON object, expected {\"id\": ..., \"label\": \"...\"}");
    if (!row.contains("id") || !(row["id"].is_string() || row["id"].is_number_integer()))
      return Bad(origin, "\"id\" must be there, a text or a whole number");
    if (!row.contains("label") || !row["label"].is_string() ||
        row["label"].get<std::string>().empty())
      return Bad(origin, "\"label\" must be there, the word of a right verdict");
    const std::string id = row["id"].is_string() ? row["id"].get<std::string>() : row["id"].dump();
    if (!labels.emplace(id, absl::AsciiStrToLower(row["label"].get<std::string>())).second)
      return Bad(origin, absl::StrCat("id \"", id, "\" comes twice"));
  }
  if (labels.empty()) return Bad(path, "has no row, expected {\"id\": ..., \"label\": \"...\"}");
  return labels;
}

absl::optional<std::string> ReadVerdict(const SampledAnswer& answer, absl::string_view prefix) {
  const std::vector<absl::string_view> lines = absl::StrSplit(answer.text, '\n');
  for (size_t i = lines.size(); i-- > 0;) {
    const absl::string_view line = WithoutMarks(lines[i]);
    if (!absl::StartsWithIgnoreCase(line, prefix)) continue;
    if (answer.truncated && i + 1 == lines.size()) return absl::nullopt;
    const absl::string_view rest = WithoutMarks(line.substr(prefix.size()));
    const auto end = std::find_if_not(rest.begin(), rest.end(), [](char c) {
      return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
    });
    const std::string word = absl::AsciiStrToLower(rest.substr(0, end - rest.begin()));
    if (word.empty()) return absl::nullopt;
    return word;
  }
  return absl::nullopt;
}

MinedSamples MineHardSamples(const std::vector<SampledItem>& items,
                             const std::map<std::string, std::string>& labels,
                             absl::string_view prefix, double gamma) {
  std::set<std::string> known;
  for (const auto& [id, label] : labels) known.insert(label);
  MinedSamples mined;
  for (const SampledItem& item : items) {
    const auto label = labels.find(item.prompt.id());
    if (label == labels.end()) {
      ++mined.num_unlabelled;
      continue;
    }
    std::vector<const std::string*> right, wrong;
    for (const SampledAnswer& answer : item.answers) {
      const absl::optional<std::string> verdict = ReadVerdict(answer, prefix);
      if (!verdict.has_value() || !known.contains(*verdict)) {
        ++mined.num_unread_answers;
      } else {
        (*verdict == label->second ? right : wrong).push_back(&answer.text);
      }
    }
    if (right.empty() || wrong.empty()) {
      ++(!right.empty()   ? mined.num_all_right
         : !wrong.empty() ? mined.num_all_wrong
                          : mined.num_unread);
      continue;
    }
    HardSample& sample = mined.samples.emplace_back();
    sample.prompt = item.prompt;
    sample.chosen = *Longest(right);
    sample.rejected = *Longest(wrong);
    sample.num_right = static_cast<int64_t>(right.size());
    sample.num_wrong = static_cast<int64_t>(wrong.size());
  }
  SetWeights(gamma, &mined.samples);
  return mined;
}

}  // namespace wideberth::learner
