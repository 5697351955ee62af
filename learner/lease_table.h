// SPDX-License-Identifier: Apache-2.0
// Which prompt groups are out with whom. Actors take leases and hand in groups through it; the
// training loop tells it about versions. Every group is counted once, a group whose actor died or
// dawdled is leased again. No torch and no RPC here.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "proto/checkpoint.pb.h"
#include "proto/wire.pb.h"

namespace wideberth::learner {

// Parts of a run, in order. Each counts its groups apart. An EVALUATE run has one for each of its
// arms, in their order, and no others.
enum class Phase { kEvaluateBefore, kTrain, kEvaluateAfter, kFirstArm };
inline Phase PhaseOfArm(int arm) {
  return static_cast<Phase>(static_cast<int>(Phase::kFirstArm) + arm);
}
// Negative where the phase is no arm's.
inline int ArmOf(Phase phase) {
  return static_cast<int>(phase) - static_cast<int>(Phase::kFirstArm);
}
std::string PhaseName(Phase phase);  // "before", "train", "after", "arm0", ...

// Evaluation groups carry this bit in their id, so that their seeds are none of training's; all
// evaluations use the same ids and thus seeds.
inline constexpr uint64_t kEvaluationGroup = uint64_t{1} << 63;

// What becomes of a group that was stored.
enum class Disposition {
  kUse,    // Trained on, or counted in the evaluation.
  kRetry,  // Leased again, because scores are missing.
  kDrop,   // Never trained on; another group takes its place.
};

// What the journal knows of a phase that was begun by an earlier process.
struct RestoredPhase {
  struct Group {
    int attempt = 0;
    bool accepted = false;                // Stored for use: not leased again.
    std::set<std::string> stored_leases;  // Leases whose result is stored already.
  };
  std::map<uint64_t, Group> groups;
  std::unordered_set<uint64_t> done;  // Trained on or dropped.
  // How often the run was resumed. Leases of earlier processes are honoured: what their holders
  // still hand in counts, once.
  int incarnation = 0;
};

// Thread-safe; no call blocks. Policy version = number of optimiser steps done. While training at
// version v, groups for the steps v .. v+max_staleness are leased, never more than that many
// accepted groups ahead, and never for steps past `max_steps`. With max_staleness 0 every group of
// step v is therefore sampled with version v.
class LeaseTable {
 public:
  struct Options {
    int groups_per_step = 1;
    int group_size = 2;  // Completions per training group.
    int max_staleness = 0;
    uint64_t max_steps = 1;
    absl::Duration lease_timeout;
  };
  // The prompt of a group in a phase.
  using PromptOf = std::function<const proto::Prompt&(Phase phase, uint64_t group_id)>;

  struct Counters {
    uint64_t leased = 0;    // Leases handed out, repeats included.
    uint64_t expired = 0;   // Leases past their deadline.
    uint64_t returned = 0;  // Leases of lost or re-registered members.
    uint64_t accepted = 0;
    uint64_t duplicate = 0;
    uint64_t stale = 0;
    uint64_t refused = 0;
    uint64_t retried = 0;
    uint64_t dropped = 0;
  };

  LeaseTable(const Options& options, const Clock* clock, PromptOf prompt_of)
      : options_(options), clock_(clock), prompt_of_(std::move(prompt_of)) {}

  struct Evaluation {
    Phase phase = Phase::kEvaluateBefore;
    int num_groups = 0;  // 0 .. num_groups-1 are leased.
    int num_completions = 1;
    bool adapter_off = false;
    uint64_t version = 0;  // To answer with.
    std::string text;      // Not empty: the answer itself.
  };
  // Leases of an earlier phase are forgotten.
  void BeginEvaluation(const Evaluation& evaluation, RestoredPhase restored = {});
  // Leases training groups from version `version` on: the smallest ids that are not done.
  void BeginTraining(uint64_t version = 0, RestoredPhase restored = {});
  // Nothing is leased any more.
  void Close();

  // The optimiser made `version`; `group_ids` were trained on, and as many further groups may be
  // leased.
  void StepDone(uint64_t version, const std::vector<uint64_t>& group_ids);
  // A group that was accepted turns out to be another policy's: it is leased again.
  void Refuse(Phase phase, uint64_t group_id);
  // A group that was accepted is not trained on after all (too many versions behind when its turn
  // came).
  void DropAccepted(uint64_t group_id);

  // Up to `max_groups` leases for a member, oldest group first; expired leases are taken back
  // before. Empty: nothing to lease now.
  std::vector<proto::GroupLease> Take(const std::string& member_id, int max_groups);

  // First half of a submission. ACCEPTED: the group is reserved for this caller, who stores it and
  // then calls `Finish` or `Abandon` exactly once; `attempt` counts from 0. Any other outcome:
  // nothing changed but counters, `message` says why. Late results of an expired lease are welcome
  // as long as nobody else's were accepted. The version and fingerprint are checked by the caller.
  proto::SubmitGroupResponse::Outcome Begin(const proto::SubmitGroupRequest& request,
                                            std::string* message, Phase* phase, int* attempt);
  void Finish(Phase phase, uint64_t group_id, Disposition disposition);
  void Abandon(Phase phase, uint64_t group_id);

  // A member is gone: its groups are leased again at once. Returns how many.
  int ReturnLeasesOf(const std::string& member_id);

  // Groups that are out, and with how many members, for error messages and the page.
  struct Outstanding {
    int leased = 0;
    int waiting = 0;  // To be leased.
    std::set<std::string> member_ids;
  };
  Outstanding outstanding() const;
  Counters counters() const;
  void CountRefused();
  // The phase's answers are a given text.
  bool gives_text() const;
  // Evaluation groups that are not accepted or dropped yet.
  int NumOpen() const;
  // For a checkpoint: what is open, and the first id of training that never was.
  std::vector<proto::OpenGroup> OpenGroups() const;
  uint64_t next_group() const;

 private:
  enum class State { kWaiting, kLeased, kStoring, kAccepted };
  struct Group {
    State state = State::kWaiting;
    int attempt = 0;  // Times it came back without scores.
    uint64_t num_leases = 0;
    std::string lease_id;
    std::string member_id;
    uint64_t leased_version = 0;
    absl::Time deadline;
    std::set<std::string>
        stored_leases;  // Leases whose result is stored already (earlier attempts).
  };
  // A group as it is when it is opened.
  Group MakeGroupLocked(uint64_t id) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ExpireLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OpenTrainingGroupsLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  proto::GroupLease MakeLeaseLocked(uint64_t group_id, Group& group, const std::string& member_id)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  const Clock* const clock_;
  const PromptOf prompt_of_;
  mutable Mutex mutex_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
  Phase phase_ ABSL_GUARDED_BY(mutex_) = Phase::kTrain;
  bool adapter_off_ ABSL_GUARDED_BY(mutex_) = false;
  int num_completions_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string text_ ABSL_GUARDED_BY(mutex_);  // Evaluation.text
  uint64_t version_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t next_group_ ABSL_GUARDED_BY(mutex_) = 0;  // Of training.
  std::map<uint64_t, Group> groups_
      ABSL_GUARDED_BY(mutex_);  // Open ones of the phase, accepted but not trained ones included.
  std::unordered_set<uint64_t> done_
      ABSL_GUARDED_BY(mutex_);  // Trained on or dropped, of the phase.
  RestoredPhase restored_ ABSL_GUARDED_BY(mutex_);
  Counters counters_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace wideberth::learner
