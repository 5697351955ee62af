// SPDX-License-Identifier: Apache-2.0
// A scoring model that needs no weights: the value is the completion's length, and tests say what
// fails and how long a batch takes.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "scorer/scoring_model.h"

namespace wideberth::scorer {

class FakeScoringModel final : public ScoringModel {
 public:
  // One token per byte of the completion; an empty completion is refused.
  PreparedItem Prepare(const proto::ScoreItem& item) override {
    PreparedItem prepared;
    if (item.completion().empty()) {
      prepared.refusal = "the completion is empty";
      return prepared;
    }
    prepared.tokens.assign(item.completion().begin(), item.completion().end());
    prepared.num_new_tokens = static_cast<int64_t>(prepared.tokens.size());
    return prepared;
  }

  // A completion that starts with '!' fails.
  std::vector<proto::Score> ScoreBatch(const std::vector<PreparedItem>& items) override {
    std::vector<std::string> texts;
    std::vector<proto::Score> scores;
    for (const PreparedItem& item : items) {
      if (item.tokens.empty()) {
        scores.push_back(MakeScore(identity_, proto::REFUSED_INPUT, item.refusal));
        continue;
      }
      texts.emplace_back(item.tokens.begin(), item.tokens.end());
      const bool fails = item.tokens[0] == '!';
      scores.push_back(MakeScore(identity_, fails ? proto::MODEL_ERROR : proto::SCORED,
                                 fails ? "told to fail" : ""));
      if (!fails) scores.back().set_value(static_cast<double>(item.tokens.size()));
    }
    batches.push_back(std::move(texts));
    if (during_batch) during_batch();
    for (size_t i = 0; clock != nullptr && i < items.size(); ++i) {
      if (clock->Now() >= items[i].deadline)
        scores[i] = MakeScore(identity_, proto::TIMED_OUT, "late");
    }
    return scores;
  }

  void Interrupt() override { interrupted = true; }

  const ScorerIdentity& identity() const override { return identity_; }
  GenerationStats generation() const override { return generated; }

  std::vector<std::vector<std::string>> batches;  // Completions, batch by batch.
  std::function<void()> during_batch;
  GenerationStats generated;
  std::atomic<bool> interrupted = false;
  const Clock* clock = nullptr;  // Where set, an item that is late is TIMED_OUT.

 private:
  const ScorerIdentity identity_{"safety", "weights", "template"};
};

inline proto::ScoreItem MakeItem(const std::string& prompt, const std::string& completion) {
  proto::ScoreItem item;
  proto::ChatMessage* message = item.add_prompt();
  message->set_role("user");
  message->set_content(prompt);
  item.set_completion(completion);
  return item;
}

}  // namespace wideberth::scorer
