// SPDX-License-Identifier: Apache-2.0
// A guard or judge that reasons in text: questions -> answers -> verdicts or grades -> their mean.
// No torch here: an AnswerModel writes the answers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/config.pb.h"
#include "scorer/answer_model.h"
#include "scorer/scoring_model.h"

namespace wideberth::scorer {

class GenerativeScoringModel final : public ScoringModel {
 public:
  // `config` is validated and of kind GENERATIVE, or JUDGE with how it samples in `generative` as
  // well. With options.deterministic each item is decoded
  // by itself, so that its score is a function of the item to the last bit.
  GenerativeScoringModel(const proto::ScorerConfig& config, const ScoringOptions& options,
                         std::unique_ptr<AnswerModel> answers);

  // An item is charged its question behind the instruction and all it may generate.
  PreparedItem Prepare(const proto::ScoreItem& item) override;

  // `value` is the mean verdict (1: positive) or grade of the answers that could be read.
  // MALFORMED_OUTPUT
  // where none could, with what the first one says; TIMED_OUT where an item's deadline came first.
  std::vector<proto::Score> ScoreBatch(const std::vector<PreparedItem>& items) override;

  void Interrupt() override { answers_->Interrupt(); }

  const ScorerIdentity& identity() const override { return identity_; }
  GenerationStats generation() const override { return stats_; }

 private:
  absl::StatusOr<double> ValueOf(const AnswerModel::Answer& answer) const;
  proto::Score Judge(const AnswerModel::Answers& answers);
  void ScoreSome(const std::vector<AnswerModel::Question>& questions,
                 const std::vector<proto::Score*>& scores);

  const proto::ScorerConfig config_;
  const ScoringOptions options_;
  const std::unique_ptr<AnswerModel> answers_;
  ScorerIdentity identity_;
  GenerationStats stats_;
};

}  // namespace wideberth::scorer
