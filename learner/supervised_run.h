// SPDX-License-Identifier: Apache-2.0
// One run of a task on given data, from its configuration to its adapter: optimiser steps,
// validation, checkpoints, metrics, summary. Owned by main(); the thread that calls Run owns the
// device.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "learner/checkpoint.h"
#include "learner/dataset.h"
#include "learner/run_folder.h"
#include "learner/supervised.h"
#include "model/adapter.h"
#include "model/causal_lm.h"
#include "proto/config.pb.h"
#include "transport/health.h"
#include "transport/metrics.h"

namespace wideberth::learner {

class SupervisedRun {
 public:
  // Checks everything that can be checked before a folder is touched (configuration, model, data),
  // then claims `config.run_dir`, which is set. With `resume` it takes over the run in that folder:
  // from its newest whole checkpoint on, the same steps give the same adapter where arithmetic is
  // deterministic. Errors are one sentence each.
  static absl::StatusOr<std::unique_ptr<SupervisedRun>> Create(const proto::RunConfig& config,
                                                               const Clock* clock, bool resume);
  SupervisedRun(const SupervisedRun&) = delete;
  SupervisedRun& operator=(const SupervisedRun&) = delete;

  // Blocks until all steps are done, or until the step under way is after `Stop`: OK for both.
  // Whatever the end, a checkpoint, the adapter, summary.json and summary.txt are written as far as
  // the disk allows. A run that was stopped is not validated.
  absl::Status Run();

  // In place of Run: the run's folder is free again. Nothing else may be called afterwards.
  void Abandon();

  // Ends Run after the optimiser step under way. Any thread, any number of times.
  void Stop(absl::string_view why);
  // Any thread.
  transport::RoleStatus Status() const;
  const transport::Metrics& metrics() const { return metrics_; }

  const std::string& run_id() const { return run_id_; }
  // Optimiser steps of the whole run: of all epochs, or learner.max_steps where that is fewer.
  int64_t num_steps() const { return num_steps_; }

 private:
  SupervisedRun(const proto::RunConfig& config, const Clock* clock);
  absl::Status LoadEverything();
  absl::Status OpenFolder(bool resume);
  absl::Status Restore();
  absl::Status Train();
  absl::Status TakeStep();
  absl::Status Note(const SupervisedStep& step, double seconds);
  absl::Status Validate();
  absl::Status WriteCheckpoint();
  absl::Status WriteResults(const absl::Status& ended);
  std::string SummaryJson(const absl::Status& ended, const std::string& results) const;
  std::string SummaryText(const absl::Status& ended, const std::string& results) const;
  std::string Fingerprint() const;
  int64_t steps_done() const;
  std::string StopReason() const;
  void SetState(absl::string_view state);

  const proto::RunConfig config_;
  const Clock* const clock_;
  std::string run_id_;
  bool resumed_ = false;
  transport::Metrics metrics_;
  std::unique_ptr<model::CausalLm> model_;
  std::shared_ptr<model::Adapter> adapter_;
  std::string start_fingerprint_;  // StartingPoint.fingerprint
  std::unique_ptr<SupervisedTask> task_;
  std::unique_ptr<SupervisedTrainer> trainer_;
  std::unique_ptr<RowOrder> order_;
  std::unique_ptr<RunFolder> folder_;
  std::unique_ptr<CheckpointStore> checkpoints_;
  int64_t num_steps_ = 0;

  // The device thread's.
  int64_t checkpointed_ = -1;  // Step of the newest checkpoint.
  int skipped_in_a_row_ = 0;
  std::string last_skip_;  // Why.
  int64_t num_tokens_ = 0, num_skipped_ = 0;
  int64_t steps_here_ = 0, tokens_here_ = 0;  // By this process.
  double seconds_here_ = 0;                   // In optimiser steps.
  absl::Time began_;
  double last_loss_ = 0;
  absl::optional<Validation> validation_;
  int64_t validated_ = -1;  // Step of `validation_`.

  mutable Mutex mutex_;
  std::string state_ ABSL_GUARDED_BY(mutex_) = "starting";
  std::string last_error_ ABSL_GUARDED_BY(mutex_);
  std::string stop_reason_ ABSL_GUARDED_BY(mutex_);
  int64_t step_ ABSL_GUARDED_BY(mutex_) = 0;  // Steps done; written by the device thread only.
  double tokens_per_second_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t rows_seen_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace wideberth::learner
