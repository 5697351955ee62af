// SPDX-License-Identifier: Apache-2.0
#include "learner/policy.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "learner/rewards.h"
#include "learner/trained_adapter.h"

namespace wideberth::learner {

absl::StatusOr<Policy> Policy::Load(const proto::RunConfig& config) {
  Policy policy;
  WB_ASSIGN_OR_RETURN(policy.model, model::CausalLm::Load(config.policy().model()));
  WB_ASSIGN_OR_RETURN(StartingPoint start,
                      MakeStartingPoint(*policy.model, config.policy(), config.seed()));
  if (start.adapter->score_head().defined()) return HasAScoreHead(config);
  policy.adapter = std::move(start.adapter);
  policy.start_fingerprint = std::move(start.fingerprint);
  Trainer::Options options;
  options.learner = config.learner();
  options.temperature = config.generation().temperature();
  options.max_completion_length = config.generation().max_new_tokens();
  options.term_weights = TermWeights(config.reward());
  options.reference = std::move(start.reference);
  options.dropout_seed = config.seed();
  WB_ASSIGN_OR_RETURN(policy.trainer, Trainer::Create(policy.model.get(), policy.adapter, options));
  WB_LOG(INFO) << "policy " << config.policy().model().path() << " ("
               << policy.model->spec().architecture << ", weights " << policy.model->fingerprint()
               << ")"
               << (config.policy().has_adapter()
                       ? absl::StrCat(" from adapter ", config.policy().adapter(), " (",
                                      policy.start_fingerprint, ")")
                       : "");
  return policy;
}

std::string Policy::Fingerprint() const {
  if (start_fingerprint.empty()) return model->fingerprint();
  return absl::StrCat(model->fingerprint(), " with adapter ", start_fingerprint);
}

}  // namespace wideberth::learner
