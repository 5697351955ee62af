// SPDX-License-Identifier: Apache-2.0
#include "learner/run_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/text_proto.h"

namespace wideberth::learner {
namespace {

absl::Status HoldsRun(absl::string_view path, absl::string_view found) {
  return absl::AlreadyExistsError(
      absl::StrCat(path, ": holds a run already (", found,
                   " is there); give another run_dir or remove the folder"));
}

absl::Status WriteError(absl::string_view path, int error) {
  const std::string message = absl::StrCat(path, ": cannot write: ", std::strerror(error));
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return full ? absl::ResourceExhaustedError(message) : absl::UnavailableError(message);
}

}  // namespace

absl::Status RunFolder::CheckFree(absl::string_view path) {
  const std::filesystem::path folder{std::string(path)};
  std::error_code ignored;
  if (std::filesystem::exists(folder, ignored) && !std::filesystem::is_directory(folder, ignored)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": is a file, run_dir must be a folder"));
  }
  for (const char* name :
       {"config.txtpb", "run.db", "metrics.jsonl", "summary.json", "evaluation.json"}) {
    if (std::filesystem::exists(folder / name, ignored)) return HoldsRun(path, name);
  }
  return absl::OkStatus();
}

std::string AdapterFolder(const std::string& folder) {
  const std::string inner = absl::StrCat(folder, "/adapter");
  const auto is_there = [](const std::string& path) {
    return ::access((path + "/adapter_config.json").c_str(), R_OK) == 0;
  };
  return is_there(inner) && !is_there(folder) ? inner : folder;
}

absl::StatusOr<RunFolder> RunFolder::Claim(absl::string_view path,
                                           const proto::RunConfig& resolved) {
  if (path.empty())
    return absl::InvalidArgumentError("run_dir is empty, must be the path of a folder");
  WB_RETURN_IF_ERROR(CheckFree(path));
  WB_RETURN_IF_ERROR(MakeDirectories(path));
  absl::StatusOr<FileLock> lock = FileLock::Acquire(absl::StrCat(path, "/lock"));
  if (!lock.ok()) return Annotate(lock.status(), absl::StrCat("run_dir ", path, " is in use"));
  // Between the first look and the lock another learner may have come and gone.
  WB_RETURN_IF_ERROR(CheckFree(path));
  WB_RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(path, "/config.txtpb"), TextProto(resolved)));
  return Open(path, *std::move(lock));
}

absl::Status RunFolder::CheckHoldsRun(absl::string_view path) {
  const std::filesystem::path folder{std::string(path)};
  std::error_code ignored;
  // A run on given data has no journal.
  proto::RunConfig config;
  const bool journal =
      !MergeTextProtoFile((folder / "config.txtpb").string(), &config).ok() || HasMembers(config);
  for (const char* name : {"config.txtpb", "run.db"}) {
    if (std::filesystem::exists(folder / name, ignored)) continue;
    if (absl::string_view(name) == "run.db" && !journal) continue;
    return absl::NotFoundError(
        absl::StrCat(path, ": holds no run that could be resumed (", name, " is not there)"));
  }
  return absl::OkStatus();
}

absl::StatusOr<RunFolder> RunFolder::Reopen(absl::string_view path) {
  WB_RETURN_IF_ERROR(CheckHoldsRun(path));
  absl::StatusOr<FileLock> lock = FileLock::Acquire(absl::StrCat(path, "/lock"));
  if (!lock.ok()) return Annotate(lock.status(), absl::StrCat("run_dir ", path, " is in use"));
  return Open(path, *std::move(lock));
}

absl::StatusOr<RunFolder> RunFolder::Open(absl::string_view path, FileLock lock) {
  const std::string metrics = absl::StrCat(path, "/metrics.jsonl");
  const int fd = ::open(metrics.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return WriteError(metrics, errno);
  return RunFolder(std::string(path), std::move(lock), fd);
}

RunFolder::~RunFolder() {
  if (metrics_fd_ >= 0) ::close(metrics_fd_);
}

absl::Status RunFolder::AppendMetrics(absl::string_view json_line) {
  const std::string line = absl::StrCat(json_line, "\n");
  struct stat before {};
  if (::fstat(metrics_fd_, &before) != 0) return WriteError(Join("metrics.jsonl"), errno);
  ssize_t written = 0;
  do {
    written = ::write(metrics_fd_, line.data(), line.size());
  } while (written < 0 && errno == EINTR);
  if (written == static_cast<ssize_t>(line.size())) return absl::OkStatus();
  const int error = written < 0 ? errno : ENOSPC;
  if (::ftruncate(metrics_fd_, before.st_size) != 0)
    return WriteError(Join("metrics.jsonl"), errno);
  return WriteError(Join("metrics.jsonl"), error);
}

absl::Status RunFolder::RewriteMetrics(const std::vector<std::string>& json_lines) {
  std::string text;
  for (const std::string& line : json_lines) absl::StrAppend(&text, line, "\n");
  const std::string path = Join("metrics.jsonl");
  WB_RETURN_IF_ERROR(WriteFileAtomically(path, text));
  const int fd = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (fd < 0) return WriteError(path, errno);
  ::close(std::exchange(metrics_fd_, fd));
  return absl::OkStatus();
}

absl::Status RunFolder::Write(absl::string_view name, absl::string_view bytes) const {
  return WriteFileAtomically(Join(name), bytes);
}

void RunFolder::Abandon() const {
  for (const char* name :
       {"config.txtpb", "metrics.jsonl", "run.db", "run.db-wal", "run.db-shm", "lock"}) {
    ::unlink(Join(name).c_str());
  }
  ::rmdir(path_.c_str());  // Stays where there is anything else in it.
}

std::string RunFolder::Join(absl::string_view name) const { return absl::StrCat(path_, "/", name); }

std::string DefaultRunDir(const proto::RunConfig& config, absl::Time now) {
  return absl::StrCat("runs/", config.name(), "-",
                      absl::FormatTime("%Y%m%d-%H%M%S", now, absl::UTCTimeZone()));
}

}  // namespace wideberth::learner
