// SPDX-License-Identifier: Apache-2.0
#include "actor/scoring.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "transport/message_limits.h"

namespace wideberth::actor {
namespace {

// A scorer's answer is taken as it is only when it keeps the contract; everything else is a typed
// absence.
proto::Score Checked(proto::Score score, const std::string& scorer_name) {
  score.set_scorer_name(scorer_name);
  if (!score.has_status()) {
    score.set_status(proto::MALFORMED_OUTPUT);
    score.set_message(absl::StrCat("scorer ", scorer_name, " answered without a known status"));
  } else if (score.status() == proto::SCORED && !std::isfinite(score.value())) {
    score.set_message(
        absl::StrCat("scorer ", scorer_name, " answered SCORED with ", score.value()));
    score.set_status(proto::MALFORMED_OUTPUT);
  } else if (score.status() == proto::SCORED && !score.has_value()) {
    score.set_status(proto::MALFORMED_OUTPUT);
    score.set_message(absl::StrCat("scorer ", scorer_name, " answered SCORED without a value"));
  }
  if (score.status() != proto::SCORED) score.clear_value();
  // The learner takes no more; a scorer's remark is worth no group.
  if (score.message().size() > transport::kMaxSentenceBytes)
    score.mutable_message()->resize(transport::kMaxSentenceBytes);
  if (score.model_fingerprint().size() > transport::kMaxIdBytes) score.clear_model_fingerprint();
  if (score.template_hash().size() > transport::kMaxIdBytes) score.clear_template_hash();
  if (!std::isfinite(score.latency_ms())) score.clear_latency_ms();
  return score;
}

std::vector<proto::Score> ScoreBy(const NamedScorer& scorer,
                                  const std::vector<proto::ScoreItem>& items,
                                  const ScoringOptions& options) {
  std::vector<proto::Score> scores(items.size());
  std::vector<size_t> open(items.size());
  for (size_t i = 0; i < items.size(); ++i) open[i] = i;
  absl::Duration backoff = options.first_backoff;
  for (int attempt = 0; !open.empty(); ++attempt) {
    std::vector<proto::ScoreItem> batch;
    for (const size_t i : open) batch.push_back(items[i]);
    std::vector<proto::Score> answers = scorer.client->Score(batch, scorer.timeout);
    answers.resize(batch.size());
    std::vector<size_t> again;
    for (size_t k = 0; k < open.size(); ++k) {
      proto::Score& score = scores[open[k]] = Checked(std::move(answers[k]), scorer.name);
      if (score.status() != proto::SCORED &&
          RuleFor(options.reward, score.status()) == proto::RewardConfig::RETRY) {
        again.push_back(open[k]);
      }
    }
    open = std::move(again);
    if (open.empty() || attempt >= options.reward.max_retries() ||
        absl::Now() >= options.retry_until)
      break;
    WB_LOG(WARNING) << "scorer " << scorer.name << " left " << open.size() << " of " << batch.size()
                    << " items without a score ("
                    << proto::ScoreStatus_Name(scores[open.front()].status()) << ": "
                    << scores[open.front()].message() << "); attempt " << attempt + 2 << " of "
                    << options.reward.max_retries() + 1 << " in " << absl::FormatDuration(backoff);
    if (!options.wait(backoff)) break;
    backoff = std::min(backoff * 2, absl::Seconds(10));
  }
  return scores;
}

}  // namespace

proto::RewardConfig::MissingRule RuleFor(const proto::RewardConfig& reward,
                                         proto::ScoreStatus status) {
  switch (status) {
    case proto::REFUSED_INPUT:
      return reward.on_refused_input();
    case proto::TIMED_OUT:
      return reward.on_timed_out();
    case proto::OVERLOADED:
      return reward.on_overloaded();
    case proto::MALFORMED_OUTPUT:
      return reward.on_malformed_output();
    case proto::MODEL_ERROR:
      return reward.on_model_error();
    case proto::SCORED:
      break;
  }
  return proto::RewardConfig::DROP_COMPLETION;
}

std::vector<std::vector<proto::Score>> ScoreItems(const std::vector<NamedScorer>& scorers,
                                                  const std::vector<proto::ScoreItem>& items,
                                                  const ScoringOptions& options) {
  std::vector<std::vector<proto::Score>> scores(scorers.size());
  if (items.empty()) return scores;
  std::vector<std::thread> threads;
  for (size_t s = 1; s < scorers.size(); ++s) {
    threads.emplace_back([&, s] { scores[s] = ScoreBy(scorers[s], items, options); });
  }
  if (!scorers.empty()) scores[0] = ScoreBy(scorers[0], items, options);
  for (std::thread& thread : threads) thread.join();
  return scores;
}

}  // namespace wideberth::actor
