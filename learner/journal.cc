// SPDX-License-Identifier: Apache-2.0
#include "learner/journal.h"

#include <sqlite3.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/crash_point.h"
#include "base/status.h"

namespace wideberth::learner {
namespace {

constexpr int kSchemaVersion = 2;

// `phase`: 0 before, 1 train, 2 after, 3 and on an arm of an evaluation. `disposition`: 0 use, 1
// retry, 2 drop. Token ids are little-endian int32, log-probs float32. Times are seconds since
// 1970. Group ids of evaluation have their highest bit set and are therefore negative here. Erased
// token ids are an integer, how many there were.
constexpr char kSchema[] = R"(
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE groups (
  phase INTEGER NOT NULL, group_id INTEGER NOT NULL, attempt INTEGER NOT NULL, disposition INTEGER NOT NULL,
  prompt_id TEXT NOT NULL, lease_id TEXT NOT NULL, member TEXT NOT NULL, policy_version INTEGER NOT NULL,
  adapter_fingerprint TEXT NOT NULL, prompt_tokens BLOB NOT NULL, generate_seconds REAL, score_seconds REAL,
  accepted_at REAL NOT NULL, step INTEGER, PRIMARY KEY (phase, group_id, attempt)) WITHOUT ROWID;
CREATE INDEX groups_of_step ON groups (step);
CREATE TABLE completions (
  phase INTEGER NOT NULL, group_id INTEGER NOT NULL, attempt INTEGER NOT NULL, idx INTEGER NOT NULL,
  tokens BLOB NOT NULL, logprobs BLOB NOT NULL, finish_reason INTEGER NOT NULL, text TEXT NOT NULL,
  PRIMARY KEY (phase, group_id, attempt, idx)) WITHOUT ROWID;
CREATE TABLE scores (
  phase INTEGER NOT NULL, group_id INTEGER NOT NULL, attempt INTEGER NOT NULL, idx INTEGER NOT NULL, ordinal INTEGER NOT NULL,
  scorer TEXT NOT NULL, status INTEGER NOT NULL, value REAL, message TEXT, model_fingerprint TEXT, template_hash TEXT,
  latency_ms REAL, cached INTEGER, PRIMARY KEY (phase, group_id, attempt, idx, ordinal)) WITHOUT ROWID;
CREATE TABLE steps (
  step INTEGER PRIMARY KEY, version INTEGER NOT NULL, fingerprint TEXT NOT NULL, metrics TEXT NOT NULL, ended_at REAL NOT NULL);
CREATE TABLE trained (
  step INTEGER NOT NULL, group_id INTEGER NOT NULL, idx INTEGER NOT NULL, reward REAL, advantage REAL NOT NULL,
  PRIMARY KEY (step, group_id, idx)) WITHOUT ROWID;
CREATE TABLE leases (
  lease_id TEXT NOT NULL, group_id INTEGER NOT NULL, prompt_id TEXT NOT NULL, member TEXT NOT NULL, version INTEGER NOT NULL,
  leased_at REAL NOT NULL);
CREATE TABLE events (kind TEXT NOT NULL, who TEXT NOT NULL, text TEXT NOT NULL, at REAL NOT NULL);
)";

enum StatementIndex {
  kInsertGroup,
  kInsertCompletion,
  kInsertScore,
  kInsertStep,
  kMarkTrained,
  kInsertTrained,
  kChangeDisposition,
  kInsertLease,
  kInsertEvent
};
constexpr const char* kStatements[] = {
    "INSERT INTO groups VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,NULL)",
    "INSERT INTO completions VALUES (?,?,?,?,?,?,?,?)",
    "INSERT INTO scores VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
    "INSERT OR REPLACE INTO steps VALUES (?,?,?,?,?)",
    "UPDATE groups SET step = ? WHERE phase = 1 AND group_id = ? AND disposition = 0",
    "INSERT OR REPLACE INTO trained VALUES (?,?,?,?,?)",
    "UPDATE groups SET disposition = ? WHERE phase = ? AND group_id = ? AND disposition = 0",
    "INSERT INTO leases VALUES (?,?,?,?,?,?)",
    "INSERT INTO events VALUES (?,?,?,?)",
};

double Seconds(absl::Time time) { return absl::ToDoubleSeconds(time - absl::UnixEpoch()); }

// Binds values from left to right; texts and blobs must outlive the step.
class Binder {
 public:
  explicit Binder(sqlite3_stmt* statement) : statement_(statement) {}
  Binder& Int(int64_t value) {
    sqlite3_bind_int64(statement_, ++index_, value);
    return *this;
  }
  Binder& Real(double value) {
    sqlite3_bind_double(statement_, ++index_, value);
    return *this;
  }
  Binder& Text(absl::string_view value) {
    sqlite3_bind_text(statement_, ++index_, value.data() == nullptr ? "" : value.data(),
                      static_cast<int>(value.size()), SQLITE_STATIC);
    return *this;
  }
  Binder& Blob(const void* data, size_t num_bytes) {
    // A null pointer would bind NULL instead of an empty blob.
    sqlite3_bind_blob(statement_, ++index_, data == nullptr ? "" : data,
                      static_cast<int>(num_bytes), SQLITE_STATIC);
    return *this;
  }
  Binder& Null() {
    sqlite3_bind_null(statement_, ++index_);
    return *this;
  }

