// SPDX-License-Identifier: Apache-2.0
// A learner process other than rank 0: joins it, loads the same base, trains on its share of every
// step, and applies the same updates. It serves nobody and writes nothing but its log.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "base/mutex.h"
#include "learner/policy.h"
#include "proto/config.pb.h"
#include "transport/device_collective.h"
#include "transport/health.h"
#include "transport/rank_client.h"

namespace wideberth::learner {

// FailedPrecondition where the configuration this rank was given differs from rank 0's in what
// ranks do together (policy, generation, reward, learner), naming the first difference.
absl::Status CheckSameConfig(const proto::RunConfig& mine, const proto::RunConfig& rank_zeros);

// Owned by main(); the thread that calls Load and Run owns the device.
class LearnerRank {
 public:
  struct Options {
    int rank = 1;
    std::string address;                      // Of rank 0.
    absl::optional<int32_t> world_size;       // As this process was told; checked.
    absl::optional<proto::RunConfig> config;  // As this process was told; checked.
    std::string device;                       // Over policy.model.device; empty: that one.
    absl::Duration connect_timeout = absl::Minutes(10);
    transport::Credentials own;
  };

  // Waits for rank 0 and is told the run. Errors are one sentence each.
  static absl::StatusOr<std::unique_ptr<LearnerRank>> Join(Options options);

  // Loads the policy and shows rank 0 its fingerprint. `health_address` may be empty.
  absl::Status Load(const std::string& health_address);
  // Trains until the run has ended: OK. A rank 0 that cannot be reached is waited for, at most
  // learner.rank_timeout: it may be started again. Cancelled after `Stop`. Whatever the end but
  // the run's, rank 0 is told why.
  absl::Status Run();
  // Ends Run after the step under way, or at once where it waits. Any thread.
  void Stop(absl::string_view why);

  const proto::RunConfig& config() const { return config_; }
  const std::string& run_id() const { return run_id_; }
  transport::RoleStatus Status() const;  // Thread-safe.

 private:
  explicit LearnerRank(Options options) : options_(std::move(options)) {}
  absl::StatusOr<proto::JoinRankResponse> Connect(absl::Duration timeout);
  absl::Status Announce();
  absl::Status TrainUntilEnd();
  absl::Status Rejoin();
  bool stopped() const;
  void Note(absl::string_view state, uint64_t step);

  const Options options_;
  proto::RunConfig config_;
  std::string run_id_;
  std::string health_address_;
  Policy policy_;
  std::unique_ptr<transport::DeviceCollective> collective_;

  mutable Mutex mutex_;
  std::shared_ptr<transport::RankClient> client_ ABSL_GUARDED_BY(mutex_);
  bool waiting_ ABSL_GUARDED_BY(mutex_) = true;  // Not in the middle of a step.
  std::string stop_reason_ ABSL_GUARDED_BY(mutex_);
  std::string state_ ABSL_GUARDED_BY(mutex_) = "loading";
  std::string last_error_ ABSL_GUARDED_BY(mutex_);
  uint64_t steps_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace wideberth::learner
