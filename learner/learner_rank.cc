// SPDX-License-Identifier: Apache-2.0
#include "learner/learner_rank.h"

#include <google/protobuf/util/message_differencer.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "learner/rank_share.h"
#include "learner/rank_sync.h"
#include "model/catch_torch.h"
#include "model/runtime.h"

namespace wideberth::learner {
namespace {

// What all ranks must agree on; where they serve and who else takes part is each one's own.
proto::RunConfig Common(const proto::RunConfig& config) {
  proto::RunConfig common;
  common.set_seed(config.seed());
  *common.mutable_policy() = config.policy();
  common.mutable_policy()->mutable_model()->clear_device();
  common.mutable_policy()->mutable_model()->clear_num_threads();
  *common.mutable_generation() = config.generation();
  *common.mutable_reward() = config.reward();
  *common.mutable_learner() = config.learner();
  common.mutable_learner()->clear_address();
  common.mutable_learner()->clear_health_port();
  return common;
}

}  // namespace

absl::Status CheckSameConfig(const proto::RunConfig& mine, const proto::RunConfig& rank_zeros) {
  std::string differences;
  google::protobuf::util::MessageDifferencer differencer;
  differencer.set_message_field_comparison(google::protobuf::util::MessageDifferencer::EQUIVALENT);
  differencer.ReportDifferencesToString(&differences);
  if (differencer.Compare(Common(rank_zeros), Common(mine))) return absl::OkStatus();
  const std::vector<std::string> lines = absl::StrSplit(differences, '\n');
  return absl::FailedPreconditionError(
      absl::StrCat("this rank's configuration is not rank 0's: ", lines.front(),
                   "; give all ranks the same files, or none but rank 0"));
}

absl::StatusOr<std::unique_ptr<LearnerRank>> LearnerRank::Join(Options options) {
  std::unique_ptr<LearnerRank> rank(new LearnerRank(std::move(options)));
  WB_ASSIGN_OR_RETURN(const proto::JoinRankResponse joined,
                      rank->Connect(rank->options_.connect_timeout));
  rank->run_id_ = joined.run_id();
  rank->config_ = joined.config();
  if (rank->options_.config.has_value()) {
    const absl::Status same = CheckSameConfig(*rank->options_.config, rank->config_);
    if (!same.ok()) {
      MutexLock lock(rank->mutex_);
      rank->client_->Leave(same.message());
      return same;
    }
  }
  if (!rank->options_.device.empty())
    rank->config_.mutable_policy()->mutable_model()->set_device(rank->options_.device);
  return rank;
}

absl::StatusOr<proto::JoinRankResponse> LearnerRank::Connect(absl::Duration timeout) {
  transport::RankClient::Options options;
  options.rank = options_.rank;
  options.own = options_.own;
  const absl::Time deadline = absl::Now() + timeout;
  std::shared_ptr<transport::RankClient> client;
  while (client == nullptr) {
    // In pieces, so that Stop is heard.
    auto connected = transport::RankClient::Connect(options_.address,
                                                    std::min(timeout, absl::Seconds(1)), options);
    MutexLock lock(mutex_);
    if (!stop_reason_.empty()) return absl::CancelledError(stop_reason_);
    if (connected.ok()) {
      client = client_ = *std::move(connected);
    } else if (!absl::IsUnavailable(connected.status()) || absl::Now() >= deadline) {
      return absl::Status(connected.status().code(),
                          absl::StrCat(connected.status().message(), " (tried for ",
                                       absl::FormatDuration(timeout), ")"));
    }
  }
  proto::JoinRankRequest request;
  if (options_.world_size.has_value()) request.set_world_size(*options_.world_size);
  return client->Join(request);
}

absl::Status LearnerRank::Load(const std::string& health_address) {
  health_address_ = health_address;
  model::ConfigureRuntime(config_.policy().model().num_threads());
  absl::StatusOr<Policy> policy = Policy::Load(config_);
  if (policy.ok()) {
    policy_ = *std::move(policy);
    return Announce();
  }
  MutexLock lock(mutex_);
  client_->Leave(policy.status().message());
  return policy.status();
}

absl::Status LearnerRank::Announce() {
  std::shared_ptr<transport::RankClient> client;
  {
    MutexLock lock(mutex_);
    client = client_;
  }
  proto::JoinRankRequest request;
  request.set_base_fingerprint(policy_.Fingerprint());
  if (!health_address_.empty()) request.set_health_address(health_address_);
  const absl::Status joined = client->Join(request).status();
  if (!joined.ok()) {
    client->Leave(joined.message());
    return joined;
  }
  Note("waiting", 0);
  collective_ = std::make_unique<transport::DeviceCollective>(
      std::make_unique<transport::StarCollective>(options_.rank, config_.learner().world_size(),
                                                  client.get()),
      transport::MakeDeviceSums(config_.policy().model().device()),
      absl::Seconds(config_.learner().rank_timeout()));
  policy_.trainer->ShareWith(collective_.get(), nullptr);
  return absl::OkStatus();
}

absl::Status LearnerRank::Run() {
  while (true) {
    const absl::Status ended = TrainUntilEnd();
    if (ended.ok()) return ended;
    {
      MutexLock lock(mutex_);
      last_error_ = std::string(ended.message());
      if (!stop_reason_.empty()) {
        client_->Leave(stop_reason_);
        return absl::CancelledError(stop_reason_);
      }
      // Gone, or another process that does not know this rank yet.
      if (!absl::IsUnavailable(ended) && !absl::IsNotFound(ended)) {
        client_->Leave(ended.message());
        return ended;
      }
    }
    WB_LOG(WARNING) << ended.message() << "; joins again where rank 0 comes back";
    WB_RETURN_IF_ERROR(Rejoin());
  }
}

absl::Status LearnerRank::Rejoin() {
  Note("looking for rank 0", 0);
  WB_ASSIGN_OR_RETURN(const proto::JoinRankResponse joined,
                      Connect(absl::Seconds(config_.learner().rank_timeout())));
  WB_RETURN_IF_ERROR(CheckSameConfig(config_, joined.config()));
  run_id_ = joined.run_id();
  return Announce();
}

absl::Status LearnerRank::TrainUntilEnd() {
  std::shared_ptr<transport::RankClient> client;
  {
    MutexLock lock(mutex_);
    client = client_;
  }
  int64_t done = -1;
  while (true) {
    {
      MutexLock lock(mutex_);
      waiting_ = true;
      if (!stop_reason_.empty()) return absl::CancelledError(stop_reason_);
    }
    WB_ASSIGN_OR_RETURN(const proto::FetchStepResponse next, client->FetchStep(done));
    if (next.ended()) return absl::OkStatus();
    proto::RankStep step;
    if (!step.ParseFromString(next.work()))
      return absl::DataLossError(absl::StrCat("step ", next.step(), " of rank 0 is no RankStep"));
    {
      MutexLock lock(mutex_);
      waiting_ = false;
    }
    Note("training", static_cast<uint64_t>(next.step()));
    if (done < 0) {
      WB_RETURN_IF_ERROR(collective_->Connect());
      WB_RETURN_IF_ERROR(model::CatchTorch("taking over rank 0's state", [&] {
        return ShareState(*collective_, policy_.trainer->adapter(), policy_.trainer->optimizer());
      }));
    }
    WB_ASSIGN_OR_RETURN(const StepMetrics metrics, policy_.trainer->Step(FromRankStep(step)));
    done = next.step();
    WB_LOG(INFO) << "step " << done << ": loss " << metrics.loss << ", gradient "
                 << metrics.grad_norm << (metrics.skipped ? ", " : "") << metrics.skipped_why;
    Note("waiting", static_cast<uint64_t>(done));
  }
}

void LearnerRank::Stop(absl::string_view why) {
  MutexLock lock(mutex_);
  if (stop_reason_.empty()) stop_reason_ = why.empty() ? "asked to stop" : std::string(why);
  if (waiting_ && client_ != nullptr) client_->Cancel();
}

void LearnerRank::Note(absl::string_view state, uint64_t step) {
  MutexLock lock(mutex_);
  state_ = std::string(state);
  if (step > 0) steps_ = step;
  client_->Note(state, steps_);
}

transport::RoleStatus LearnerRank::Status() const {
  transport::RoleStatus status;
  MutexLock lock(mutex_);
  status.state = state_;
  status.last_error = last_error_;
  status.policy_version = steps_;
  status.facts.emplace_back("run", run_id_);
  status.facts.emplace_back("rank",
                            absl::StrCat(options_.rank, " of ", config_.learner().world_size()));
  status.facts.emplace_back("rank 0", options_.address);
  return status;
}

}  // namespace wideberth::learner
