// SPDX-License-Identifier: Apache-2.0
#include "launch/toyworld.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "launch/flags.h"
#include "model/safetensors.h"
#include "toyworld/datasets.h"
#include "toyworld/model_folder.h"

namespace wideberth::launch {
namespace {

using Json = nlohmann::ordered_json;
using toyworld::Prompt;

constexpr size_t kNumAttacked = 100;  // Requests of prompts_attack.jsonl.

Json Turn(const char* role, const std::string& content) {
  return {{"role", role}, {"content", content}};
}

// `make(row, its place)` of every row, one a line.
template <typename Rows, typename Make>
absl::Status WriteRows(const std::string& path, const Rows& rows, Make make) {
  std::string lines;
  for (size_t i = 0; i < rows.size(); ++i) absl::StrAppend(&lines, make(rows[i], i).dump(), "\n");
  return WriteFileAtomically(path, lines);
}

absl::Status WritePrompts(const std::string& out, const std::string& pool,
                          const std::vector<Prompt>& prompts) {
  return WriteRows(absl::StrCat(out, "/prompts_", pool, ".jsonl"), prompts,
                   [&](const Prompt& prompt, size_t i) {
                     return Json{{"id", absl::StrCat(pool, "-", i)},
                                 {"prompt", prompt.text},
                                 {"unsafe", toyworld::IsUnsafe(prompt.category)},
                                 {"category", CategoryName(prompt.category)},
                                 {"source", "toyworld"}};
                   });
}

// Unsafe held-out requests in all their wordings, for an attacker who tries them all. What happens
// to be a training prompt is left out.
absl::Status WriteAttack(const std::string& out, const toyworld::World& world) {
  std::set<std::string> taken;
  for (const Prompt& prompt : world.train) taken.insert(prompt.text);
  std::vector<Json> rows;
  size_t request = 0;
  for (const Prompt& prompt : world.held_out) {
    if (request == kNumAttacked) break;
    if (!toyworld::IsUnsafe(prompt.category)) continue;
    const std::vector<std::string> wordings = toyworld::Wordings(prompt.text);
    if (!taken.insert("request " + wordings[0]).second) continue;
    for (size_t w = 0; w < wordings.size(); ++w) {
      if (!taken.insert(wordings[w]).second) continue;
      rows.push_back({{"id", absl::StrCat("attack-", request, "-", w)},
                      {"prompt", wordings[w]},
                      {"unsafe", true},
                      {"category", w == 0 ? "bare" : "wrapped"},
                      {"source", absl::StrCat("wording:", request)}});
    }
    ++request;
  }
  return WriteRows(out + "/prompts_attack.jsonl", rows,
                   [](const Json& row, size_t) { return row; });
}

absl::Status WriteGuardRows(const std::string& path,
                            const std::vector<toyworld::GuardExample>& rows) {
  return WriteRows(path, rows, [](const toyworld::GuardExample& row, size_t) {
    return Json{{"prompt", row.prompt.text},
                {"response", row.completion},
                {"label", row.unsafe ? "unsafe" : "safe"},
                {"source", CategoryName(row.prompt.category)}};
  });
}

// Chats, since only the model's chat template knows how prompt and answer are joined.
absl::Status WriteData(const std::string& out, const toyworld::World& world) {
  WB_RETURN_IF_ERROR(WritePrompts(out, "train", world.train));
  WB_RETURN_IF_ERROR(WritePrompts(out, "held_out", world.held_out));
  WB_RETURN_IF_ERROR(WriteAttack(out, world));
  WB_RETURN_IF_ERROR(
      WriteRows(out + "/sft.jsonl", world.sft, [](const toyworld::SftPair& row, size_t) {
        return Json{{"messages", Json::array({Turn("user", row.prompt.text),
                                              Turn("assistant", row.completion)})}};
      }));
  WB_RETURN_IF_ERROR(WriteGuardRows(out + "/guard.jsonl", world.guard));
  WB_RETURN_IF_ERROR(WriteGuardRows(out + "/guard_validation.jsonl", world.guard_validation));
  return WriteRows(out + "/preferences.jsonl", world.preferences,
                   [](const toyworld::Preference& row, size_t) {
                     return Json{{"prompt", Json::array({Turn("user", row.prompt.text)})},
                                 {"chosen", Json::array({Turn("assistant", row.chosen)})},
                                 {"rejected", Json::array({Turn("assistant", row.rejected)})}};
                   });
}

absl::Status WriteModel(const std::string& folder, uint64_t seed) {
  WB_RETURN_IF_ERROR(MakeDirectories(folder));
  for (const auto& [name, bytes] : toyworld::ModelFolderFiles())
    WB_RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(folder, "/", name), bytes));
  const std::vector<toyworld::InitialTensor> tensors = toyworld::InitialTensors(seed);
  std::vector<model::TensorToWrite> written;
  for (const toyworld::InitialTensor& tensor : tensors) {
    written.push_back({tensor.name, "F32", tensor.shape,
                       absl::string_view(reinterpret_cast<const char*>(tensor.values.data()),
                                         tensor.values.size() * sizeof(float))});
  }
  return WriteFileAtomically(folder + "/model.safetensors",
                             model::SerializeSafetensors(written, {{"format", "pt"}}));
}

