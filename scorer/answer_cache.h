// SPDX-License-Identifier: Apache-2.0
// Answers that cost money, by what was asked: in memory and, where a path is given, as JSON lines
// that outlive the process. Used by the scorer kind HTTP_JUDGE.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "base/mutex.h"

namespace wideberth::scorer {

// Thread-safe. Several processes may add to one file; each sees what was there when it opened it.
class AnswerCache final {
 public:
  // An empty `path`: memory only. Lines that are no {"key", "text"} (a crash may leave the last one
  // cut off) are left out with a warning. Errors: the file can be neither read nor made.
  static absl::StatusOr<std::unique_ptr<AnswerCache>> Open(const std::string& path);
  ~AnswerCache();
  AnswerCache(const AnswerCache&) = delete;
  AnswerCache& operator=(const AnswerCache&) = delete;

  absl::optional<std::string> Find(const std::string& key) const ABSL_LOCKS_EXCLUDED(mutex_);
  // On the disk when it returns, as far as the system's own memory goes; a full disk is a warning.
  void Add(const std::string& key, const std::string& text) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  explicit AnswerCache(int fd) : fd_(fd) {}
  void Load(const std::string& path, const std::string& lines);

  const int fd_;  // -1: memory only.
  mutable Mutex mutex_;
  std::unordered_map<std::string, std::string> answers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace wideberth::scorer
