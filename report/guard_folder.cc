// SPDX-License-Identifier: Apache-2.0
#include "report/guard_folder.h"

#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"
#include "report/json_fields.h"

namespace wideberth::report {
namespace {

using Json = nlohmann::ordered_json;

void ReadSet(JsonFields fields, GuardFolder* guard) {
  GuardedSet& set = guard->sets.emplace_back();
  set.name = fields.Text("name", true);
  set.file = fields.Text("file");
  set.task = fields.Text("task", true);
  set.num_unlabelled = fields.Count("num_unlabelled");
  set.num_trained_on = fields.Count("num_trained_on");
  GuardFigures& figures = guard->figures.emplace_back();
  figures.figures.num = fields.Count("num", true);
  figures.figures.num_positive = fields.Count("num_positive", true);
  figures.num_unparsable = fields.Count("num_unparsable");
  fields.ForEach("without_verdict", fields.Object("without_verdict"),
                 [&](const std::string& status, const Json& value, const std::string& field) {
                   if (!value.is_number_unsigned())
                     return fields.Fail(field, ShownJson(value), "a whole number from 0");
                   figures.failures[status] = value.get<int64_t>();
                 });
  figures.figures.f1 = fields.Share("f1");
  figures.figures.precision = fields.Share("precision");
  figures.figures.recall = fields.Share("recall");
  figures.figures.auroc = fields.Share("auroc");
  figures.figures.auprc = fields.Share("auprc");
  figures.figures.accuracy = fields.Share("accuracy");
  figures.figures.ece = fields.Share("ece");
  figures.false_positive_rate = fields.Share("false_positive_rate");
  figures.latency_p50_ms = fields.Number("latency_p50_ms");
  figures.latency_p95_ms = fields.Number("latency_p95_ms");
  figures.num_latencies = fields.Count("num_latencies");
  figures.tokens_per_query = fields.Number("tokens_per_query");
  figures.note = fields.Text("note");
}

absl::Status ReadTable(const std::string& path, GuardFolder* guard) {
  WB_ASSIGN_OR_RETURN(guard->table, ReadFile(path));
  WB_ASSIGN_OR_RETURN(const Json json, ParseJson(guard->table, path));
  absl::Status status;
  JsonFields fields(json, path, "", &status);
  guard->asked.scorer = fields.Text("scorer", true);
  guard->asked.kind = fields.Text("kind", true);
  guard->asked.model = fields.Text("model");
  guard->asked.adapter = fields.Text("adapter");
  guard->asked.model_fingerprint = fields.Text("model_fingerprint");
  guard->asked.template_hash = fields.Text("template_hash");
  guard->asked.threshold = fields.Number("threshold", true).value_or(0);
  fields.ForEach("sets", fields.List("sets", true),
                 [&](const std::string&, const Json& value, const std::string& field) {
                   ReadSet(fields.Within(value, field), guard);
                 });
  if (status.ok() && guard->sets.empty()) fields.Fail("sets", "empty", "at least one set");
  return status;
}

// Sets are told apart by name and task, two of one name by the file their rows come from.
GuardedSet* FindSet(const std::string& name, const std::string& task, const std::string& origin,
                    GuardFolder* guard) {
  GuardedSet* found = nullptr;
  for (GuardedSet& set : guard->sets) {
    if (set.name != name || set.task != task) continue;
    if (absl::StartsWith(origin, absl::StrCat(set.file, ":"))) return &set;
    if (found == nullptr) found = &set;
  }
  return found;
}

absl::Status ReadConfusion(absl::string_view line, const std::string& origin, GuardFolder* guard) {
  WB_ASSIGN_OR_RETURN(const Json json, ParseJson(line, origin));
  absl::Status status;
  JsonFields fields(json, origin, "", &status);
  const std::string name = fields.Text("set", true), task = fields.Text("task", true);
  const std::string mistake = fields.Text("mistake", true);
  GuardedRow row;
  row.origin = fields.Text("origin", true);
  row.positive = fields.Bool("positive", true).value_or(false);
  row.probability = fields.Share("probability");
  row.prompt = fields.Text("prompt", true);
  row.response = fields.Text("response");
  row.failure = fields.Text("status", /*required=*/!row.probability.has_value());
  row.message = fields.Text("message");
  WB_RETURN_IF_ERROR(status);
  const std::string expected = MistakeOf(row, guard->asked.threshold);
  if (mistake != expected) {
    return InvalidField(origin, "mistake", absl::StrCat("\"", mistake, "\""),
                        expected.empty()
                            ? "a row whose probability and label disagree"
                            : absl::StrCat("\"", expected, "\" by its probability and label"));
  }
  GuardedSet* const set = FindSet(name, task, row.origin, guard);
  if (set == nullptr) {
    return InvalidField(origin, "set", absl::StrCat("\"", name, "\" of ", task),
                        absl::StrCat("a set and task of ", kGuardTableFile));
  }
  set->rows.push_back(std::move(row));
  return absl::OkStatus();
}

// The table and the mistakes are two files, and one of them may be cut off or of another day.
absl::Status CheckCounts(const std::string& path, const GuardFolder& guard) {
  for (size_t i = 0; i < guard.sets.size(); ++i) {
    const Classification& figures = guard.figures[i].figures;
    const int64_t expected =
        figures.accuracy.has_value()
            ? std::llround((1 - *figures.accuracy) * static_cast<double>(figures.num))
            : figures.num;
    const int64_t found = static_cast<int64_t>(guard.sets[i].rows.size());
    if (found == expected) continue;
    return absl::InvalidArgumentError(absl::StrCat(path, ": has ", found, " mistakes of set \"",
                                                   guard.sets[i].name, "\", expected ", expected,
                                                   " as ", kGuardTableFile, " says"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GuardFolder> ReadGuardFolder(absl::string_view folder) {
  GuardFolder guard;
  guard.folder = std::string(folder);
  WB_RETURN_IF_ERROR(ReadTable(absl::StrCat(folder, "/", kGuardTableFile), &guard));
  const std::string path = absl::StrCat(folder, "/", kConfusionsFile);
  WB_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  int64_t line_number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    WB_RETURN_IF_ERROR(ReadConfusion(line, absl::StrCat(path, ":", line_number), &guard));
  }
  WB_RETURN_IF_ERROR(CheckCounts(path, guard));
  return guard;
}

}  // namespace wideberth::report
