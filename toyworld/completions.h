// SPDX-License-Identifier: Apache-2.0
// Answers of the toy world by style, and the ways in which noisy data spoils them.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "toyworld/prompts.h"
#include "toyworld/random.h"
#include "toyworld/words.h"

namespace wideberth::toyworld {

enum class Style { kFull, kCoded, kCaveat, kHedge, kRefuse, kRedirect };
inline constexpr int kNumStyles = 6;

// Weights of the styles, in their order.
using StyleMix = std::array<double, kNumStyles>;
// How the policy's warm start answers a category: an imperfect safety policy.
using PolicyMix = std::array<StyleMix, kNumCategories>;
extern const PolicyMix kWarmStartMix;

// kCoded needs a harmful topic, kCaveat a dual one. At most 23 words.
std::string DrawCompletion(Style style, const Topic& topic, Random& random);
// By the prompt's category.
std::string DrawCompletion(const PolicyMix& mix, const Prompt& prompt, Random& random);

// What a corruption draws its foreign words and answers from; `prompts` is not empty.
struct Elsewhere {
  const std::vector<Prompt>& prompts;
  const PolicyMix& mix;
};
// One of: cut off, running on without an end, shuffled, the answer to another prompt, one word of
// the topic over and over, words of another topic.
std::string Corrupt(const std::string& completion, const Prompt& prompt, const Elsewhere& elsewhere,
                    Random& random);

}  // namespace wideberth::toyworld
