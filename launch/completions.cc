// SPDX-License-Identifier: Apache-2.0
#include "launch/completions.h"

#include <cstdio>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "launch/flags.h"
#include "launch/run.h"

namespace wideberth::launch {
namespace {

std::string PromptOf(const learner::JournalGroup& group,
                     const absl::StatusOr<learner::PromptSet>& prompts, bool redact) {
  if (prompts.ok()) {
    const proto::Prompt& prompt = prompts->Train(group.request.group_id()).prompt;
    if (prompt.id() == group.prompt_id) return learner::ShownText(prompt, redact);
  }
  return absl::StrCat("(prompt ", group.prompt_id, ")");
}

report::CompletionRow RowOf(const proto::Completion& completion) {
  report::CompletionRow row;
  row.completion = completion.text();
  row.finish_reason = proto::FinishReason_Name(completion.finish_reason());
  row.num_tokens = completion.token_id_size();
  for (const proto::Score& score : completion.score()) {
    report::CompletionScore& of_scorer = row.scores.emplace_back();
    of_scorer.scorer = score.scorer_name();
    of_scorer.status = proto::ScoreStatus_Name(score.status());
    if (score.has_value()) of_scorer.value = score.value();
  }
  return row;
}

}  // namespace

absl::StatusOr<CompletionsReader> CompletionsReader::Open(const proto::RunConfig& config,
                                                          const std::string& run_dir) {
  WB_ASSIGN_OR_RETURN(std::unique_ptr<learner::Journal> journal,
                      learner::Journal::Open(absl::StrCat(run_dir, "/run.db")));
  return CompletionsReader(run_dir, std::move(journal),
                           learner::PromptSet::Load(config.prompts(), config.seed()),
                           config.redact_text());
}

absl::StatusOr<std::vector<report::CompletionRow>> CompletionsReader::Read(int64_t step) {
  WB_ASSIGN_OR_RETURN(const int64_t num_steps, journal_->NumSteps());
  if (step == 0) step = num_steps;
  if (step < 1 || step > num_steps) {
    return absl::NotFoundError(num_steps == 0 ? absl::StrCat(run_dir_, ": no step is done yet")
                                              : absl::StrCat(run_dir_, ": there is no step ", step,
                                                             ", expected 1 to ", num_steps));
  }
  WB_ASSIGN_OR_RETURN(const std::vector<learner::JournalGroup> groups,
                      journal_->ReadGroupsOfStep(step));
  WB_ASSIGN_OR_RETURN(const std::vector<learner::TrainedCompletion> trained,
                      journal_->ReadTrained(step));
  std::map<std::pair<uint64_t, int>, const learner::TrainedCompletion*> outcome;
  for (const learner::TrainedCompletion& completion : trained)
    outcome[{completion.group_id, completion.index}] = &completion;
  std::vector<report::CompletionRow> rows;
  for (const learner::JournalGroup& group : groups) {
    for (int i = 0; i < group.request.completion_size(); ++i) {
      report::CompletionRow row = RowOf(group.request.completion(i));
      row.step = step;
      row.group_id = group.request.group_id();
      row.index = i;
      row.prompt_id = group.prompt_id;
      row.prompt = PromptOf(group, prompts_, redact_);
      if (const auto found = outcome.find({row.group_id, i}); found != outcome.end()) {
        row.reward = found->second->reward;
        row.advantage = found->second->advantage;
      }
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

absl::StatusOr<int> ShowCompletions(const std::vector<std::string>& arguments) {
  std::string run_dir;
  uint64_t step = 0;
  bool json = false;
  FlagTable flags("wideberth completions", "--run=DIR [--step=N] [--json]",
                  "Shows what a step of a run was trained on: every completion with its scores, "
                  "reward and advantage.");
  flags.AddRequired("run", &run_dir, "folder of the run; it may be running");
  flags.Add("step", &step, "which step (default: the last)");
  flags.Add("json", &json, "a JSON line a completion, with whole texts, instead of a table");
  WB_ASSIGN_OR_RETURN(const bool go, flags.Parse(arguments));
  if (!go) return 0;
  WB_ASSIGN_OR_RETURN(const proto::RunConfig config, ConfigOfRun(run_dir));
  WB_ASSIGN_OR_RETURN(CompletionsReader reader, CompletionsReader::Open(config, run_dir));
  WB_ASSIGN_OR_RETURN(const std::vector<report::CompletionRow> rows,
                      reader.Read(static_cast<int64_t>(step)));
  if (!json) {
    std::fputs(report::CompletionsTable(rows).c_str(), stdout);
    return 0;
  }
  for (const report::CompletionRow& row : rows)
    std::printf("%s\n", report::CompletionJson(row).c_str());
  return 0;
}

}  // namespace wideberth::launch