void AddSettings(toyworld::WorldSettings* settings, FlagTable* flags) {
  flags->Add("seed", &settings->seed, "of the world (default 1)");
  flags->Add("num_train_prompts", &settings->num_train_prompts, "(default 3000)");
  flags->Add("num_held_out_prompts", &settings->num_held_out_prompts, "(default 600)");
  flags->Add("num_sft_rows", &settings->num_sft_rows, "(default 6000)");
  flags->Add("num_guard_rows", &settings->num_guard_rows, "(default 1200); 300: a weak guard");
  flags->Add("num_guard_validation_rows", &settings->num_guard_validation_rows, "(default 300)");
  flags->Add("num_preferences", &settings->num_preferences, "(default 4000)");
  flags->Add("unsafe_compliance", &settings->unsafe_compliance,
             "factor on what the warm start gives away on unsafe prompts (default 1); 0.02: a base "
             "that almost never complies");
  flags->Add("guard_corruption", &settings->guard_corruption,
             "share of the guard's answers that are spoiled (default 0.12)");
  flags->Add("guard_label_shift", &settings->guard_label_shift,
             "added to the log-odds of a label \"unsafe\" (default 0): a miscalibrated guard");
  flags->Add("preference_corruption", &settings->preference_corruption,
             "share of the annotators' answers that are spoiled (default 0.3)");
  flags->Add("harm_weight", &settings->harm_weight,
             "annotators value help - harm_weight harm (default 1.5); 0: help only");
  flags->Add("slang_missed", &settings->slang_missed,
             "probability that an annotator does not know the slang (default 0.5)");
  flags->Add("annotator_temperature", &settings->annotator_temperature, "(default 0.5)");
}

}  // namespace

absl::Status ToyWorld(const std::vector<std::string>& arguments) {
  std::string out;
  toyworld::WorldSettings settings;
  FlagTable flags("wideberth toyworld", "--out=DIR [--seed=N]",
                  "A small language with exact ground truth: prompts_train.jsonl, "
                  "prompts_held_out.jsonl, prompts_attack.jsonl\n(unsafe requests in all their "
                  "wordings), sft.jsonl, guard.jsonl, guard_validation.jsonl and\n"
                  "preferences.jsonl, and init/, an untrained model for it.");
  flags.AddRequired("out", &out, "folder to write, made if absent");
  AddSettings(&settings, &flags);
  WB_ASSIGN_OR_RETURN(const bool go, flags.Parse(arguments));
  if (!go) return absl::OkStatus();
  WB_RETURN_IF_ERROR(toyworld::ValidateSettings(settings));
  WB_RETURN_IF_ERROR(MakeDirectories(out));
  WB_RETURN_IF_ERROR(WriteData(out, toyworld::MakeWorld(settings)));
  return WriteModel(out + "/init", SeedOf(settings, toyworld::Stream::kModel));
}

}  // namespace wideberth::launch
