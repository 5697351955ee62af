// SPDX-License-Identifier: Apache-2.0
#include "scorer/http_judge_model.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/status.h"
#include "scorer/guard_answer.h"

namespace wideberth::scorer {
namespace {

proto::ScoreStatus StatusOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:  // The scorer ends.
      return proto::OVERLOADED;
    case absl::StatusCode::kDeadlineExceeded:
      return proto::TIMED_OUT;
    default:
      return proto::MODEL_ERROR;
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpJudgeModel>> HttpJudgeModel::Create(
    const proto::ScorerConfig& config, const ScoringOptions& options,
    transport::ChatWaiting waiting) {
  const std::string who = absl::StrCat("scorer \"", config.name(), "\"");
  WB_ASSIGN_OR_RETURN(model::VerdictTemplate rubric, model::VerdictTemplate::From(config));
  auto client = transport::ChatClient::Create(config.http(), std::move(waiting));
  WB_RETURN_IF_ERROR(Annotate(client.status(), who));
  auto cache = AnswerCache::Open(config.http().cache_path());
  WB_RETURN_IF_ERROR(Annotate(cache.status(), who));
  return std::unique_ptr<HttpJudgeModel>(new HttpJudgeModel(config, options, std::move(rubric),
                                                            *std::move(client), *std::move(cache)));
}

HttpJudgeModel::HttpJudgeModel(const proto::ScorerConfig& config, const ScoringOptions& options,
                               model::VerdictTemplate rubric,
                               std::unique_ptr<transport::ChatClient> client,
                               std::unique_ptr<AnswerCache> cache)
    : config_(config),
      options_(options),
      rubric_(std::move(rubric)),
      client_(std::move(client)),
      cache_(std::move(cache)) {
  const proto::JudgeConfig& judge = config_.judge();
  identity_.scorer_name = config_.name();
  identity_.model_fingerprint =
      Fingerprint(absl::StrCat(config_.http().base_url(), " ", config_.http().model()));
  identity_.template_hash =
      Fingerprint(absl::StrCat(config_.kind(), " ", judge.low(), " ", judge.high(), " ",
                               judge.label(), " ", judge.num_samples(), " ", judge.temperature(),
                               " ", judge.max_new_tokens(), "\n", rubric_.text()));
}

PreparedItem HttpJudgeModel::Prepare(const proto::ScoreItem& item) {
  PreparedItem prepared;
  prepared.refusal = model::WhyNothingToScore(item, /*prompt_only=*/true);
  if (!prepared.refusal.empty()) return prepared;
  prepared.text = rubric_.Render(item);
  prepared.num_new_tokens = 1;
  return prepared;
}

HttpJudgeModel::Reply HttpJudgeModel::Ask(const PreparedItem& item, int32_t sample) const {
  const proto::JudgeConfig& judge = config_.judge();
  const std::string key = Fingerprint(
      absl::StrCat(config_.http().base_url(), "\n", config_.http().model(), "\n",
                   judge.temperature(), " ", judge.max_new_tokens(), " ", sample, "\n", item.text));
  Reply reply;
  if (const absl::optional<std::string> text = cache_->Find(key)) {
    reply.grade = ParseGrade(*text, judge, /*truncated=*/false);
    reply.answer = transport::ChatAnswer{*text};
    reply.remembered = reply.grade.ok();
    if (reply.remembered) return reply;  // Else it was read by another label or range.
  }
  reply.answer =
      client_->Ask({item.text, judge.temperature(), judge.max_new_tokens()}, item.deadline);
  if (!reply.answer.ok()) return reply;
  reply.grade = ParseGrade(reply.answer->text, judge, reply.answer->truncated);
  // A judge may repeat what it judges; its grade is all that is read again.
  if (reply.grade.ok()) {
    cache_->Add(key, options_.redact_text ? absl::StrCat(judge.label(), " ", *reply.grade)
                                          : reply.answer->text);
  }
  return reply;
}

proto::Score HttpJudgeModel::Judge(const Reply* replies) {
  const int32_t num_samples = config_.judge().num_samples();
  int64_t num_read = 0, sum = 0;
  std::string why;
  for (int32_t s = 0; s < num_samples; ++s) {
    const absl::Status& failure = replies[s].answer.status();
    if (!failure.ok()) {
      return MakeScore(identity_, StatusOf(failure.code()),
                       absl::StrCat("scorer \"", config_.name(), "\": ", failure.message()));
    }
    if (replies[s].grade.ok()) {
      ++num_read;
      sum += *replies[s].grade;
    } else if (why.empty()) {
      why = std::string(replies[s].grade.status().message());
    }
  }
  if (num_read == 0) {
    return MakeScore(identity_, proto::MALFORMED_OUTPUT,
                     num_samples == 1 ? why
                                      : absl::StrCat("none of ", num_samples,
                                                     " answers can be read; the first one: ", why));
  }
  proto::Score score = MakeScore(identity_, proto::SCORED, "");
  score.set_value(static_cast<double>(sum) / static_cast<double>(num_read));
  return score;
}

std::vector<proto::Score> HttpJudgeModel::ScoreBatch(const std::vector<PreparedItem>& items) {
  const absl::Time start = Clock::Real().Now();
  const size_t num_samples = config_.judge().num_samples();
  std::vector<size_t> scorable;
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].refusal.empty()) scorable.push_back(i);
  }
  std::vector<Reply> replies(scorable.size() * num_samples);
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t r = next++; r < replies.size(); r = next++) {
      replies[r] = Ask(items[scorable[r / num_samples]], static_cast<int32_t>(r % num_samples));
    }
  };
  {
    std::vector<std::jthread> workers;
    const size_t num_workers = std::min<size_t>(config_.http().max_concurrent(), replies.size());
    for (size_t w = 0; w < num_workers; ++w) workers.emplace_back(work);
  }
  std::vector<proto::Score> scores(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].refusal.empty())
      scores[i] = MakeScore(identity_, proto::REFUSED_INPUT, items[i].refusal);
  }
  for (size_t k = 0; k < scorable.size(); ++k)
    scores[scorable[k]] = Judge(&replies[k * num_samples]);
  for (const Reply& reply : replies) {
    stats_.num_answers += reply.answer.ok() && !reply.remembered;
    stats_.num_unreadable += reply.answer.ok() && !reply.grade.ok();
    stats_.num_remembered += reply.remembered;
  }
  const transport::ChatStats asked = client_->stats();
  stats_.num_tokens = asked.completion_tokens;
  stats_.num_prompt_tokens = asked.prompt_tokens;
  stats_.num_requests = asked.num_requests;
  stats_.num_retries = asked.num_retries;
  stats_.dollars = asked.dollars;
  for (proto::Score& score : scores)
    score.set_latency_ms(absl::ToDoubleMilliseconds(Clock::Real().Now() - start));
  return scores;
}

}  // namespace wideberth::scorer
