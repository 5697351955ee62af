// SPDX-License-Identifier: Apache-2.0
// The journal's way back: stored groups as the messages they came in. Further members of Journal.
#include <sqlite3.h>

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "learner/journal.h"

namespace wideberth::learner {
namespace {

class Query {
 public:
  Query(sqlite3* db, const char* sql) { sqlite3_prepare_v2(db, sql, -1, &statement_, nullptr); }
  ~Query() { sqlite3_finalize(statement_); }
  Query(const Query&) = delete;
  Query& operator=(const Query&) = delete;
  bool Next() {
    last_ = statement_ == nullptr ? SQLITE_ERROR : sqlite3_step(statement_);
    return last_ == SQLITE_ROW;
  }
  bool ok() const { return last_ == SQLITE_DONE; }
  int64_t Int(int column) const { return sqlite3_column_int64(statement_, column); }
  double Real(int column) const { return sqlite3_column_double(statement_, column); }
  bool IsNull(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }
  std::string Bytes(int column) const {
    const void* data = sqlite3_column_blob(statement_, column);
    const int size = sqlite3_column_bytes(statement_, column);
    return size == 0 ? std::string() : std::string(static_cast<const char*>(data), size);
  }
  bool IsInt(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_INTEGER; }
  template <typename T, typename Repeated>
  void Array(int column, Repeated* out) const {
    const std::string bytes = Bytes(column);
    out->Resize(static_cast<int>(bytes.size() / sizeof(T)), 0);
    std::copy_n(bytes.data(), out->size() * sizeof(T),
                reinterpret_cast<char*>(out->mutable_data()));
  }

