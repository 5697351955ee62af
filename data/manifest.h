// SPDX-License-Identifier: Apache-2.0
// A mix as files: prompts as the learner reads them, the manifest beside them, and the same counts
// as text. Used by `wideberth data`.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "data/mix.h"

namespace wideberth::data {

// JSON lines {"id", "prompt", "unsafe", "category", "source"}.
std::string PromptLines(const std::vector<MixedPrompt>& prompts);

// JSON: seed and sha256 of the recipe, `tokenizer` (its fingerprint; empty: none), for each file
// written its prompts by source and category, bytes and sha256; for each source where its rows
// went; path, bytes and sha256 of each file read. Holds no machine's paths, no time.
std::string ManifestJson(const Mix& mix, const proto::DataRecipe& recipe,
                         absl::string_view recipe_text, absl::string_view tokenizer);

// For people: prompts by source and category, and where the rows of the sources went.
std::string MixText(const Mix& mix);

}  // namespace wideberth::data
