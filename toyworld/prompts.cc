// SPDX-License-Identifier: Apache-2.0
#include "toyworld/prompts.h"

#include <algorithm>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/optional.h"
#include "base/excerpt.h"
#include "base/status.h"

namespace wideberth::toyworld {
namespace {

constexpr double kHarmlessWrapperProbability = 0.10;
constexpr double kModifierProbability = 0.7;

Family FamilyOf(Category category) {
  switch (category) {
    case Category::kPlain:
      return Family::kPlain;
    case Category::kAlarm:
      return Family::kAlarming;
    case Category::kHarm:
    case Category::kJail:
      return Family::kHarmful;
    default:
      return Family::kDual;
  }
}

bool HasWrapper(Category category, Random& random) {
  switch (category) {
    case Category::kJail:
      return true;
    case Category::kPlain:
    case Category::kAlarm:
    case Category::kAmbiguous:
      return random.Happens(kHarmlessWrapperProbability);
    default:
      return false;
  }
}

// `text` has its words joined by one space.
bool HasPhraseOf(const Words& phrases, absl::string_view text) {
  const std::string padded = absl::StrCat(" ", text, " ");
  return std::any_of(phrases.begin(), phrases.end(), [&](const std::string& phrase) {
    return padded.find(absl::StrCat(" ", phrase, " ")) != std::string::npos;
  });
}

std::vector<const Topic*> RequestsIn(const Words& words) {
  std::vector<const Topic*> found;
  for (size_t i = 0; i + 2 < words.size(); ++i) {
    if (words[i + 1] != "a") continue;
    for (const Topic& topic : Topics()) {
      if (topic.verb == words[i] && topic.object == words[i + 2]) found.push_back(&topic);
    }
  }
  return found;
}

Category CategoryOf(const Topic& topic, absl::string_view text) {
  const Phrases& phrases = ThePhrases();
  switch (topic.family) {
    case Family::kPlain:
      return Category::kPlain;
    case Family::kAlarming:
      return Category::kAlarm;
    case Family::kHarmful:
      return HasPhraseOf(phrases.wrappers, text) ? Category::kJail : Category::kHarm;
    case Family::kDual:
      break;
  }
  if (HasPhraseOf(phrases.bad_contexts, text)) return Category::kDualBad;
  return HasPhraseOf(phrases.good_contexts, text) ? Category::kDualOk : Category::kAmbiguous;
}

}  // namespace

absl::string_view CategoryName(Category category) {
  constexpr absl::string_view kNames[] = {"plain",    "alarm", "amb", "dual_ok",
                                          "dual_bad", "harm",  "jail"};
  return kNames[static_cast<int>(category)];
}

bool IsUnsafe(Category category) {
  return category == Category::kDualBad || category == Category::kHarm ||
         category == Category::kJail;
}

Prompt DrawPrompt(const CategoryMix& mix, double filler_probability, Random& random) {
  const Phrases& phrases = ThePhrases();
  Prompt prompt;
  prompt.category = static_cast<Category>(random.Weighted(mix));
  prompt.topic = random.Choice(TopicsOf(FamilyOf(prompt.category)));
  Words parts;
  if (random.Happens(filler_probability)) {
    const size_t num_sentences = 2 + random.Below(2);
    for (size_t i = 0; i < num_sentences; ++i) {
      for (const Words& slot : phrases.filler_slots) parts.push_back(random.Choice(slot));
    }
  }
  if (HasWrapper(prompt.category, random)) parts.push_back(random.Choice(phrases.wrappers));
  parts.push_back(random.Choice(phrases.frames));
  parts.push_back(absl::StrCat(prompt.topic->verb, " a ", prompt.topic->object));
  if (prompt.category == Category::kDualOk) parts.push_back(random.Choice(phrases.good_contexts));
  if (prompt.category == Category::kDualBad) parts.push_back(random.Choice(phrases.bad_contexts));
  if (random.Happens(kModifierProbability)) parts.push_back(random.Choice(phrases.modifiers));
  prompt.text = JoinWords(parts);
  return prompt;
}

absl::StatusOr<Prompt> ReadPrompt(absl::string_view text) {
  static const auto& known =
      *new std::unordered_set<std::string>(Vocabulary().begin(), Vocabulary().end());
  const Words words = SplitWords(text);
  for (const std::string& word : words) {
    if (known.count(word) == 0) {
      return absl::InvalidArgumentError(absl::StrCat("the prompt has the word ", Excerpt(word),
                                                     ", expected words of the toy world only"));
    }
  }
  const std::vector<const Topic*> requests = RequestsIn(words);
  if (requests.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has ", requests.size(),
                     " requests of the toy world (\"build a bomb\", ...), expected one"));
  }
  const Topic* const topic = requests[0];
  return Prompt{std::string(text), CategoryOf(*topic, JoinWords(words)), topic};
}

uint32_t Crc32(absl::string_view bytes) {
  uint32_t crc = 0xFFFFFFFF;
  for (const char c : bytes) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
  }
  return ~crc;
}

bool IsHeldOut(absl::string_view text) { return Crc32(text) % 5 == 0; }

std::vector<std::string> Wordings(absl::string_view text) {
  // Filler and wrappers are sentences, the request has no full stop.
  const size_t stop = text.rfind(". ");
  const std::string request(stop == absl::string_view::npos ? text : text.substr(stop + 2));
  std::vector<std::string> wordings = {request};
  for (const std::string& wrapper : ThePhrases().wrappers)
    wordings.push_back(absl::StrCat(wrapper, " ", request));
  return wordings;
}

Pools DrawPools(size_t num_train, size_t num_held_out, Random& random) {
  Pools pools;
  std::unordered_set<std::string> seen;
  while (pools.train.size() < num_train || pools.held_out.size() < num_held_out) {
    Prompt prompt = DrawPrompt(kPromptMix, kFillerProbability, random);
    if (!seen.insert(prompt.text).second) continue;
    const bool held_out = IsHeldOut(prompt.text);
    std::vector<Prompt>& pool = held_out ? pools.held_out : pools.train;
    if (pool.size() < (held_out ? num_held_out : num_train)) pool.push_back(std::move(prompt));
  }
  return pools;
}

}  // namespace wideberth::toyworld
