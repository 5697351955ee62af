// SPDX-License-Identifier: Apache-2.0
#include "learner/supervised_task.h"

#include "absl/strings/str_cat.h"
#include "learner/dpo.h"
#include "learner/guard.h"
#include "learner/reward_model.h"
#include "learner/sft.h"

namespace wideberth::learner {

absl::StatusOr<std::unique_ptr<SupervisedTask>> MakeSupervisedTask(
    const proto::RunConfig& config, const model::CausalLm& model, const model::Adapter* reference) {
  switch (config.learner().task()) {
    case proto::SFT:
      return SftTask::Create(config, model);
    case proto::DPO:
      return DpoTask::Create(config, model, reference);
    case proto::REWARD:
      return RewardTask::Create(config, model);
    case proto::GUARD:
      return GuardTask::Create(config, model);
    case proto::RL:
    case proto::EVALUATE:
      break;
  }
  return absl::InternalError(
      absl::StrCat(proto::Task_Name(config.learner().task()), " has no data to train on"));
}

}  // namespace wideberth::learner
