// SPDX-License-Identifier: Apache-2.0
// Files as a boundary: whole-file reads, and writes that are either complete or absent. Used
// wherever something must survive a crash.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace wideberth {

// NotFound, PermissionDenied or Unavailable with the path and the system's reason.
absl::StatusOr<std::string> ReadFile(absl::string_view path);

// Writes `path`.partial, syncs it, renames it over `path` and syncs the folder: after a crash or on
// a full disk `path` holds the old or the new bytes, never a part; the partial file is removed on
// failure.
absl::Status WriteFileAtomically(absl::string_view path, absl::string_view bytes);

// Syncs a folder, so that what was renamed into it stays after a power cut.
absl::Status SyncFolder(absl::string_view path);

// mkdir -p.
absl::Status MakeDirectories(absl::string_view path);

// One advisory lock on `path` (created if absent), held until destruction. FailedPrecondition when
// another process holds it.
class FileLock {
 public:
  static absl::StatusOr<FileLock> Acquire(absl::string_view path);
  FileLock(FileLock&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  FileLock& operator=(FileLock&&) = delete;
  ~FileLock();

 private:
  explicit FileLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace wideberth
