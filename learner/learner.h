// SPDX-License-Identifier: Apache-2.0
// One run from its configuration to its adapter: evaluates, collects groups, trains, publishes,
// evaluates, writes the summary. Or, with task EVALUATE, from its arms to their answers. Owned by
// main(), which serves its handler; the thread that calls Run owns the device.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "learner/arms.h"
#include "learner/checkpoint.h"
#include "learner/group_pool.h"
#include "learner/journal.h"
#include "learner/lease_table.h"
#include "learner/members.h"
#include "learner/probe.h"
#include "learner/prompts.h"
#include "learner/rewards.h"
#include "learner/run_folder.h"
#include "learner/service.h"
#include "learner/step_report.h"
#include "learner/train_step.h"
#include "model/adapter.h"
#include "model/causal_lm.h"
#include "model/conversation.h"
#include "proto/config.pb.h"
#include "report/summary.h"
#include "report/tensorboard.h"
#include "transport/adapter_shelf.h"
#include "transport/device_collective.h"
#include "transport/health.h"
#include "transport/metrics.h"
#include "transport/rank_hub.h"
#include "transport/weight_broadcast.h"

namespace wideberth::learner {

class Learner {
 public:
  // Checks everything that can be checked before a folder is touched (configuration, prompts,
  // model, prompt lengths), then claims `config.run_dir` and publishes version 0. `config` is
  // resolved: run_dir is set. Errors are one sentence each.
  // With `resume` it takes over the run in that folder instead: loads the newest whole checkpoint,
  // trains again on the journal's groups of the steps after it, which gives the same adapter where
  // arithmetic is deterministic, and goes on from there; nothing that was acknowledged is lost.
  static absl::StatusOr<std::unique_ptr<Learner>> Create(const proto::RunConfig& config,
                                                         const Clock* clock, bool resume = false);
  ~Learner();
  Learner(const Learner&) = delete;
  Learner& operator=(const Learner&) = delete;

  // Blocks until the run has ended and everybody was told: OK after max_steps and after `Stop`.
  // Whatever the end, the adapter of the last version, summary.json and summary.txt are written as
  // far as the disk allows. Nothing in it waits for ever: a wait without progress ends after
  // step_timeout with a sentence that names what was waited for.
  absl::Status Run();

  // In place of Run, where nobody can be served: the run's folder is free again. Nothing else may
  // be called afterwards.
  void Abandon();

  // Ends Run after the optimiser step under way. Any thread, any number of times.
  void Stop(absl::string_view why);

  // Thread-safe.
  transport::LearnerHandler* handler() { return service_.get(); }
  // Serves the other ranks; null where there are none.
  transport::RankHub* ranks() { return ranks_.get(); }
  transport::RoleStatus Status() const;
  const transport::Metrics& metrics() const { return metrics_; }
  const std::string& run_id() const { return run_id_; }

 private:
  Learner(const proto::RunConfig& config, const Clock* clock, PromptSet prompts);
  absl::Status LoadPolicy();
  absl::Status CheckPrompts();
  // As actors have to: the chat template and the tokenizer of the policy.
  absl::StatusOr<std::vector<int32_t>> Encode(const proto::Prompt& prompt) const;
  absl::Status ClaimFolder();
  absl::Status ReopenFolder();
  void MakeService();
  // Learner ranks beside this one. rank_zero.cc.
  void MakeRanks();
  absl::Status AwaitRanks();
  absl::Status HandOut(const std::vector<TrainGroup>& groups);
  void EndRanks(const absl::Status& ended);
  // Checkpoint and journal -> adapter, optimiser, statistics, version. restore.cc.
  absl::Status Restore();
  absl::StatusOr<uint64_t> RestoreCheckpoint();
  absl::Status CatchUp(const JournalStep& step);
  // What the journal has of a phase, as the lease table wants it; what may still be used goes to
  // the pool.
  absl::StatusOr<RestoredPhase> RestorePhase(Phase phase);
  // With redact_text: the journal forgets the token ids of `read`, which nobody reads again, and
  // those that the newest checkpoint makes unnecessary.
  // Where that fails it is said, and tried again the next time.
  void EraseTokens(Phase phase, const std::vector<AcceptedGroup>& read);
  absl::Status CheckRedacted() const;
  absl::Status WriteCheckpoint();
  // Packs the adapter as version `version_`; `Put` makes it visible to actors.
  std::shared_ptr<const transport::AdapterBlob> Pack() const;
  absl::Status Publish(std::shared_ptr<const transport::AdapterBlob> blob);
  uint64_t policy_version() const;