 private:
  sqlite3_stmt* const statement_;
  int index_ = 0;
};

}  // namespace

absl::Status Journal::Error(absl::string_view what) {
  const int code = sqlite3_extended_errcode(db_);
  const int system = sqlite3_system_errno(db_);
  const std::string message =
      absl::StrCat(path_, ": ", what, ": ", sqlite3_errmsg(db_),
                   system != 0 ? absl::StrCat(" (", std::strerror(system), ")") : "");
  if ((code & 0xff) == SQLITE_FULL) return absl::ResourceExhaustedError(message);
  if ((code & 0xff) == SQLITE_CONSTRAINT) return absl::AlreadyExistsError(message);
  return absl::UnavailableError(message);
}

absl::Status Journal::Execute(const char* sql) {
  if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) != SQLITE_OK)
    return Error(absl::string_view(sql).substr(0, 40));
  return absl::OkStatus();
}

absl::Status Journal::Step(sqlite3_stmt* statement) {
  const int code = sqlite3_step(statement);
  const absl::Status status = code == SQLITE_DONE ? absl::OkStatus() : Error("cannot write");
  sqlite3_reset(statement);
  return status;
}

absl::Status Journal::OpenDatabase(bool create) {
  MutexLock lock(mutex_);
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | (create ? SQLITE_OPEN_CREATE : 0);
  if (sqlite3_open_v2(path_.c_str(), &db_, flags, nullptr) != SQLITE_OK)
    return Error("cannot open the journal");
  sqlite3_busy_timeout(db_, 5000);
  WB_RETURN_IF_ERROR(Execute("PRAGMA journal_mode=WAL"));
  // FULL syncs the log on every commit: what is acknowledged survives a power cut, not only a
  // crash.
  return Execute("PRAGMA synchronous=FULL");
}