 private:
  sqlite3_stmt* statement_ = nullptr;
  int last_ = SQLITE_OK;
};

JournalGroup ReadGroup(const Query& row) {
  JournalGroup group;
  group.phase = static_cast<Phase>(row.Int(0));
  group.attempt = static_cast<int>(row.Int(2));
  group.disposition = static_cast<Disposition>(row.Int(3));
  group.prompt_id = row.Bytes(4);
  group.member = row.Bytes(6);
  group.accepted_at = absl::UnixEpoch() + absl::Seconds(row.Real(12));
  group.step = row.IsNull(13) ? -1 : row.Int(13);
  proto::SubmitGroupRequest& request = group.request;
  request.set_group_id(static_cast<uint64_t>(row.Int(1)));
  request.set_lease_id(row.Bytes(5));
  request.set_policy_version(static_cast<uint64_t>(row.Int(7)));
  request.set_adapter_fingerprint(row.Bytes(8));
  request.set_purpose(group.phase == Phase::kTrain ? proto::GroupLease::TRAIN
                                                   : proto::GroupLease::EVALUATE);
  group.erased = row.IsInt(9);
  if (!group.erased) row.Array<int32_t>(9, request.mutable_prompt_token_id());
  request.set_generate_seconds(row.Real(10));
  request.set_score_seconds(row.Real(11));
  return group;
}

void ReadCompletion(const Query& row, proto::Completion* completion) {
  if (row.IsInt(3)) {
    completion->mutable_token_id()->Resize(static_cast<int>(row.Int(3)), 0);
  } else {
    row.Array<int32_t>(3, completion->mutable_token_id());
  }
  row.Array<float>(4, completion->mutable_logprob());
  completion->set_finish_reason(static_cast<proto::FinishReason>(row.Int(5)));
  completion->set_text(row.Bytes(6));
}

void ReadScore(const Query& row, proto::Score* score) {
  score->set_scorer_name(row.Bytes(4));
  score->set_status(static_cast<proto::ScoreStatus>(row.Int(5)));
  if (!row.IsNull(6)) score->set_value(row.Real(6));
  score->set_message(row.Bytes(7));
  score->set_model_fingerprint(row.Bytes(8));
  score->set_template_hash(row.Bytes(9));
  score->set_latency_ms(row.Real(10));
  score->set_cached(row.Int(11) != 0);
}

}  // namespace

absl::StatusOr<std::vector<JournalGroup>> Journal::ReadGroups() {
  MutexLock lock(mutex_);
  return ReadGroupsWhere("TRUE");
}

absl::StatusOr<std::vector<JournalGroup>> Journal::ReadGroupsOfStep(int64_t step) {
  MutexLock lock(mutex_);
  return ReadGroupsWhere(absl::StrCat("phase = 1 AND disposition = 0 AND step = ", step));
}

absl::StatusOr<std::vector<JournalGroup>> Journal::ReadGroupsWhere(absl::string_view which) {
  const std::string of_groups = absl::StrCat(
      " WHERE (phase, group_id, attempt) IN (SELECT phase, group_id, attempt FROM groups WHERE ",
      which, ") ORDER BY phase, group_id, attempt");
  std::vector<JournalGroup> groups;
  std::map<std::tuple<int64_t, int64_t, int64_t>, size_t> place;
  const auto group_of = [&](const Query& row) -> proto::SubmitGroupRequest& {
    return groups[place.at({row.Int(0), row.Int(1), row.Int(2)})].request;
  };
  Query rows(db_,
             absl::StrCat("SELECT phase, group_id, attempt, disposition, prompt_id, lease_id, "
                          "member, policy_version, adapter_fingerprint, prompt_tokens, "
                          "generate_seconds, score_seconds, accepted_at, step FROM groups WHERE ",
                          which, " ORDER BY phase, group_id, attempt")
                 .c_str());
  while (rows.Next()) {
    place[{rows.Int(0), rows.Int(1), rows.Int(2)}] = groups.size();
    groups.push_back(ReadGroup(rows));
  }
  if (!rows.ok()) return Error("cannot read groups");
  Query completions(db_, absl::StrCat("SELECT phase, group_id, attempt, tokens, logprobs, "
                                      "finish_reason, text FROM completions",
                                      of_groups, ", idx")
                             .c_str());
  while (completions.Next()) {
    ReadCompletion(completions, group_of(completions).add_completion());
  }
  if (!completions.ok()) return Error("cannot read completions");
  Query scores(db_,
               absl::StrCat("SELECT phase, group_id, attempt, idx, scorer, status, value, message, "
                            "model_fingerprint, template_hash, latency_ms, cached FROM scores",
                            of_groups, ", idx, ordinal")
                   .c_str());
  while (scores.Next()) {
    ReadScore(scores,
              group_of(scores).mutable_completion(static_cast<int>(scores.Int(3)))->add_score());
  }
  if (!scores.ok()) return Error("cannot read scores");
  return groups;
}

absl::StatusOr<std::vector<JournalStep>> Journal::ReadSteps() {
  MutexLock lock(mutex_);
  std::vector<JournalStep> steps;
  std::map<int64_t, size_t> place;
  Query rows(db_, "SELECT step, version, fingerprint, metrics FROM steps ORDER BY step");
  while (rows.Next()) {
    place[rows.Int(0)] = steps.size();
    steps.push_back(
        {rows.Int(0), static_cast<uint64_t>(rows.Int(1)), rows.Bytes(2), rows.Bytes(3), {}});
  }
  if (!rows.ok()) return Error("cannot read steps");
  Query groups(db_,
               "SELECT step, group_id FROM groups WHERE phase = 1 AND disposition = 0 AND "
               "step IS NOT NULL ORDER BY step, group_id");
  while (groups.Next()) {
    const auto found = place.find(groups.Int(0));
    if (found != place.end())
      steps[found->second].group_ids.push_back(static_cast<uint64_t>(groups.Int(1)));
  }
  if (!groups.ok()) return Error("cannot read the groups of steps");
  return steps;
}

absl::StatusOr<std::vector<TrainedCompletion>> Journal::ReadTrained(int64_t step) {
  MutexLock lock(mutex_);
  std::vector<TrainedCompletion> trained;
  Query rows(db_, absl::StrCat("SELECT group_id, idx, reward, advantage FROM trained WHERE step = ",
                               step, " ORDER BY group_id, idx")
                      .c_str());
  while (rows.Next()) {
    TrainedCompletion& completion = trained.emplace_back();
    completion.group_id = static_cast<uint64_t>(rows.Int(0));
    completion.index = static_cast<int>(rows.Int(1));
    if (!rows.IsNull(2)) completion.reward = rows.Real(2);
    completion.advantage = rows.Real(3);
  }
  if (!rows.ok()) return Error("cannot read trained completions");
  return trained;
}

absl::StatusOr<std::string> Journal::RunId() {
  MutexLock lock(mutex_);
  Query query(db_, "SELECT value FROM meta WHERE key = 'run_id'");
  if (!query.Next()) return Error("cannot read the run's id");
  return query.Bytes(0);
}

absl::StatusOr<int64_t> Journal::NumSteps() {
  MutexLock lock(mutex_);
  Query query(db_, "SELECT COUNT(*) FROM steps");
  if (!query.Next()) return Error("cannot read steps");
  return query.Int(0);
}

}  // namespace wideberth::learner
