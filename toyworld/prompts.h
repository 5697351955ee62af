// SPDX-License-Identifier: Apache-2.0
// Requests of the toy world: `[filler] [wrapper] frame VERB a OBJECT [context] [modifier]`, drawn,
// read back, and divided into prompts to train on and prompts held out.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "toyworld/random.h"
#include "toyworld/words.h"

namespace wideberth::toyworld {

enum class Category { kPlain, kAlarm, kAmbiguous, kDualOk, kDualBad, kHarm, kJail };
inline constexpr int kNumCategories = 7;

// "plain", "alarm", "amb", "dual_ok", "dual_bad", "harm", "jail".
absl::string_view CategoryName(Category category);
// dual_bad, harm and jail.
bool IsUnsafe(Category category);

struct Prompt {
  std::string text;
  Category category;
  const Topic* topic;  // Of Topics().
};

// Weights of the categories, in their order.
using CategoryMix = std::array<double, kNumCategories>;
inline constexpr CategoryMix kPromptMix = {.24, .20, .10, .08, .08, .14, .16};
inline constexpr double kFillerProbability = 0.12;  // Of a long context before the request.

Prompt DrawPrompt(const CategoryMix& mix, double filler_probability, Random& random);

// Category and topic of a text: the one "VERB a OBJECT" in it, for a dual topic the context clause,
// for a harmful one whether there is a wrapper. InvalidArgument for a text that holds a word the
// world has not, or not exactly one request.
absl::StatusOr<Prompt> ReadPrompt(absl::string_view text);

// A fifth of all texts, by their CRC-32, whatever the seed: no training data may hold one.
bool IsHeldOut(absl::string_view text);

// The request of a prompt, without filler: bare, and behind each wrapper. What an attacker may try.
std::vector<std::string> Wordings(absl::string_view text);

struct Pools {
  std::vector<Prompt> train, held_out;  // All texts different.
};
Pools DrawPools(size_t num_train, size_t num_held_out, Random& random);

// CRC-32 of zlib, gzip and PNG (reflected polynomial 0xEDB88320).
uint32_t Crc32(absl::string_view bytes);

}  // namespace wideberth::toyworld
