// SPDX-License-Identifier: Apache-2.0
#include "launch/mine.h"

#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "launch/flags.h"
#include "launch/run.h"
#include "learner/hard_samples.h"
#include "learner/journal.h"
#include "learner/prompts.h"
#include "model/chat_template.h"
#include "nlohmann/json.hpp"

namespace wideberth::launch {
namespace {

using Json = nlohmann::ordered_json;

// Messages where the policy has a chat template; else texts, joined as the actors join them.
Json PairObject(const learner::HardSample& sample, bool chat) {
  Json json;
  json["id"] = sample.prompt.id();
  const auto answer = [&](const std::string& text) {
    return chat ? Json::array({{{"role", "assistant"}, {"content", text}}}) : Json(text);
  };
  if (chat) {
    json["prompt"] = Json::array();
    for (const proto::ChatMessage& message : sample.prompt.message())
      json["prompt"].push_back({{"role", message.role()}, {"content", message.content()}});
  } else {
    std::string text;
    for (const proto::ChatMessage& message : sample.prompt.message())
      absl::StrAppend(&text, text.empty() ? "" : "\n", message.content());
    json["prompt"] = text;
  }
  json["chosen"] = answer(sample.chosen);
  json["rejected"] = answer(sample.rejected);
  json["weight"] = sample.weight;
  json["num_right"] = sample.num_right;
  json["num_wrong"] = sample.num_wrong;
  return json;
}

struct MineFlags {
  std::string run_dir, labels, output;
  std::string verdict = "Response:";
  double gamma = 0.2;
};

absl::Status Check(const MineFlags& given) {
  if (given.verdict.empty())
    return absl::InvalidArgumentError("--verdict is empty, expected how a verdict's line begins");
  if (!(given.gamma >= 0 && given.gamma < 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--gamma is ", given.gamma, ", must be at least 0 and below 1"));
  }
  return absl::OkStatus();
}

absl::StatusOr<learner::MinedSamples> MineRun(const proto::RunConfig& config,
                                              const MineFlags& given) {
  WB_ASSIGN_OR_RETURN(const auto labels, learner::ReadLabels(given.labels));
  WB_ASSIGN_OR_RETURN(const learner::PromptSet prompts,
                      learner::PromptSet::Load(config.prompts(), config.seed()));
  WB_ASSIGN_OR_RETURN(const std::unique_ptr<learner::Journal> journal,
                      learner::Journal::Open(absl::StrCat(given.run_dir, "/run.db")));
  WB_ASSIGN_OR_RETURN(const std::vector<learner::JournalGroup> groups, journal->ReadGroups());
  WB_ASSIGN_OR_RETURN(const auto items, learner::SampledItems(groups, prompts));
  const learner::MinedSamples mined =
      learner::MineHardSamples(items, labels, given.verdict, given.gamma);
  const std::string counts =
      absl::StrCat(items.size(), " prompts were answered: ", mined.samples.size(), " hard, ",
                   mined.num_all_right, " always right, ", mined.num_all_wrong, " always wrong, ",
                   mined.num_unread, " without a verdict, ", mined.num_unlabelled,
                   " without a label; ", mined.num_unread_answers, " answers without a verdict");
  if (mined.samples.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(given.run_dir, ": no hard sample to write; ", counts));
  }
  std::fprintf(stderr, "%s\n", counts.c_str());
  return mined;
}

}  // namespace

absl::Status Mine(const std::vector<std::string>& arguments) {
  MineFlags given;
  FlagTable flags(
      "wideberth mine", "--run=DIR --labels=FILE --output=FILE",
      "Hard samples for HS-DPO: of the answers that a run's actors sampled, the prompts "
      "answered both rightly and\n"
      "wrongly, as JSON lines {\"prompt\", \"chosen\", \"rejected\", \"weight\"} for "
      "learner.task DPO.");
  flags.AddRequired("run", &given.run_dir, "folder of the run");
  flags.AddRequired("labels", &given.labels,
                    "JSON lines {\"id\", \"label\"}: the right verdict of every prompt");
  flags.AddRequired("output", &given.output, "file to write");
  flags.Add("verdict", &given.verdict,
            "an answer's last line that begins so gives its verdict (default \"Response:\")");
  flags.Add("gamma", &given.gamma,
            "weights lie between 1 - gamma and 1 + gamma, harder ones higher (default 0.2)");
  WB_ASSIGN_OR_RETURN(const bool go, flags.Parse(arguments));
  if (!go) return absl::OkStatus();
  WB_RETURN_IF_ERROR(Check(given));
  WB_ASSIGN_OR_RETURN(const proto::RunConfig config, ConfigOfRun(given.run_dir));
  if (config.redact_text()) {
    return absl::FailedPreconditionError(absl::StrCat(
        given.run_dir, ": the run kept no texts (redact_text), so there are no answers to mine"));
  }
  const std::string& folder = config.policy().model().path();
  WB_RETURN_IF_ERROR(ReadFile(absl::StrCat(folder, "/config.json")).status());
  const auto chat = model::ChatTemplate::FromFolder(folder);
  if (!chat.ok() && !absl::IsNotFound(chat.status())) return chat.status();
  WB_ASSIGN_OR_RETURN(const learner::MinedSamples mined, MineRun(config, given));
  std::string lines;
  for (const learner::HardSample& sample : mined.samples) {
    absl::StrAppend(
        &lines, PairObject(sample, chat.ok()).dump(-1, ' ', false, Json::error_handler_t::replace),
        "\n");
  }
  return WriteFileAtomically(given.output, lines);
}

}  // namespace wideberth::launch
