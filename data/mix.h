// SPDX-License-Identifier: Apache-2.0
// The mix a recipe asks for: rows of several sources -> training and test prompts that have nothing
// in common. `wideberth data` writes it.
//
//   rows ──▶ drawing order (hash of seed and text) ──▶ lengths, duplicates ──▶ test, then train
//              └─ with `wrap`: requests and templates divided first, then paired
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "data/compose.h"
#include "data/rows.h"
#include "proto/data.pb.h"

namespace wideberth::data {

struct MixedPrompt {
  std::string id;  // "SOURCE-ID", or "SOURCE-" and a hash of the text; unique in the mix.
  std::string text;
  absl::optional<bool> unsafe;
  std::string category;  // Never empty, as is the source.
  std::string source;
};

struct Mix {
  std::vector<MixedPrompt> train, test;  // In an order drawn by the seed.
  // Of each source, in the recipe's order: where its rows went ("prompts"), or its "requests",
  // "templates" and the prompts made of them; of its "filler"; last "stay_clear_of".
  struct Part {
    std::string source, name;
    Account account;
  };
  std::vector<Part> parts;
  std::vector<InputFile> inputs;
};

// No prompt equals or nearly equals another as a request, in the same split or the other one, or
// anything of `stay_clear_of`; a request that serves several prompts with different templates does
// so in one split only. As whole texts, wrapper and filler included, no test prompt nearly equals a
// training prompt. The same recipe, files and tokenizer make the same mix.
// `count_tokens` may be null where the recipe has no lengths in tokens. `progress` gets a line for
// each source. Errors: an invalid recipe; a file that cannot be read; a broken row; the sources
// with too few prompts, with how many there are and what became of the others; an id used twice.
absl::StatusOr<Mix> MakeMix(const proto::DataRecipe& recipe, const std::string& root,
                            const TokenCounter& count_tokens,
                            const std::function<void(const std::string&)>& progress);

}  // namespace wideberth::data
