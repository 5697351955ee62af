// SPDX-License-Identifier: Apache-2.0
// Conversations as a scorer gets them: parsing, the question asked about them, and the batcher.
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/verdict_template.h"
#include "scorer/batcher.h"
#include "scorer/conversation_key.h"
#include "scorer/guard_answer.h"
#include "tests/fuzz/fuzz.h"
#include "tests/scorer/fake_scoring_model.h"

namespace wideberth::fuzz {
namespace {

void TryText(const proto::ScoreItem& item) {
  for (const char* text : {"llama_guard_2", "User: {prompt}\n\nAgent: {completion}"}) {
    proto::ScorerConfig config;
    config.set_name("safety");
    config.set_template_(text);
    const auto question = model::VerdictTemplate::From(config);
    WB_CHECK(question.ok(), "no template");
    (void)question->Render(item);
  }
  (void)model::WhyNothingToScore(item);
  for (const bool truncated : {false, true}) {
    for (int subtask = 0; subtask <= proto::GenerativeConfig::Subtask_MAX; ++subtask) {
      if (!proto::GenerativeConfig::Subtask_IsValid(subtask)) continue;
      (void)scorer::ParseGuardAnswer(item.completion(), static_cast<scorer::Subtask>(subtask),
                                     truncated);
    }
    (void)scorer::ParseGrade(item.completion(), proto::JudgeConfig(), truncated);
  }
}

// Every item is answered once, also where the queue is shorter than the request.
void TryBatcher(const std::vector<proto::ScoreItem>& items) {
  scorer::FakeScoringModel model;
  FakeClock clock;
  scorer::BatcherOptions options;
  options.max_batch_tokens = 16;
  options.queue_items = 8;
  options.cache_items = 2;
  scorer::Batcher batcher(options, &model, &clock);
  int num_answers = 0;
  for (int round = 0; round < 2; ++round) {
    batcher.Submit(items, [&](std::vector<proto::Score> scores) {
      WB_CHECK(scores.size() == items.size(), "an item without an answer");
      for (const proto::Score& score : scores)
        WB_CHECK(score.has_status() && score.has_value() == (score.status() == proto::SCORED),
                 "a score that is none");
      ++num_answers;
    });
  }
  batcher.Close();
  batcher.Run();
  WB_CHECK(num_answers == 2, "a request without an answer");
}

}  // namespace

std::vector<std::string> Seeds() {
  proto::ScoreRequest request;
  *request.add_item() = scorer::MakeItem("How are you?", "Fine.\nHarmful response: no\n");
  *request.add_item() = scorer::MakeItem("How are you?", "Fine.");
  proto::ScoreItem item = scorer::MakeItem("And you?", "<think>a</think>\n**Response:** harmful\n");
  item.set_id("3");
  item.set_finish_reason(proto::LENGTH);
  proto::ChatMessage* answer = item.add_prompt();
  answer->set_role("assistant");
  answer->set_content("Grade: 4");
  *request.add_item() = item;
  return {request.SerializeAsString()};
}

bool TryOne(absl::string_view input) {
  proto::ScoreRequest request;
  if (!request.ParseFromArray(input.data(), static_cast<int>(input.size()))) return false;
  const std::vector<proto::ScoreItem> items(request.item().begin(), request.item().end());
  for (const proto::ScoreItem& item : items) {
    proto::ScoreItem other = item;
    other.set_id(absl::StrCat(item.id(), "'"));
    WB_CHECK(scorer::ConversationKey(other) == scorer::ConversationKey(item),
             "the id is in the key");
    TryText(item);
  }
  TryBatcher(items);
  return true;
}

}  // namespace wideberth::fuzz
