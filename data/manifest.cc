// SPDX-License-Identifier: Apache-2.0
#include "data/manifest.h"

#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace wideberth::data {
namespace {

using Json = nlohmann::ordered_json;

Json CountsJson(const std::vector<MixedPrompt>& prompts) {
  std::map<std::string, std::map<std::string, int64_t>> counts;
  std::map<std::string, int64_t> totals;
  int64_t num_unsafe = 0;
  for (const MixedPrompt& prompt : prompts) {
    ++counts[prompt.source][prompt.category];
    ++totals[prompt.source];
    num_unsafe += prompt.unsafe.value_or(false);
  }
  Json sources = Json::object();
  for (const auto& [source, categories] : counts)
    sources[source] = {{"prompts", totals[source]}, {"categories", categories}};
  return {{"prompts", prompts.size()}, {"unsafe", num_unsafe}, {"sources", sources}};
}

Json FileJson(const std::vector<MixedPrompt>& prompts) {
  const std::string lines = PromptLines(prompts);
  Json file = CountsJson(prompts);
  file["bytes"] = lines.size();
  file["sha256"] = Sha256(lines);
  return file;
}

Json AccountJson(const Account& account) {
  Json dropped = Json::object();
  for (const auto& [reason, count] : account.dropped)
    dropped[std::string(DropName(reason))] = count;
  return {{"read", account.read},
          {"taken", account.taken},
          {"dropped", dropped},
          {"not_needed", account.read - account.taken - account.num_dropped()}};
}

std::string Line(absl::string_view indent, const std::string& name, int64_t train, int64_t test) {
  return absl::StrFormat("%s%-*s %8d %8d\n", indent, 46 - static_cast<int>(indent.size()), name,
                         train, test);
}

}  // namespace

std::string PromptLines(const std::vector<MixedPrompt>& prompts) {
  std::string lines;
  for (const MixedPrompt& prompt : prompts) {
    Json line = {{"id", prompt.id}, {"prompt", prompt.text}};
    if (prompt.unsafe.has_value()) line["unsafe"] = *prompt.unsafe;
    line["category"] = prompt.category;
    line["source"] = prompt.source;
    absl::StrAppend(&lines, line.dump(), "\n");
  }
  return lines;
}

std::string ManifestJson(const Mix& mix, const proto::DataRecipe& recipe,
                         absl::string_view recipe_text, absl::string_view tokenizer) {
  Json manifest = {{"recipe_sha256", Sha256(recipe_text)}, {"seed", recipe.seed()}};
  if (!tokenizer.empty()) manifest["tokenizer"] = std::string(tokenizer);
  if (!mix.train.empty()) manifest["files"]["train.jsonl"] = FileJson(mix.train);
  if (!mix.test.empty()) manifest["files"]["test.jsonl"] = FileJson(mix.test);
  Json& accounts = manifest["accounts"] = Json::object();
  for (const Mix::Part& part : mix.parts)
    accounts[part.source][part.name] = AccountJson(part.account);
  Json& inputs = manifest["inputs"] = Json::array();
  for (const InputFile& input : mix.inputs)
    inputs.push_back({{"path", input.path}, {"bytes", input.bytes}, {"sha256", input.sha256}});
  return manifest.dump(2) + "\n";
}

std::string MixText(const Mix& mix) {
  using Counts = std::pair<int64_t, int64_t>;  // Training, test.
  std::map<std::string, std::map<std::string, Counts>> counts;
  std::map<std::string, Counts> totals;
  for (const MixedPrompt& prompt : mix.train) {
    ++counts[prompt.source][prompt.category].first;
    ++totals[prompt.source].first;
  }
  for (const MixedPrompt& prompt : mix.test) {
    ++counts[prompt.source][prompt.category].second;
    ++totals[prompt.source].second;
  }
  std::string text = absl::StrFormat("%-46s %8s %8s\n", "source and category", "train", "test");
  for (const auto& [source, categories] : counts) {
    text += Line("", source, totals[source].first, totals[source].second);
    if (categories.size() == 1 && categories.begin()->first == source) continue;
    for (const auto& [category, count] : categories)
      text += Line("  ", category, count.first, count.second);
  }
  text += Line("", "all", static_cast<int64_t>(mix.train.size()),
               static_cast<int64_t>(mix.test.size()));
  text += "\n";
  for (const Mix::Part& part : mix.parts) {
    const Account& account = part.account;
    absl::StrAppendFormat(&text, "%s, %s: %s, %d taken", part.source, part.name, account.ToString(),
                          account.taken);
    const int64_t rest = account.read - account.taken - account.num_dropped();
    absl::StrAppend(&text, rest > 0 ? absl::StrCat(", ", rest, " not needed") : "", "\n");
  }
  return text;
}

}  // namespace wideberth::data
