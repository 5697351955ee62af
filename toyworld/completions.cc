// SPDX-License-Identifier: Apache-2.0
#include "toyworld/completions.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace wideberth::toyworld {

const PolicyMix kWarmStartMix = {{
    // full, coded, caveat, hedge, refuse, redirect
    {.66, .00, .00, .18, .08, .08},  // plain
    {.48, .00, .00, .20, .22, .10},  // alarm
    {.28, .00, .26, .18, .18, .10},  // amb
    {.46, .00, .18, .16, .12, .08},  // dual_ok
    {.20, .00, .04, .26, .26, .24},  // dual_bad
    {.12, .04, .00, .24, .36, .24},  // harm
    {.26, .12, .00, .20, .22, .20},  // jail
}};

namespace {

constexpr double kOpenerProbability = 0.8;
constexpr std::array<double, 3> kFullSteps = {.3, .4, .3};  // Two, three or four steps.
constexpr double kSwapProbability = 0.6;
constexpr size_t kRunOnWords = 23;  // So many or one more: no room for an end.

enum Corruption { kCut, kRunOn, kShuffle, kOffTopic, kRepeat, kSwap };
constexpr std::array<double, 6> kCorruptionWeights = {1, 3, 1, 2, 1, 2};

std::string Step(const std::string& joiner, const std::string& word, Random& random) {
  return absl::StrCat(joiner, " ", random.Choice(ThePhrases().step_verbs), " the ", word);
}

// "first V the w ... finally V the w ."
std::string Steps(const Words& words, Random& random) {
  Words parts;
  for (size_t i = 0; i < words.size(); ++i) {
    const bool last_of_many = i + 1 == words.size() && words.size() > 2;
    const std::string joiner = i == 0         ? "first"
                               : last_of_many ? "finally"
                                              : random.Choice(ThePhrases().joiners);
    parts.push_back(Step(joiner, words[i], random));
  }
  parts.push_back(".");
  return JoinWords(parts);
}

std::string WithOpener(const std::string& steps, Random& random) {
  if (!random.Happens(kOpenerProbability)) return steps;
  return absl::StrCat(random.Choice(ThePhrases().openers), " ", steps);
}

std::string RunOn(Words words, const Topic& topic, Random& random) {
  if (!words.empty() && words.back() == ".") words.pop_back();
  Words joiners = ThePhrases().joiners;
  joiners.push_back("finally");
  while (words.size() < kRunOnWords) {
    // One statement a draw: the order in which arguments are evaluated is the compiler's.
    const std::string& joiner = random.Choice(joiners);
    const std::string& word = random.Choice(topic.content);
    const Words step = SplitWords(Step(joiner, word, random));
    words.insert(words.end(), step.begin(), step.end());
  }
  words.resize(std::min(words.size(), kRunOnWords + random.Below(2)));
  return JoinWords(words);
}

// Every word of the topic replaced by `replacement()`, where `replaced()`.
template <typename Replaced, typename Replacement>
std::string ReplaceTopicWords(Words words, const Topic& topic, Replaced replaced,
                              Replacement replacement) {
  const Words of_topic = topic.AllWords();
  for (std::string& word : words) {
    if (std::find(of_topic.begin(), of_topic.end(), word) != of_topic.end() && replaced())
      word = replacement();
  }
  return JoinWords(words);
}

}  // namespace

std::string DrawCompletion(Style style, const Topic& topic, Random& random) {
  const Phrases& phrases = ThePhrases();
  const auto steps = [&](const Words& words, size_t num_steps) {
    return Steps(random.Sample(words, num_steps), random);
  };
  switch (style) {
    case Style::kFull:
      return WithOpener(steps(topic.content, 2 + random.Weighted(kFullSteps)), random);
    case Style::kCoded:
      return WithOpener(steps(topic.coded, 2 + random.Below(2)), random);
    case Style::kCaveat: {
      const std::string answer = steps(topic.content, 2 + random.Below(2));
      return absl::StrCat(answer, " ", random.Choice(phrases.caveats));
    }
    case Style::kHedge: {
      const std::string& hedge = random.Choice(phrases.hedges);
      const std::string& verb = random.Choice(phrases.step_verbs);
      const std::string& word = random.Choice(topic.content);
      return absl::StrReplaceAll(hedge, {{"{V}", verb}, {"{w}", word}});
    }
    case Style::kRefuse:
      return random.Choice(phrases.refusals);
    case Style::kRedirect:
      break;
  }
  const std::string& redirection = random.Choice(phrases.redirections);
  const Words two = random.Sample(topic.safe, 2);
  return absl::StrReplaceAll(redirection, {{"{a}", two[0]}, {"{b}", two[1]}});
}

std::string DrawCompletion(const PolicyMix& mix, const Prompt& prompt, Random& random) {
  const StyleMix& styles = mix[static_cast<size_t>(prompt.category)];
  return DrawCompletion(static_cast<Style>(random.Weighted(styles)), *prompt.topic, random);
}

std::string Corrupt(const std::string& completion, const Prompt& prompt, const Elsewhere& elsewhere,
                    Random& random) {
  Words words = SplitWords(completion);
  const auto always = [] { return true; };
  switch (static_cast<Corruption>(random.Weighted(kCorruptionWeights))) {
    case kCut:
      words.resize(1 + random.Below(std::max<size_t>(words.size(), 2) - 1));
      return JoinWords(words);
    case kRunOn:
      return RunOn(std::move(words), *prompt.topic, random);
    case kShuffle:
      return JoinWords(random.Sample(words, words.size()));
    case kOffTopic:
      return DrawCompletion(elsewhere.mix, random.Choice(elsewhere.prompts), random);
    case kRepeat: {
      const std::string one = random.Choice(prompt.topic->AllWords());
      return ReplaceTopicWords(std::move(words), *prompt.topic, always, [&] { return one; });
    }
    case kSwap:
      break;
  }
  const Words foreign = random.Choice(elsewhere.prompts).topic->AllWords();
  return ReplaceTopicWords(
      std::move(words), *prompt.topic, [&] { return random.Happens(kSwapProbability); },
      [&] { return random.Choice(foreign); });
}

}  // namespace wideberth::toyworld
