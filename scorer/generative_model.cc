// SPDX-License-Identifier: Apache-2.0
#include "scorer/generative_model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/status.h"
#include "model/verdict_template.h"
#include "scorer/guard_answer.h"

namespace wideberth::scorer {

GenerativeScoringModel::GenerativeScoringModel(const proto::ScorerConfig& config,
                                               const ScoringOptions& options,
                                               std::unique_ptr<AnswerModel> answers)
    : config_(config), options_(options), answers_(std::move(answers)) {
  const proto::GenerativeConfig& generative = config_.generative();
  identity_.scorer_name = config_.name();
  identity_.model_fingerprint = answers_->fingerprint();
  identity_.template_hash = Fingerprint(absl::StrCat(
      config_.kind(), " ", generative.subtask(), " ", generative.max_new_tokens(), " ",
      generative.temperature(), " ", generative.num_samples(), "\n", answers_->Description()));
  if (config_.kind() == proto::ScorerConfig::JUDGE) {
    const proto::JudgeConfig& judge = config_.judge();
    identity_.template_hash = Fingerprint(absl::StrCat(identity_.template_hash, " ", judge.low(),
                                                       " ", judge.high(), " ", judge.label()));
  }
}

PreparedItem GenerativeScoringModel::Prepare(const proto::ScoreItem& item) {
  PreparedItem prepared;
  const proto::GenerativeConfig& generative = config_.generative();
  const bool prompt_only = config_.kind() == proto::ScorerConfig::JUDGE ||
                           generative.subtask() == proto::GenerativeConfig::PROMPT_HARM;
  prepared.refusal = model::WhyNothingToScore(item, prompt_only);
  if (!prepared.refusal.empty()) return prepared;
  absl::StatusOr<std::vector<int32_t>> tokens = answers_->Read(item);
  if (!tokens.ok()) {
    prepared.refusal = std::string(tokens.status().message());
    return prepared;
  }
  const int64_t num_tokens = static_cast<int64_t>(tokens->size());
  if (num_tokens + generative.max_new_tokens() > answers_->context_tokens()) {
    prepared.refusal = absl::StrCat("the question has ", num_tokens, " tokens and its answer may ",
                                    "have ", generative.max_new_tokens(),
                                    ", the model's context is ", answers_->context_tokens());
  } else {
    prepared.tokens = *std::move(tokens);
    prepared.num_new_tokens = num_tokens - answers_->NumKnown(prepared.tokens) +
                              int64_t{generative.num_samples()} * generative.max_new_tokens();
  }
  return prepared;
}

absl::StatusOr<double> GenerativeScoringModel::ValueOf(const AnswerModel::Answer& answer) const {
  if (config_.kind() == proto::ScorerConfig::JUDGE) {
    WB_ASSIGN_OR_RETURN(const int64_t grade,
                        ParseGrade(answer.text, config_.judge(), answer.truncated));
    return static_cast<double>(grade);
  }
  WB_ASSIGN_OR_RETURN(
      const bool verdict,
      ParseGuardAnswer(answer.text, config_.generative().subtask(), answer.truncated));
  return verdict ? 1.0 : 0.0;
}

proto::Score GenerativeScoringModel::Judge(const AnswerModel::Answers& answers) {
  int64_t num_read = 0, num_tokens = 0;
  double sum = 0;
  std::string why;
  for (const AnswerModel::Answer& answer : answers.samples) {
    num_tokens += answer.num_tokens;
    if (answers.timed_out) continue;
    const absl::StatusOr<double> value = ValueOf(answer);
    if (value.ok()) {
      ++num_read;
      sum += *value;
    } else if (why.empty()) {
      why = std::string(value.status().message());
    }
  }
  const int64_t num_samples = static_cast<int64_t>(answers.samples.size());
  stats_.num_tokens += num_tokens;
  if (answers.timed_out) {
    return MakeScore(identity_, proto::TIMED_OUT,
                     absl::StrCat("no whole answer within ", config_.timeout(), " s, after ",
                                  num_tokens, " tokens"));
  }
  stats_.num_answers += num_samples;
  stats_.num_unreadable += num_samples - num_read;
  if (num_read == 0) {
    return MakeScore(identity_, proto::MALFORMED_OUTPUT,
                     num_samples == 1 ? why
                                      : absl::StrCat("none of ", num_samples,
                                                     " answers can be read; the first one: ", why));
  }
  proto::Score score = MakeScore(identity_, proto::SCORED, "");
  score.set_value(sum / static_cast<double>(num_read));
  return score;
}

void GenerativeScoringModel::ScoreSome(const std::vector<AnswerModel::Question>& questions,
                                       const std::vector<proto::Score*>& scores) {
  const absl::StatusOr<std::vector<AnswerModel::Answers>> answers = answers_->Generate(questions);
  if (answers.ok()) {
    WB_CHECK(answers->size() == questions.size(), "an answer model answers every question");
    for (size_t i = 0; i < questions.size(); ++i) *scores[i] = Judge((*answers)[i]);
  } else if (questions.size() == 1) {
    *scores[0] =
        MakeScore(identity_, proto::MODEL_ERROR,
                  absl::StrCat("scorer \"", config_.name(), "\": ", answers.status().message()));
  } else {
    for (size_t i = 0; i < questions.size(); ++i) ScoreSome({questions[i]}, {scores[i]});
  }
}

std::vector<proto::Score> GenerativeScoringModel::ScoreBatch(
    const std::vector<PreparedItem>& items) {
  const absl::Time start = Clock::Real().Now();
  std::vector<proto::Score> scores(items.size());
  std::vector<AnswerModel::Question> questions;
  std::vector<proto::Score*> targets;
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].tokens.empty()) {
      scores[i] = MakeScore(identity_, proto::REFUSED_INPUT, items[i].refusal);
    } else {
      questions.push_back({items[i].tokens, items[i].deadline});
      targets.push_back(&scores[i]);
    }
  }
  if (options_.deterministic) {
    for (size_t i = 0; i < questions.size(); ++i) ScoreSome({questions[i]}, {targets[i]});
  } else if (!questions.empty()) {
    ScoreSome(questions, targets);
  }
  for (proto::Score& score : scores)
    score.set_latency_ms(absl::ToDoubleMilliseconds(Clock::Real().Now() - start));
  return scores;
}

}  // namespace wideberth::scorer
