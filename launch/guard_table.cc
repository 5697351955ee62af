// SPDX-License-Identifier: Apache-2.0
#include "launch/guard_table.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/excerpt.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/redact.h"
#include "base/status.h"
#include "base/text_proto.h"
#include "launch/flags.h"
#include "launch/json_lines.h"
#include "launch/looks.h"
#include "learner/dataset.h"
#include "scorer/scorer_config.h"
#include "scorer/scoring_model.h"

namespace wideberth::launch {
namespace {

using nlohmann::json;
using Subtask = proto::GenerativeConfig::Subtask;

// Rows of a set that are asked one at a time, for the latency; the others go in batches.
constexpr size_t kAskedAlone = 32;

struct Task {
  const char* name;
  const char* in_rows;  // As GuardReasoner's sets say it.
  Subtask subtask;
};
constexpr std::array<Task, 3> kTasks = {
    {{"prompt_harm", "prompt", proto::GenerativeConfig::PROMPT_HARM},
     {"response_harm", "response", proto::GenerativeConfig::RESPONSE_HARM},
     {"refusal", "refusal", proto::GenerativeConfig::REFUSAL}}};

const Task* FindTask(absl::string_view name) {
  for (const Task& task : kTasks) {
    if (name == task.name || name == task.in_rows) return &task;
  }
  return nullptr;
}

std::string TaskNames() {
  return absl::StrJoin(kTasks, ", ",
                       [](std::string* out, const Task& task) { out->append(task.name); });
}

std::string Shown(const json& value) {
  return Excerpt(value.is_string() ? value.get_ref<const std::string&>()
                                   : value.dump(-1, ' ', false, json::error_handler_t::replace));
}

// The field as a text; empty where it is null or, if it may be, absent.
absl::StatusOr<std::string> Text(const json& row, const std::string& field, bool may_be_absent,
                                 const InputLine& line) {
  const auto found = row.find(field);
  if (found == row.end() ? may_be_absent : found->is_null() && may_be_absent) return std::string();
  if (found != row.end() && found->is_string()) return found->get<std::string>();
  return absl::InvalidArgumentError(absl::StrCat(line.origin, ": \"", field, "\" is ",
                                                 found == row.end() ? "missing" : Shown(*found),
                                                 ", expected a text"));
}

// Null where the row has no label.
absl::StatusOr<absl::optional<bool>> Label(const json& row, const GuardSource& source,
                                           const InputLine& line) {
  const auto found = row.find(source.label_field);
  if (found == row.end()) {
    return absl::InvalidArgumentError(absl::StrCat(line.origin, ": \"", source.label_field,
                                                   "\" is missing, expected a label, or null"));
  }
  if (found->is_null()) return absl::optional<bool>();
  const std::string text = found->is_string() ? found->get<std::string>() : found->dump();
  const auto is_among = [&](const auto& labels) {
    return std::find(labels.begin(), labels.end(), text) != labels.end();
  };
  if (!source.positive_labels.empty()) return absl::make_optional(is_among(source.positive_labels));
  static constexpr std::array<const char*, 7> kPositive = {"harmful", "unsafe", "refusal", "yes",
                                                           "true",    "1",      "1.0"};
  static constexpr std::array<const char*, 8> kNegative = {
      "unharmful", "safe", "harmless", "compliance", "no", "false", "0", "0.0"};
  if (is_among(kPositive)) return absl::make_optional(true);
  if (is_among(kNegative)) return absl::make_optional(false);
  return absl::InvalidArgumentError(absl::StrCat(
      line.origin, ": \"", source.label_field, "\" is ", Shown(*found), ", expected one of ",
      absl::StrJoin(kPositive, ", "), ", ", absl::StrJoin(kNegative, ", "),
      ", or name those that are positive by "
      "--positive_label"));
}

absl::Status CheckTask(const json& row, const InputLine& line, report::GuardedSet* set) {
  const auto found = row.find("task");
  const Task* const task =
      found != row.end() && found->is_string() ? FindTask(found->get<std::string>()) : nullptr;
  if (task == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(line.origin, ": \"task\" is ", found == row.end() ? "missing" : Shown(*found),
                     ", expected prompt, response or refusal, or --data=", set->file,
                     ":TASK with one of ", TaskNames()));
  }
  if (set->task.empty()) set->task = task->name;
  if (set->task == task->name) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(line.origin, ": \"task\" is ", task->in_rows,
                                                 ", the rows before are of ", set->task,
                                                 ", expected one task a file"));
}

// ---- asking ----

