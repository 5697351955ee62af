// SPDX-License-Identifier: Apache-2.0
#include "learner/policy.h"

#include "base/log.h"
#include "base/status.h"
#include "learner/rewards.h"

namespace wideberth::learner {

absl::StatusOr<Policy> Policy::Load(const proto::RunConfig& config) {
  Policy policy;
  WB_ASSIGN_OR_RETURN(policy.model, model::CausalLm::Load(config.policy().model()));
  WB_ASSIGN_OR_RETURN(
      policy.adapter,
      model::Adapter::Initialize(policy.model->spec(), config.policy().lora(), config.seed(),
                                 MasterType(*policy.model), policy.model->device()));
  Trainer::Options options;
  options.learner = config.learner();
  options.temperature = config.generation().temperature();
  options.max_completion_length = config.generation().max_new_tokens();
  options.term_weights = TermWeights(config.reward());
  WB_ASSIGN_OR_RETURN(policy.trainer, Trainer::Create(policy.model.get(), policy.adapter, options));
  WB_LOG(INFO) << "policy " << config.policy().model().path() << " ("
               << policy.model->spec().architecture << ", weights " << policy.model->fingerprint()
               << ")";
  return policy;
}

}  // namespace wideberth::learner
