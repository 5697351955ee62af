// SPDX-License-Identifier: Apache-2.0
#include "launch/data.h"

#include <cstdio>
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "base/text_proto.h"
#include "data/manifest.h"
#include "data/mix.h"
#include "launch/flags.h"
#include "model/tokenizer.h"

namespace wideberth::launch {
namespace {

// No file where the recipe asks for no such prompts, which nobody could read.
absl::Status WritePrompts(const std::string& path, const std::vector<data::MixedPrompt>& prompts) {
  if (!prompts.empty()) return WriteFileAtomically(path, data::PromptLines(prompts));
  std::error_code ignored;  // It was not there.
  std::filesystem::remove(path, ignored);
  return absl::OkStatus();
}

}  // namespace

absl::Status Data(const std::vector<std::string>& arguments) {
  std::string recipe_path, root, out, tokenizer_folder;
  FlagTable flags(
      "wideberth data", "--recipe=FILE --root=DIR --out=DIR [--tokenizer=DIR]",
      "Draws training and test prompts from JSONL, JSON, CSV and text files as a recipe "
      "says (proto/data.proto,\nexamples in configs/data/): without duplicates or near "
      "duplicates, across the splits as well.\nWrites train.jsonl, test.jsonl and "
      "manifest.json, and prints the counts.");
  flags.AddRequired("recipe", &recipe_path, "the recipe, a protobuf text file");
  flags.Add("root", &root, "folder that the recipe's paths start from (default: this one)");
  flags.AddRequired("out", &out, "folder to write, made if absent");
  flags.Add("tokenizer", &tokenizer_folder,
            "model folder, for recipes with lengths in tokens and long contexts");
  WB_ASSIGN_OR_RETURN(const bool go, flags.Parse(arguments));
  if (!go) return absl::OkStatus();

  WB_ASSIGN_OR_RETURN(const std::string recipe_text, ReadFile(recipe_path));
  proto::DataRecipe recipe;
  WB_RETURN_IF_ERROR(MergeTextProto(recipe_text, recipe_path, &recipe));
  std::unique_ptr<model::Tokenizer> tokenizer;
  data::TokenCounter count_tokens;
  if (!tokenizer_folder.empty()) {
    WB_ASSIGN_OR_RETURN(tokenizer, model::Tokenizer::FromFolder(tokenizer_folder));
    count_tokens = [&](absl::string_view text) {
      return static_cast<int64_t>(tokenizer->Encode(text, false, /*parse_special=*/false).size());
    };
  }
  absl::StatusOr<data::Mix> mix =
      data::MakeMix(recipe, root, count_tokens,
                    [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); });
  if (!mix.ok()) return Annotate(mix.status(), recipe_path);

  WB_RETURN_IF_ERROR(MakeDirectories(out));
  WB_RETURN_IF_ERROR(WritePrompts(out + "/train.jsonl", mix->train));
  WB_RETURN_IF_ERROR(WritePrompts(out + "/test.jsonl", mix->test));
  WB_RETURN_IF_ERROR(WriteFileAtomically(
      out + "/manifest.json",
      data::ManifestJson(*mix, recipe, recipe_text,
                         tokenizer == nullptr ? "" : tokenizer->fingerprint())));
  std::printf("%s\nin %s:%s%s manifest.json\n", data::MixText(*mix).c_str(), out.c_str(),
              mix->train.empty() ? "" : " train.jsonl,", mix->test.empty() ? "" : " test.jsonl,");
  return absl::OkStatus();
}

}  // namespace wideberth::launch