  void OpenTensorBoard();
  absl::Status RunPhases();
  absl::Status Evaluate(Phase phase);
  // Task EVALUATE: the arms one after the other, and what they leave. evaluate_arms.cc.
  bool evaluates_arms() const { return config_.learner().task() == proto::EVALUATE; }
  absl::Status LoadArms();
  int NumPromptsOfArms() const;
  absl::Status EvaluateArms();
  absl::Status EvaluateArm(int arm);
  absl::Status WriteAnswers(const absl::Status& ended);
  absl::Status Train();
  absl::Status TakeStep(const std::vector<AcceptedGroup>& groups);
  void AddToTotals(const StepMetrics& metrics, uint64_t version);
  absl::Status PublishStep(const std::vector<AcceptedGroup>& groups, StepReport* report,
                           absl::Time began);
  // `n` groups whose sampler was the policy it claims, in order of id; others are refused, stale
  // ones dropped.
  absl::StatusOr<std::vector<AcceptedGroup>> CollectProbed(Phase phase, size_t n);
  absl::StatusOr<std::vector<AcceptedGroup>> Collect(Phase phase, size_t n);
  std::string WhatItWaitsFor(Phase phase) const;
  absl::Status WriteResults(const absl::Status& ended);
  void TellEverybody();
  report::Summary MakeSummary(const absl::Status& ended) const;
  void SetState(absl::string_view state);

  const proto::RunConfig config_;
  const Clock* const clock_;
  std::string run_id_;
  const PromptSet prompts_;
  transport::Metrics metrics_;
  StepHistory history_{&metrics_};
  std::unique_ptr<model::CausalLm> model_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  absl::optional<model::ChatTemplate> chat_template_;
  std::shared_ptr<model::Adapter> adapter_;
  std::string start_fingerprint_;   // Policy.start_fingerprint
  std::string policy_fingerprint_;  // Policy.Fingerprint
  std::unique_ptr<Trainer> trainer_;
  RewardComposer composer_;
  std::unique_ptr<RunFolder> folder_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<CheckpointStore> checkpoints_;
  std::unique_ptr<report::TensorBoardWriter> tensorboard_;
  bool resumed_ = false;
  absl::optional<JournalStep> last_step_;  // Of the processes before.
  int incarnation_ = 0;                    // How often this run was resumed.
  std::vector<JournalGroup> stored_;       // Of earlier processes of this run.
  std::unique_ptr<LeaseTable> leases_;
  std::unique_ptr<Members> members_;
  GroupPool pool_;
  transport::AdapterShelf shelf_;
  std::unique_ptr<transport::BroadcastCarrier> broadcast_;  // On a GPU.
  std::unique_ptr<LearnerService> service_;
  std::unique_ptr<Probe> probe_;               // The device thread's.
  std::unique_ptr<transport::RankHub> ranks_;  // With several ranks.
  std::unique_ptr<transport::DeviceCollective> collective_;
  int64_t handed_out_ = 0;  // Steps.

  std::vector<Arm> arms_;  // Of EVALUATE.
  int64_t num_trained_prompts_ = 0;
  std::map<std::string, double> arm_seconds_;

  // The device thread's.
  std::string fingerprint_;  // Of the published version.
  std::vector<report::PromptPair> evaluation_;
  absl::Time step_began_;
  absl::Time run_began_;
  absl::Duration training_time_;
  int64_t trained_tokens_ = 0;
  int64_t num_tokens_ = 0;  // StepReport.num_tokens of the last step.
  double worst_logprob_difference_ = 0;
  double first_step_kl_ = 0;
  int skipped_in_a_row_ = 0;
  // Adapter, optimiser and statistics belong to `version_`: not in the middle of a step.
  bool whole_ = true;
  int64_t checkpointed_ = -1;  // Step of the newest checkpoint.

  mutable Mutex mutex_;
  std::string state_ ABSL_GUARDED_BY(mutex_) = "starting";
  std::string last_error_ ABSL_GUARDED_BY(mutex_);
  std::string stop_reason_ ABSL_GUARDED_BY(mutex_);
  uint64_t version_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace wideberth::learner
