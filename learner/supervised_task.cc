// SPDX-License-Identifier: Apache-2.0
#include "learner/supervised_task.h"

#include "absl/strings/str_cat.h"
#include "learner/dpo.h"
#include "learner/guard.h"
#include "learner/reward_model.h"
#include "learner/sft.h"

namespace wideberth::learner {

absl::StatusOr<std::unique_ptr<SupervisedTask>> MakeSupervisedTask(const proto::RunConfig& config,
                                                                   const model::CausalLm& model) {
  switch (config.learner().task()) {
    case proto::SFT:
      return SftTask::Create(config, model);
    case proto::DPO:
      return DpoTask::Create(config, model);
    case proto::REWARD:
      return RewardTask::Create(config, model);
    case proto::GUARD:
      return GuardTask::Create(config, model);
    default:
      return absl::UnimplementedError(absl::StrCat("learner.task ",
                                                   proto::Task_Name(config.learner().task()),
                                                   " does not train on given data"));
  }
}

}  // namespace wideberth::learner