absl::Status Journal::Prepare() {
  MutexLock lock(mutex_);
  for (const char* sql : kStatements) {
    sqlite3_stmt* statement = nullptr;
    if (sqlite3_prepare_v3(db_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr) !=
        SQLITE_OK)
      return Error("cannot use the journal");
    statements_.push_back(statement);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Journal>> Journal::Create(absl::string_view path,
                                                         absl::string_view run_id) {
  std::unique_ptr<Journal> journal(new Journal(std::string(path)));
  if (std::filesystem::exists(journal->path_))
    return absl::AlreadyExistsError(absl::StrCat(path, ": a journal exists already"));
  WB_RETURN_IF_ERROR(journal->OpenDatabase(/*create=*/true));
  {
    MutexLock lock(journal->mutex_);
    const std::string meta =
        absl::StrCat("BEGIN IMMEDIATE;", kSchema, "PRAGMA user_version=", kSchemaVersion,
                     ";INSERT INTO meta VALUES ('run_id', '", run_id, "');COMMIT;");
    WB_RETURN_IF_ERROR(Annotate(journal->Execute(meta.c_str()), "cannot create the journal"));
  }
  WB_RETURN_IF_ERROR(journal->Prepare());
  return journal;
}

absl::StatusOr<std::unique_ptr<Journal>> Journal::Open(absl::string_view path) {
  std::unique_ptr<Journal> journal(new Journal(std::string(path)));
  if (!std::filesystem::exists(journal->path_))
    return absl::NotFoundError(absl::StrCat(path, ": there is no journal"));
  WB_RETURN_IF_ERROR(journal->OpenDatabase(/*create=*/false));
  int64_t version = 0;
  {
    MutexLock lock(journal->mutex_);
    const auto read = [](void* out, int, char** values, char**) {
      *static_cast<int64_t*>(out) = std::atoll(values[0]);
      return 0;
    };
    sqlite3_exec(journal->db_, "PRAGMA user_version", read, &version, nullptr);
  }
  if (version != kSchemaVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": journal schema is ", version, ", expected ", kSchemaVersion));
  }
  WB_RETURN_IF_ERROR(journal->Prepare());
  return journal;
}

Journal::~Journal() {
  (void)Flush();
  MutexLock lock(mutex_);
  for (sqlite3_stmt* statement : statements_) sqlite3_finalize(statement);
  sqlite3_close(db_);
}

template <typename Work>
absl::Status Journal::Commit(absl::string_view what, Work work) {
  WB_RETURN_IF_ERROR(broken_);
  absl::Status status = Execute("BEGIN IMMEDIATE");
  if (status.ok()) status = InsertNotes();
  if (status.ok()) status = work();
  if (status.ok()) status = Execute("COMMIT");
  if (status.ok()) {
    leases_.clear();
    events_.clear();
    return status;
  }
  sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
  status = Annotate(status, what);
  // The same group twice is the caller's mistake; anything else means that this file cannot be
  // trusted to take more.
  if (!absl::IsAlreadyExists(status)) broken_ = status;
  return status;
}

absl::Status Journal::InsertNotes() {
  for (const LeaseNote& note : leases_) {
    Binder(statements_[kInsertLease])
        .Text(note.lease_id)
        .Int(static_cast<int64_t>(note.group_id))
        .Text(note.prompt_id)
        .Text(note.member)
        .Int(static_cast<int64_t>(note.version))
        .Real(Seconds(note.at));
    WB_RETURN_IF_ERROR(Step(statements_[kInsertLease]));
  }
  for (const EventNote& note : events_) {
    Binder(statements_[kInsertEvent])
        .Text(note.kind)
        .Text(note.who)
        .Text(note.text)
        .Real(Seconds(note.at));
    WB_RETURN_IF_ERROR(Step(statements_[kInsertEvent]));
  }
  return absl::OkStatus();
}

absl::Status Journal::InsertCompletion(const JournalGroup& group, int index) {
  const proto::SubmitGroupRequest& request = group.request;
  const proto::Completion& completion = request.completion(index);
  const int64_t id = static_cast<int64_t>(request.group_id());
  const int phase = static_cast<int>(group.phase);
  Binder(statements_[kInsertCompletion])
      .Int(phase)
      .Int(id)
      .Int(group.attempt)
      .Int(index)
      .Blob(completion.token_id().data(), completion.token_id_size() * sizeof(int32_t))
      .Blob(completion.logprob().data(), completion.logprob_size() * sizeof(float))
      .Int(completion.finish_reason())
      .Text(completion.text());
  WB_RETURN_IF_ERROR(Step(statements_[kInsertCompletion]));
  for (int ordinal = 0; ordinal < completion.score_size(); ++ordinal) {
    const proto::Score& score = completion.score(ordinal);
    Binder binder(statements_[kInsertScore]);
    binder.Int(phase)
        .Int(id)
        .Int(group.attempt)
        .Int(index)
        .Int(ordinal)
        .Text(score.scorer_name())
        .Int(score.status());
    // A missing score is NULL, never a zero.
    if (score.status() == proto::SCORED && score.has_value()) {
      binder.Real(score.value());
    } else {
      binder.Null();
    }
    binder.Text(score.message())
        .Text(score.model_fingerprint())
        .Text(score.template_hash())
        .Real(score.latency_ms())
        .Int(score.cached());
    WB_RETURN_IF_ERROR(Step(statements_[kInsertScore]));
  }
  return absl::OkStatus();
}