std::string RowKey(absl::string_view prompt, absl::string_view response) {
  return Fingerprint(absl::StrCat(prompt.size(), " ", prompt, response));
}

// Of a run's configuration the rows its guard is trained and calibrated on, which say nothing about
// others.
absl::StatusOr<std::set<std::string>> TrainedOn(const std::string& config_path) {
  std::set<std::string> keys;
  proto::RunConfig run;
  if (!MergeTextProtoFile(config_path, &run).ok() || run.data().path().empty() ||
      run.learner().task() != proto::GUARD) {
    return keys;
  }
  for (const auto* paths : {&run.data().path(), &run.data().validation_path()}) {
    if (paths->empty()) continue;
    const auto rows = learner::ReadGuardRows(*paths, run.data());
    WB_RETURN_IF_ERROR(Annotate(
        rows.status(), absl::StrCat(config_path, ": data, whose rows are left out of the sets")));
    for (const learner::GuardRow& row : rows->rows) keys.insert(RowKey(row.prompt, row.response));
  }
  return keys;
}

void LeaveOut(const std::set<std::string>& keys, report::GuardedSet* set) {
  const size_t before = set->rows.size();
  set->rows.erase(std::remove_if(set->rows.begin(), set->rows.end(),
                                 [&](const report::GuardedRow& row) {
                                   return keys.count(RowKey(row.prompt, row.response)) > 0;
                                 }),
                  set->rows.end());
  set->num_trained_on = static_cast<int64_t>(before - set->rows.size());
}

// Sets may be sorted by label, so the rows that stay are spread over all of them.
void Thin(size_t num_rows, std::vector<report::GuardedRow>* rows) {
  if (rows->size() <= num_rows) return;
  for (size_t i = 1; i < num_rows; ++i) std::swap((*rows)[i], (*rows)[i * rows->size() / num_rows]);
  rows->resize(num_rows);
}

// Asks a model for the rows of one set.
class Asking {
 public:
  Asking(const proto::ScorerConfig& config, scorer::ScoringModel* model, report::GuardedSet* set)
      : config_(config), model_(*model), set_(*set) {}

  void Run() {
    for (size_t i = 0; i < set_.rows.size(); ++i) {
      scorer::PreparedItem item = Prepare(set_.rows[i]);
      const bool full = num_tokens_ + item.num_new_tokens > config_.max_batch_tokens();
      if (full || i <= kAskedAlone) Flush(/*alone=*/i <= kAskedAlone);
      num_tokens_ += item.num_new_tokens;
      rows_.push_back(&set_.rows[i]);
      items_.push_back(std::move(item));
    }
    Flush(/*alone=*/set_.rows.size() <= kAskedAlone);
  }

 private:
  scorer::PreparedItem Prepare(const report::GuardedRow& row) {
    proto::ScoreItem item;
    proto::ChatMessage* const message = item.add_prompt();
    message->set_role("user");
    message->set_content(row.prompt);
    item.set_completion(row.response);
    return model_.Prepare(item);
  }

  void Flush(bool alone) {
    if (items_.empty()) return;
    const absl::Time deadline = absl::Now() + absl::Seconds(config_.timeout());
    for (scorer::PreparedItem& item : items_) item.deadline = deadline;
    const int64_t written = model_.generation().num_tokens;
    const std::vector<proto::Score> scores = model_.ScoreBatch(items_);
    set_.num_tokens += model_.generation().num_tokens - written;
    for (size_t i = 0; i < scores.size(); ++i) {
      report::GuardedRow& row = *rows_[i];
      if (scores[i].status() == proto::SCORED) {
        const double value = scores[i].value();
        const bool odds = config_.output() == proto::ScorerConfig::LOG_ODDS;
        row.probability = odds ? 1 / (1 + std::exp(-value)) : value;
        set_.num_tokens += static_cast<int64_t>(items_[i].tokens.size());
        if (alone) row.latency_ms = scores[i].latency_ms();
      } else {
        row.failure = proto::ScoreStatus_Name(scores[i].status());
        row.message = scores[i].message();
      }
    }
    items_.clear();
    rows_.clear();
    num_tokens_ = 0;
  }

  const proto::ScorerConfig& config_;
  scorer::ScoringModel& model_;
  report::GuardedSet& set_;
  std::vector<scorer::PreparedItem> items_;
  std::vector<report::GuardedRow*> rows_;
  int64_t num_tokens_ = 0;
};

