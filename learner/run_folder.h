// SPDX-License-Identifier: Apache-2.0
// The folder of one run on disk: claimed by one learner, never by a second; configuration, metrics,
// adapter and summary land here. The journal (run.db) and the logs live beside them.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/file.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

// RL and EVALUATE: actors and scorers take part, and there is a journal. The other tasks read their
// data and need nobody.
inline bool HasMembers(const proto::RunConfig& config) {
  return config.learner().task() == proto::RL || config.learner().task() == proto::EVALUATE;
}

// `folder` itself, or the adapter in it where it is the folder of a run.
std::string AdapterFolder(const std::string& folder);

// Not thread-safe; owned by the learner's thread. Holds the folder's lock while it lives.
class RunFolder {
 public:
  // Makes the folder and writes config.txtpb. AlreadyExists for a folder that holds a run (finished
  // or not), FailedPrecondition for one that a running learner holds; either way nothing in it is
  // changed. Log files may be there before.
  static absl::StatusOr<RunFolder> Claim(absl::string_view path, const proto::RunConfig& resolved);
  // The check alone, without touching anything: for the launcher before it starts processes.
  static absl::Status CheckFree(absl::string_view path);
  // Takes over the folder of a run that ended or died; nothing in it is changed. NotFound for a
  // folder without a run, FailedPrecondition for one that a running learner holds.
  static absl::StatusOr<RunFolder> Reopen(absl::string_view path);
  static absl::Status CheckHoldsRun(absl::string_view path);

  RunFolder(RunFolder&& other) noexcept
      : path_(std::move(other.path_)),
        lock_(std::move(other.lock_)),
        metrics_fd_(std::exchange(other.metrics_fd_, -1)) {}
  RunFolder& operator=(RunFolder&&) = delete;
  ~RunFolder();

  // Appends one line to metrics.jsonl in one write, so that a reader never sees half of it once it
  // returned OK; what a full disk cut off is taken back. ResourceExhausted or Unavailable with the
  // path.
  absl::Status AppendMetrics(absl::string_view json_line);
  // metrics.jsonl holds exactly these lines from now on.
  absl::Status RewriteMetrics(const std::vector<std::string>& json_lines);
  // Whole or absent.
  absl::Status Write(absl::string_view name, absl::string_view bytes) const;

  // Takes the claim back where the run could not begin: removes what it made, logs stay. The folder
  // is free for the next run then.
  void Abandon() const;

  const std::string& path() const { return path_; }
  std::string Join(absl::string_view name) const;

 private:
  static absl::StatusOr<RunFolder> Open(absl::string_view path, FileLock lock);
  RunFolder(std::string path, FileLock lock, int metrics_fd)
      : path_(std::move(path)), lock_(std::move(lock)), metrics_fd_(metrics_fd) {}
  std::string path_;
  FileLock lock_;
  int metrics_fd_;
};

// runs/<name>-<time>, for a configuration without run_dir.
std::string DefaultRunDir(const proto::RunConfig& config, absl::Time now);

}  // namespace wideberth::learner