absl::Status Journal::InsertGroup(const JournalGroup& group) {
  const proto::SubmitGroupRequest& request = group.request;
  Binder(statements_[kInsertGroup])
      .Int(static_cast<int>(group.phase))
      .Int(static_cast<int64_t>(request.group_id()))
      .Int(group.attempt)
      .Int(static_cast<int>(group.disposition))
      .Text(group.prompt_id)
      .Text(request.lease_id())
      .Text(group.member)
      .Int(static_cast<int64_t>(request.policy_version()))
      .Text(request.adapter_fingerprint())
      .Blob(request.prompt_token_id().data(), request.prompt_token_id_size() * sizeof(int32_t))
      .Real(request.generate_seconds())
      .Real(request.score_seconds())
      .Real(Seconds(group.accepted_at));
  WB_RETURN_IF_ERROR(Step(statements_[kInsertGroup]));
  CrashPoint("journal.group");
  for (int i = 0; i < request.completion_size(); ++i)
    WB_RETURN_IF_ERROR(InsertCompletion(group, i));
  return absl::OkStatus();
}

absl::Status Journal::AppendGroup(const JournalGroup& group) {
  MutexLock lock(mutex_);
  if (ended_) {
    return absl::UnavailableError(absl::StrCat(path_, ": group ", group.request.group_id(),
                                               " is not stored any more, the run has ended"));
  }
  return Commit(absl::StrCat("group ", group.request.group_id(), " could not be stored"),
                [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return InsertGroup(group); });
}

absl::Status Journal::InsertStep(const JournalStep& step,
                                 const std::vector<TrainedCompletion>& trained,
                                 absl::Time ended_at) {
  Binder(statements_[kInsertStep])
      .Int(step.step)
      .Int(static_cast<int64_t>(step.version))
      .Text(step.fingerprint)
      .Text(step.metrics_json)
      .Real(Seconds(ended_at));
  WB_RETURN_IF_ERROR(Step(statements_[kInsertStep]));
  for (uint64_t id : step.group_ids) {
    Binder(statements_[kMarkTrained]).Int(step.step).Int(static_cast<int64_t>(id));
    WB_RETURN_IF_ERROR(Step(statements_[kMarkTrained]));
  }
  CrashPoint("journal.step");
  for (const TrainedCompletion& completion : trained) {
    Binder binder(statements_[kInsertTrained]);
    binder.Int(step.step).Int(static_cast<int64_t>(completion.group_id)).Int(completion.index);
    if (completion.reward.has_value()) {
      binder.Real(*completion.reward);
    } else {
      binder.Null();
    }
    binder.Real(completion.advantage);
    WB_RETURN_IF_ERROR(Step(statements_[kInsertTrained]));
  }
  return absl::OkStatus();
}

absl::Status Journal::AppendStep(const JournalStep& step,
                                 const std::vector<TrainedCompletion>& trained,
                                 absl::Time ended_at) {
  MutexLock lock(mutex_);
  return Commit(absl::StrCat("step ", step.step, " could not be stored"),
                [&]()
                    ABSL_NO_THREAD_SAFETY_ANALYSIS { return InsertStep(step, trained, ended_at); });
}

absl::Status Journal::ChangeDisposition(Phase phase, uint64_t group_id, Disposition disposition) {
  MutexLock lock(mutex_);
  return Commit(absl::StrCat("group ", group_id, " could not be marked as ",
                             disposition == Disposition::kDrop ? "dropped" : "refused"),
                [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
                  Binder(statements_[kChangeDisposition])
                      .Int(static_cast<int>(disposition))
                      .Int(static_cast<int>(phase))
                      .Int(static_cast<int64_t>(group_id));
                  return Step(statements_[kChangeDisposition]);
                });
}