// Sets of one task after the other, since a GENERATIVE scorer is another one for each.
absl::StatusOr<report::GuardAsked> AskAll(proto::ScorerConfig config,
                                          std::vector<report::GuardedSet>* sets) {
  report::GuardAsked asked;
  asked.scorer = config.name();
  asked.kind = proto::ScorerConfig::Kind_Name(config.kind());
  asked.model = config.model().path();
  asked.adapter = config.adapter();
  std::unique_ptr<scorer::ScoringModel> model;
  for (const Task& task : kTasks) {
    if (config.kind() == proto::ScorerConfig::GENERATIVE) {
      config.mutable_generative()->set_subtask(task.subtask);
      model.reset();
    }
    for (report::GuardedSet& set : *sets) {
      if (set.task != task.name) continue;
      if (model == nullptr) {
        WB_ASSIGN_OR_RETURN(model, scorer::ScoringModel::Create(config));
      }
      asked.model_fingerprint = model->identity().model_fingerprint;
      asked.template_hash = model->identity().template_hash;
      const absl::Time start = absl::Now();
      Asking(config, model.get(), &set).Run();
      std::fprintf(stderr, "%s: %zu rows, %.1f s\n", set.name.c_str(), set.rows.size(),
                   absl::ToDoubleSeconds(absl::Now() - start));
    }
  }
  return asked;
}

// ---- the command ----

struct GuardFlags {
  bool guard = false, redact_text = false;
  std::string config, scorer, out;
  std::vector<std::string> overrides, data;
  GuardSource fields;
  absl::optional<int32_t> num_rows;
};

absl::StatusOr<bool> ParseGuardFlags(const std::vector<std::string>& arguments, GuardFlags* given) {
  FlagTable flags(
      "wideberth evaluate --guard", "--config=FILE [--scorer=NAME] --data=FILE[:TASK]... --out=DIR",
      "How well a VERDICT or GENERATIVE scorer tells positive rows from negative ones: F1, "
      "precision, recall, AUROC, AUPRC, false positive rate,\nECE, latency and tokens, per set and "
      "weighted by rows. Leaves guard_table.json, guard_table.txt and confusions.jsonl,\nwhich "
      "`wideberth report DIR` shows as a page.\n"
      "TASK is prompt_harm, response_harm or refusal; without it the rows' \"task\" says it. A "
      "GENERATIVE scorer answers each by its own line; a VERDICT\nscorer asks its one question, "
      "whatever the task. Rows of a GUARD run's own data (data { }) are left out.");
  flags.Add("guard", &given->guard, "this table");
  flags.AddRequired("config", &given->config,
                    "one scorer (configs/scorers/*.txtpb), or a run's configuration");
  flags.Add("scorer", &given->scorer, "which scorer of a run's configuration");
  flags.Add("override", &given->overrides, "fields put over the scorer's, e.g. 'adapter: \"DIR\"'");
  flags.Add("data", &given->data, "labelled rows, JSON lines; may be repeated");
  flags.AddRequired("out", &given->out, "folder of the results, made if absent");
  flags.Add("prompt_field", &given->fields.prompt_field, "the prompt's field (default prompt)");
  flags.Add("response_field", &given->fields.response_field,
            "the response's field (default response); absent or null: none");
  flags.Add("label_field", &given->fields.label_field, "the label's field (default label)");
  flags.Add("positive_label", &given->fields.positive_labels,
            "a label that is positive, all others are negative; may be repeated");
  flags.Add("rows", &given->num_rows, "at most N rows of each set, evenly spaced");
  flags.Add("redact_text", &given->redact_text, "hashes in place of prompts and responses");
  return flags.Parse(arguments);
}

void Redact(report::GuardedSet* set) {
  for (report::GuardedRow& row : set->rows) {
    for (std::string* text : {&row.prompt, &row.response}) {
      if (!text->empty()) *text = Redacted(*text);
    }
  }
}

absl::StatusOr<std::vector<report::GuardedSet>> ReadSets(const GuardFlags& given) {
  if (given.data.empty())
    return absl::InvalidArgumentError("--data is not given, expected a file of labelled rows");
  if (given.num_rows.has_value() && *given.num_rows < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rows is ", *given.num_rows, ", must be at least 1"));
  }
  std::vector<report::GuardedSet> sets;
  for (const std::string& text : given.data) {
    GuardSource source = given.fields;
    const size_t colon = text.rfind(':');
    const Task* const task =
        colon == std::string::npos ? nullptr : FindTask(text.substr(colon + 1));
    source.path = task != nullptr ? text.substr(0, colon) : text;
    if (task != nullptr) source.task = task->name;
    WB_ASSIGN_OR_RETURN(report::GuardedSet set, ReadGuardedSet(source));
    for (const report::GuardedSet& other : sets) {
      if (other.file != set.file || other.task != set.task) continue;
      return absl::InvalidArgumentError(absl::StrCat("--data names ", set.file, " for ", set.task,
                                                     " twice, expected each set once"));
    }
    sets.push_back(std::move(set));
  }
  return sets;
}

}  // namespace

