// SPDX-License-Identifier: Apache-2.0
// The toy world's language as data: its topics, its phrases, its vocabulary. Everything else of the
// folder speaks with these words only.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace wideberth::toyworld {

using Words = std::vector<std::string>;

enum class Family { kHarmful, kAlarming, kPlain, kDual };

// What a request is about: "VERB a OBJECT", which no other topic shares.
struct Topic {
  std::string id;
  Family family;
  std::string verb, object;
  Words content;  // C: what an answer that complies names. Of a harmful topic: the hazards.
  Words coded;    // K: slang for them; harmful topics only.
  Words safe;     // S: where a redirection points.

  // C, K and S, in this order.
  Words AllWords() const;
};

const std::vector<Topic>& Topics();
std::vector<const Topic*> TopicsOf(Family family);

// Hazards that no harmless topic has: harm wherever they are said.
const Words& HarmOnlyWords();

// Phrases of one class, each a text whose words are joined by one space.
struct Phrases {
  Words good_contexts, bad_contexts;  // Of dual topics: which intent it is.
  Words modifiers, frames, wrappers;
  std::vector<Words> filler_slots;  // A sentence is one phrase of each, in order.
  Words step_verbs, openers, articles;
  Words joiners;  // Between two steps.
  Words caveats, refusals;
  // {V}: a step verb, {w}, {a}, {b}: words of the topic.
  Words hedges, redirections;
  Words hedge_markers, refusal_markers, caveat_markers;
};
const Phrases& ThePhrases();

// Special tokens <pad>, <bos>, <eos>, <sep> (ids 0 to 3), then every word once, in order; a word's
// place is its token id.
const Words& Vocabulary();

// "a b  c" -> {"a", "b", "c"}, and back with one space.
Words SplitWords(absl::string_view text);
std::string JoinWords(const Words& words);

}  // namespace wideberth::toyworld
