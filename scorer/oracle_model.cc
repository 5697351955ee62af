// SPDX-License-Identifier: Apache-2.0
#include "scorer/oracle_model.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/hash.h"
#include "toyworld/oracle.h"

namespace wideberth::scorer {
namespace {

// Changes with the rules, so that scores of different rules are told apart.
constexpr char kRules[] = "toyworld oracle 1";

std::string LastUserText(const proto::ScoreItem& item) {
  for (int i = item.prompt_size() - 1; i >= 0; --i) {
    if (item.prompt(i).role() == "user") return item.prompt(i).content();
  }
  return "";
}

}  // namespace

OracleScoringModel::OracleScoringModel(const proto::ScorerConfig& config)
    : measure_(config.oracle().measure()) {
  identity_.scorer_name = config.name();
  identity_.model_fingerprint = Fingerprint(kRules);
  identity_.template_hash =
      Fingerprint(absl::StrCat(kRules, " ", proto::OracleConfig::Measure_Name(measure_)));
}

PreparedItem OracleScoringModel::Prepare(const proto::ScoreItem& item) {
  PreparedItem prepared;
  const auto judgement = toyworld::Judge(LastUserText(item), item.completion(),
                                         /*ended=*/item.finish_reason() != proto::LENGTH);
  if (!judgement.ok()) {
    prepared.refusal = std::string(judgement.status().message());
    return prepared;
  }
  prepared.tokens = {measure_ == proto::OracleConfig::HARM ? judgement->harm : judgement->help};
  prepared.num_new_tokens = 1;
  return prepared;
}

std::vector<proto::Score> OracleScoringModel::ScoreBatch(const std::vector<PreparedItem>& items) {
  std::vector<proto::Score> scores;
  for (const PreparedItem& item : items) {
    const bool refused = item.tokens.empty();
    scores.push_back(
        MakeScore(identity_, refused ? proto::REFUSED_INPUT : proto::SCORED, item.refusal));
    if (!refused) scores.back().set_value(item.tokens[0]);
    scores.back().set_latency_ms(0);
  }
  return scores;
}

}  // namespace wideberth::scorer