absl::StatusOr<report::GuardedSet> ReadGuardedSet(const GuardSource& source) {
  report::GuardedSet set;
  set.file = source.path;
  set.name = std::filesystem::path(source.path).stem().string();
  set.task = source.task;
  const auto take = [&](const InputLine& line) -> absl::Status {
    WB_ASSIGN_OR_RETURN(const json row, ParseObject(line));
    if (source.task.empty()) WB_RETURN_IF_ERROR(CheckTask(row, line, &set));
    WB_ASSIGN_OR_RETURN(const absl::optional<bool> label, Label(row, source, line));
    if (!label.has_value()) {
      ++set.num_unlabelled;
      return absl::OkStatus();
    }
    report::GuardedRow guarded;
    guarded.origin = line.origin;
    guarded.positive = *label;
    WB_ASSIGN_OR_RETURN(guarded.prompt, Text(row, source.prompt_field, false, line));
    WB_ASSIGN_OR_RETURN(guarded.response, Text(row, source.response_field, true, line));
    set.rows.push_back(std::move(guarded));
    return absl::OkStatus();
  };
  WB_RETURN_IF_ERROR(ForLines(source.path, 256, [&](const std::vector<InputLine>& lines) {
    for (const InputLine& line : lines) WB_RETURN_IF_ERROR(take(line));
    return absl::OkStatus();
  }));
  if (!set.rows.empty()) return set;
  return absl::InvalidArgumentError(
      absl::StrCat(source.path, ": no row with a label, expected at least one"));
}

absl::Status GuardTable(const std::vector<std::string>& arguments) {
  GuardFlags given;
  WB_ASSIGN_OR_RETURN(const bool go, ParseGuardFlags(arguments, &given));
  if (!go) return absl::OkStatus();
  RedactExcerpts(given.redact_text);
  WB_ASSIGN_OR_RETURN(proto::ScorerConfig config, ReadScorer(given.config, given.scorer));
  for (const std::string& text : given.overrides)
    WB_RETURN_IF_ERROR(MergeTextProto(text, "--override", &config));
  if (!config.has_name()) config.set_name("guard");
  WB_RETURN_IF_ERROR(scorer::ValidateScorerConfig(config));
  if (config.kind() != proto::ScorerConfig::VERDICT &&
      config.kind() != proto::ScorerConfig::GENERATIVE) {
    return absl::InvalidArgumentError(absl::StrCat(
        "scorer \"", config.name(), "\" is of kind ", proto::ScorerConfig::Kind_Name(config.kind()),
        ", expected VERDICT or GENERATIVE, which give probabilities"));
  }
  WB_ASSIGN_OR_RETURN(std::vector<report::GuardedSet> sets, ReadSets(given));
  WB_ASSIGN_OR_RETURN(const std::set<std::string> trained_on, TrainedOn(given.config));
  for (report::GuardedSet& set : sets) {
    LeaveOut(trained_on, &set);
    if (given.num_rows.has_value()) Thin(*given.num_rows, &set.rows);
  }
  WB_RETURN_IF_ERROR(MakeDirectories(given.out));
  WB_ASSIGN_OR_RETURN(const report::GuardAsked asked, AskAll(config, &sets));
  if (given.redact_text) std::for_each(sets.begin(), sets.end(), [](auto& set) { Redact(&set); });
  std::vector<report::GuardFigures> figures;
  for (const report::GuardedSet& set : sets)
    figures.push_back(report::FiguresOf(set, asked.threshold));
  const std::string text = report::GuardTableText(asked, sets, figures);
  const auto write = [&](absl::string_view name, const std::string& bytes) {
    return WriteFileAtomically(absl::StrCat(given.out, "/", name), bytes);
  };
  WB_RETURN_IF_ERROR(write("guard_table.json", report::GuardTableJson(asked, sets, figures)));
  WB_RETURN_IF_ERROR(write("guard_table.txt", text));
  WB_RETURN_IF_ERROR(write("confusions.jsonl", report::ConfusionLines(sets, asked.threshold)));
  std::fputs(text.c_str(), stdout);
  std::printf("\ntable and mistakes as a page: wideberth report %s\n", given.out.c_str());
  return absl::OkStatus();
}

}  // namespace wideberth::launch