absl::Status Journal::Erase(const std::string& which) {
  // A number in place of the ids says how many there were. VACUUM's copy would be a file elsewhere.
  const std::string groups = absl::StrCat("typeof(prompt_tokens) = 'blob' AND (", which, ")");
  const std::string completions = absl::StrCat(
      "UPDATE completions SET tokens = length(tokens) / 4, logprobs = x'' WHERE (phase, group_id, "
      "attempt) IN (SELECT phase, group_id, attempt FROM groups WHERE ",
      groups, ")");
  const std::string prompts = absl::StrCat("UPDATE groups SET prompt_tokens = 0 WHERE ", groups);
  WB_RETURN_IF_ERROR(Execute("PRAGMA secure_delete=ON; PRAGMA temp_store=MEMORY"));
  WB_RETURN_IF_ERROR(Commit("token ids could not be erased", [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    WB_RETURN_IF_ERROR(Execute(completions.c_str()));
    return Execute(prompts.c_str());
  }));
  CrashPoint("journal.erased");
  // secure_delete does not reach the copies that pages keep of rows that moved to others.
  WB_RETURN_IF_ERROR(Execute("VACUUM"));
  if (sqlite3_wal_checkpoint_v2(db_, nullptr, SQLITE_CHECKPOINT_TRUNCATE, nullptr, nullptr) ==
      SQLITE_OK)
    return absl::OkStatus();
  return Error("erased token ids are still in its log, which somebody reads");
}

absl::Status Journal::EraseTokens(int64_t through_step, Phase phase,
                                  const std::vector<uint64_t>& group_ids) {
  const auto signed_id = [](std::string* out, uint64_t id) {
    absl::StrAppend(out, static_cast<int64_t>(id));
  };
  MutexLock lock(mutex_);
  return Erase(absl::StrCat("disposition != 0 OR (phase = 1 AND step <= ", through_step,
                            ") OR (phase = ", static_cast<int>(phase), " AND group_id IN (",
                            absl::StrJoin(group_ids, ", ", signed_id), "))"));
}

absl::Status Journal::EraseAllTokens() {
  MutexLock lock(mutex_);
  // What a member still hands in would stay.
  ended_ = true;
  WB_RETURN_IF_ERROR(Commit("groups could not be given back", [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return Execute(
        "UPDATE groups SET disposition = 1 WHERE disposition = 0 AND step IS NULL AND "
        "typeof(prompt_tokens) = 'blob'");
  }));
  return Erase("TRUE");
}

absl::StatusOr<int> Journal::Resume() {
  const auto read = [](void* out, int, char** values, char**) {
    *static_cast<int*>(out) = std::atoi(values[0]);
    return 0;
  };
  MutexLock lock(mutex_);
  int times = 0;
  WB_RETURN_IF_ERROR(Commit("the run could not be resumed", [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    WB_RETURN_IF_ERROR(
        Execute("INSERT INTO meta VALUES ('resumes', '1') ON CONFLICT (key) DO UPDATE SET value = "
                "CAST(value AS INTEGER) + 1"));
    sqlite3_exec(db_, "SELECT value FROM meta WHERE key = 'resumes'", read, &times, nullptr);
    return absl::OkStatus();
  }));
  return times;
}

void Journal::NoteLease(const proto::GroupLease& lease, absl::string_view member,
                        absl::Time leased_at) {
  MutexLock lock(mutex_);
  leases_.push_back({lease.lease_id(), lease.group_id(), lease.prompt().id(), std::string(member),
                     lease.policy_version(), leased_at});
}

void Journal::NoteEvent(absl::string_view kind, absl::string_view who, absl::string_view text,
                        absl::Time at) {
  MutexLock lock(mutex_);
  events_.push_back({std::string(kind), std::string(who), std::string(text), at});
}

absl::Status Journal::Flush() {
  MutexLock lock(mutex_);
  if (leases_.empty() && events_.empty()) return absl::OkStatus();
  return Commit("events could not be stored", [] { return absl::OkStatus(); });
}

}  // namespace wideberth::learner
