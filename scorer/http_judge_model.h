// SPDX-License-Identifier: Apache-2.0
// A judge behind HTTP: the rubric is put to an OpenAI-compatible server, a grade is read from its
// answer. No torch here.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/verdict_template.h"
#include "proto/config.pb.h"
#include "scorer/answer_cache.h"
#include "scorer/scoring_model.h"
#include "transport/chat_client.h"

namespace wideberth::scorer {

class HttpJudgeModel final : public ScoringModel {
 public:
  // `config` is validated and of kind HTTP_JUDGE. Reads rubric, key and cache; asks nothing.
  static absl::StatusOr<std::unique_ptr<HttpJudgeModel>> Create(
      const proto::ScorerConfig& config, const ScoringOptions& options = {},
      transport::ChatWaiting waiting = {});

  // The item's text is the question. Charged one token, so that a batch is whatever is at hand.
  PreparedItem Prepare(const proto::ScoreItem& item) override;

  // Asks max_concurrent at a time. `value` is the mean grade of the answers that could be read.
  // Without a value: MALFORMED_OUTPUT where none could, with what the first one says; where an
  // answer did not come, TIMED_OUT, OVERLOADED (429, 5xx, a broken connection) or MODEL_ERROR
  // (anything else, a spent budget among them). Answers with a grade are remembered by content,
  // those without never.
  std::vector<proto::Score> ScoreBatch(const std::vector<PreparedItem>& items) override;

  void Interrupt() override { client_->Cancel(); }

  const ScorerIdentity& identity() const override { return identity_; }
  GenerationStats generation() const override { return stats_; }

 private:
  struct Reply {
    absl::StatusOr<transport::ChatAnswer> answer = absl::UnknownError("not asked");
    absl::StatusOr<int64_t> grade = absl::UnknownError("not asked");
    bool remembered = false;
  };

  HttpJudgeModel(const proto::ScorerConfig& config, const ScoringOptions& options,
                 model::VerdictTemplate rubric, std::unique_ptr<transport::ChatClient> client,
                 std::unique_ptr<AnswerCache> cache);
  Reply Ask(const PreparedItem& item, int32_t sample) const;
  proto::Score Judge(const Reply* replies);

  const proto::ScorerConfig config_;
  const ScoringOptions options_;
  const model::VerdictTemplate rubric_;
  const std::unique_ptr<transport::ChatClient> client_;
  const std::unique_ptr<AnswerCache> cache_;
  ScorerIdentity identity_;
  GenerationStats stats_;
};

}  // namespace wideberth::scorer
