// SPDX-License-Identifier: Apache-2.0
// run.db: what happened in a run, in SQLite (WAL). An accepted group is on disk here before its
// actor hears so; steps, leases and events follow. Replays, reports and the dashboard read it. The
// only file that knows SQLite.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "base/mutex.h"
#include "learner/lease_table.h"
#include "proto/wire.pb.h"

struct sqlite3;
struct sqlite3_stmt;

namespace wideberth::learner {

struct JournalGroup {
  Phase phase = Phase::kTrain;
  int attempt = 0;
  Disposition disposition = Disposition::kUse;
  std::string prompt_id;
  std::string member;  // "actor-0"
  absl::Time accepted_at;
  int64_t step = -1;  // The optimiser step that was trained on it; -1: none (yet).
  // EraseTokens: the prompt has no tokens, completions have as many as they had, all 0, and no
  // log-probs.
  bool erased = false;
  proto::SubmitGroupRequest request;
};

// One completion of a step as the optimiser saw it.
struct TrainedCompletion {
  uint64_t group_id = 0;
  int index = 0;                  // Within the group's completions.
  absl::optional<double> reward;  // Empty: unscored.
  double advantage = 0;
};

struct JournalStep {
  int64_t step = 0;
  uint64_t version = 0;
  std::string fingerprint;
  std::string metrics_json;
  std::vector<uint64_t> group_ids;  // Trained on, in order.
};

// Thread-safe; calls block for the disk (a group costs one synced write, a millisecond or so).
// After a failed write (full disk) every further write fails with the same sentence and the file
// holds exactly what was confirmed before.
class Journal {
 public:
  // A new file. AlreadyExists where there is one.
  static absl::StatusOr<std::unique_ptr<Journal>> Create(absl::string_view path,
                                                         absl::string_view run_id);
  // An existing file; what an interrupted process left is recovered. NotFound where there is none,
  // FailedPrecondition for a file of another schema.
  static absl::StatusOr<std::unique_ptr<Journal>> Open(absl::string_view path);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // Durable when OK: the group, its completions and scores in one transaction. AlreadyExists for
  // the same phase, group and attempt again.
  absl::Status AppendGroup(const JournalGroup& group);
  // Durable when OK, before the version is published: what the step made, from which groups, with
  // which rewards and advantages; `metrics_json` is its line of metrics.jsonl. A step that is there
  // already is replaced.
  absl::Status AppendStep(const JournalStep& step, const std::vector<TrainedCompletion>& trained,
                          absl::Time ended_at);
  // A group that was stored for use is dropped (too old when its turn came) or to be answered again
  // (not sampled by the policy it claims) after all.
  absl::Status ChangeDisposition(Phase phase, uint64_t group_id, Disposition disposition);
  // For a run that keeps no texts, which token ids are as good as. Erases ids and log-probs of
  // groups that were refused or dropped, of those trained on up to `through_step`, and of
  // `group_ids` of `phase`, so that neither the file nor its log holds them any more; counts and
  // scores stay. Takes as long as writing the whole file anew.
  absl::Status EraseTokens(int64_t through_step, Phase phase = Phase::kTrain,
                           const std::vector<uint64_t>& group_ids = {});
  // Those of every group, at the end of a run: no group is stored any more, AppendGroup is
  // Unavailable. Groups stored for use that were neither trained on nor erased before are answered
  // again when the run goes on.
  absl::Status EraseAllTokens();
  // Notes that the run goes on in another process. Returns how often it did so far, this time
  // included.
  absl::StatusOr<int> Resume();

  // Kept in memory until the next append, `Flush` or the end: losing them on a crash costs history
  // only.
  void NoteLease(const proto::GroupLease& lease, absl::string_view member, absl::Time leased_at);
  void NoteEvent(absl::string_view kind, absl::string_view who, absl::string_view text,
                 absl::Time at);
  absl::Status Flush();

  // Everything that was stored, in order of (phase, group, attempt).
  absl::StatusOr<std::vector<JournalGroup>> ReadGroups();
  // Those that optimiser step `step` was trained on, in order.
  absl::StatusOr<std::vector<JournalGroup>> ReadGroupsOfStep(int64_t step);
  absl::StatusOr<int64_t> NumSteps();
  // In order. A step without usable groups has none.
  absl::StatusOr<std::vector<JournalStep>> ReadSteps();
  // Of step `step`, in order of group and index.
  absl::StatusOr<std::vector<TrainedCompletion>> ReadTrained(int64_t step);
  // As given to Create.
  absl::StatusOr<std::string> RunId();

 private:
  struct LeaseNote {
    std::string lease_id;
    uint64_t group_id;
    std::string prompt_id, member;
    uint64_t version;
    absl::Time at;
  };
  struct EventNote {
    std::string kind, who, text;
    absl::Time at;
  };
  explicit Journal(std::string path) : path_(std::move(path)) {}
  absl::Status OpenDatabase(bool create);
  absl::Status Prepare();
  absl::Status Execute(const char* sql) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Step(sqlite3_stmt* statement) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status InsertGroup(const JournalGroup& group) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status InsertCompletion(const JournalGroup& group, int index)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status InsertStep(const JournalStep& step, const std::vector<TrainedCompletion>& trained,
                          absl::Time ended_at) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status InsertNotes() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Erase(const std::string& which) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // `which`: a condition on the table of groups.
  absl::StatusOr<std::vector<JournalGroup>> ReadGroupsWhere(absl::string_view which)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  template <typename Work>
  absl::Status Commit(absl::string_view what, Work work) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Error(absl::string_view what);

  const std::string path_;
  Mutex mutex_;
  sqlite3* db_ = nullptr;
  std::vector<sqlite3_stmt*> statements_ ABSL_GUARDED_BY(mutex_);
  absl::Status broken_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;  // EraseAllTokens.
  std::vector<LeaseNote> leases_ ABSL_GUARDED_BY(mutex_);
  std::vector<EventNote> events_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace wideberth::learner
