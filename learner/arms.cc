// SPDX-License-Identifier: Apache-2.0
#include "learner/arms.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text_proto.h"
#include "learner/run_folder.h"
#include "learner/validate_data.h"
#include "model/catch_torch.h"

namespace wideberth::learner {
namespace {

bool IsThere(const std::string& path) { return ::access(path.c_str(), R_OK) == 0; }

// The run that trained the adapter in `folder`; empty where there is none around it.
std::string RunOf(const std::string& adapter) {
  std::filesystem::path folder(adapter);
  if (!folder.has_filename()) folder = folder.parent_path();
  const std::string parent = folder.has_parent_path() ? folder.parent_path().string() : ".";
  return folder.filename() == "adapter" && IsThere(parent + "/config.txtpb") ? parent : "";
}

absl::Status CheckBase(const Arm& arm, const proto::RunConfig& config,
                       const model::CausalLm& model) {
  if (arm.run_dir.empty()) return absl::OkStatus();
  const auto summary = ReadFile(absl::StrCat(arm.run_dir, "/summary.json"));
  if (!summary.ok()) return absl::OkStatus();
  const auto json = nlohmann::json::parse(*summary, nullptr, /*allow_exceptions=*/false);
  const auto base = json.is_object() ? json.find("base") : json.end();
  const std::string trained =
      base != json.end() && base->is_object() ? base->value("fingerprint", std::string()) : "";
  if (trained.empty() || trained == model.fingerprint()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("evaluation.arm \"", arm.name, "\": its run ", arm.run_dir,
                   " trained a base with fingerprint ", trained, ", policy.model.path, ",
                   config.policy().model().path(), ", has ", model.fingerprint()));
}

absl::Status LoadAdapter(const proto::RunConfig& config, const model::CausalLm& model,
                         uint64_t version, Arm* arm) {
  const std::string what = absl::StrCat("evaluation.arm \"", arm->name, "\"");
  WB_RETURN_IF_ERROR(CheckBase(*arm, config, model));
  return Annotate(
      model::CatchTorch(what,
                        [&]() -> absl::Status {
                          WB_ASSIGN_OR_RETURN(const std::shared_ptr<model::Adapter> adapter,
                                              model::Adapter::Load(arm->adapter, model.spec(),
                                                                   model.dtype(), at::kCPU));
                          if (adapter->score_head().defined()) {
                            return absl::InvalidArgumentError(absl::StrCat(
                                arm->adapter, ": has a score head, expected a policy's adapter"));
                          }
                          auto blob = std::make_shared<transport::AdapterBlob>();
                          blob->bytes = adapter->Pack(model.dtype(), &blob->manifest);
                          blob->manifest.set_version(version);
                          blob->manifest.set_base_fingerprint(model.fingerprint());
                          arm->blob = std::move(blob);
                          return absl::OkStatus();
                        }),
      what);
}

std::string ComparableText(const proto::Prompt& prompt) {
  std::string text;
  for (const proto::ChatMessage& message : prompt.message()) {
    if (message.role() == "system") continue;
    std::string content = absl::AsciiStrToLower(message.content());
    absl::RemoveExtraAsciiWhitespace(&content);
    absl::StrAppend(&text, message.role(), "\n", content, "\n");
  }
  return text;
}

// Text -> where it was trained on.
using TrainedOn = std::map<std::string, std::string>;

absl::Status AddPrompts(const proto::PromptsConfig& config, uint64_t seed, TrainedOn* trained) {
  WB_ASSIGN_OR_RETURN(const PromptSet prompts, PromptSet::Load(config, seed));
  for (int64_t i = 0; i < prompts.num_train(); ++i) {
    const PromptRecord& record = prompts.InFileOrder(i);
    trained->emplace(ComparableText(record.prompt), record.origin);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Arm>> LoadArms(const proto::RunConfig& config,
                                          const model::CausalLm& model) {
  const proto::EvaluationConfig& evaluation = config.evaluation();
  std::vector<Arm> arms;
  const bool has_base = std::any_of(evaluation.arm().begin(), evaluation.arm().end(),
                                    [](const auto& arm) { return arm.name() == "base"; });
  if (!has_base) arms.push_back({.name = "base"});
  for (const auto& configured : evaluation.arm()) {
    Arm arm{.name = configured.name(), .text = configured.text()};
    if (configured.has_adapter()) {
      arm.adapter = AdapterFolder(configured.adapter());
      arm.run_dir = RunOf(arm.adapter);
      WB_RETURN_IF_ERROR(LoadAdapter(config, model, arms.size(), &arm));
    }
    arms.push_back(std::move(arm));
  }
  if (evaluation.has_harm_judge() || evaluation.has_help_judge())
    arms.push_back({.name = kRefusalArm, .text = evaluation.refusal()});
  return arms;
}

absl::StatusOr<int64_t> CountTrainedPrompts(const proto::RunConfig& config,
                                            const std::vector<Arm>& arms, const PromptSet& prompts,
                                            int64_t num_prompts) {
  TrainedOn trained;
  std::set<std::string> runs;
  for (const Arm& arm : arms) {
    if (arm.run_dir.empty() || !runs.insert(arm.run_dir).second) continue;
    proto::RunConfig run;
    WB_RETURN_IF_ERROR(MergeTextProtoFile(absl::StrCat(arm.run_dir, "/config.txtpb"), &run));
    if (const absl::Status read = AddPrompts(run.prompts(), run.seed(), &trained); !read.ok()) {
      WB_LOG(WARNING) << "what arm \"" << arm.name
                      << "\" was trained on is not known, so its prompts are not compared with "
                         "those of the evaluation: "
                      << read.message();
    }
  }
  for (const std::string& path : config.evaluation().trained_on()) {
    proto::PromptsConfig file;
    file.add_path(path);
    WB_RETURN_IF_ERROR(AddPrompts(file, 0, &trained));
  }
  int64_t found = 0;
  std::string first;
  for (int64_t i = 0; i < num_prompts; ++i) {
    const PromptRecord& record = prompts.HeldOut(i);
    const auto place = trained.find(ComparableText(record.prompt));
    if (place == trained.end()) continue;
    if (found++ == 0) first = absl::StrCat(record.origin, " occurs at ", place->second);
  }
  if (found == 0 || config.evaluation().allow_trained_prompts()) return found;
  return absl::InvalidArgumentError(absl::StrCat(
      found, " of the ", num_prompts, " prompts to evaluate on were trained on: ", first,
      found > 1 ? ", and so on" : "",
      "; give others, or allow it by evaluation.allow_trained_prompts, which the report then "
      "states"));
}

}  // namespace wideberth::learner
