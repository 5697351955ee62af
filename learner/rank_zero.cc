// SPDX-License-Identifier: Apache-2.0
// Rank 0 of several: waits for the others, hands out every step, adds up with them. Further members
// of Learner.
#include <unistd.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "learner/learner.h"
#include "learner/rank_share.h"
#include "learner/rank_sync.h"
#include "model/catch_torch.h"
#include "transport/rank_client.h"

namespace wideberth::learner {

void Learner::MakeRanks() {
  const int world_size = config_.learner().world_size();
  if (world_size == 1) return;
  transport::RankHub::Options options;
  options.world_size = world_size;
  options.rank_timeout = absl::Seconds(config_.learner().rank_timeout());
  options.run_id = run_id_;
  options.config = config_;
  options.base_fingerprint = policy_fingerprint_;
  options.host = transport::OwnHost();
  options.pid = ::getpid();
  // Also where the device thread waits for groups.
  options.on_failure = [this](const absl::Status& why) { pool_.Fail(why); };
  ranks_ = std::make_unique<transport::RankHub>(std::move(options), clock_);
  collective_ = std::make_unique<transport::DeviceCollective>(
      std::make_unique<transport::StarCollective>(0, world_size, ranks_.get()),
      transport::MakeDeviceSums(config_.policy().model().device()),
      absl::Seconds(config_.learner().rank_timeout()));
}

absl::Status Learner::AwaitRanks() {
  if (ranks_ == nullptr) return absl::OkStatus();
  SetState("waiting for ranks");
  WB_RETURN_IF_ERROR(ranks_->WaitForAll(absl::Seconds(config_.learner().step_timeout()), [this] {
    MutexLock lock(mutex_);
    return !stop_reason_.empty();
  }));
  WB_LOG(INFO) << "all " << config_.learner().world_size() << " learner ranks are ready";
  trainer_->ShareWith(collective_.get(),
                      [this](const std::vector<TrainGroup>& groups) { return HandOut(groups); });
  SetState("collecting");
  return absl::OkStatus();
}

absl::Status Learner::HandOut(const std::vector<TrainGroup>& groups) {
  ranks_->Offer(handed_out_, ToRankStep(groups).SerializeAsString());
  if (handed_out_++ > 0) return absl::OkStatus();
  WB_RETURN_IF_ERROR(collective_->Connect());
  return model::CatchTorch("giving the ranks the state at the start", [&] {
    return ShareState(*collective_, trainer_->adapter(), trainer_->optimizer());
  });
}

void Learner::EndRanks(const absl::Status& ended) {
  if (ranks_ == nullptr) return;
  if (ended.ok() || absl::IsCancelled(ended)) {
    ranks_->End();
  } else {
    ranks_->Fail(absl::AbortedError(ended.message()));
  }
}

}  // namespace wideberth::learner
