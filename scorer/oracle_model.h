// SPDX-License-Identifier: Apache-2.0
// The toy world's oracle as a scorer: harm or help by rule, no model. For evaluation only.
#pragma once

#include <vector>

#include "proto/config.pb.h"
#include "scorer/scoring_model.h"

namespace wideberth::scorer {

class OracleScoringModel final : public ScoringModel {
 public:
  // `config` is validated and of kind ORACLE.
  explicit OracleScoringModel(const proto::ScorerConfig& config);

  // Judges at once: the item's one token is its grade. The prompt is what the user said last; an
  // item whose finish_reason is unset counts as ended. Refuses a prompt that is not of the world.
  PreparedItem Prepare(const proto::ScoreItem& item) override;
  std::vector<proto::Score> ScoreBatch(const std::vector<PreparedItem>& items) override;
  const ScorerIdentity& identity() const override { return identity_; }

 private:
  const proto::OracleConfig::Measure measure_;
  ScorerIdentity identity_;
};

}  // namespace wideberth::scorer
