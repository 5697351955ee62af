// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/mutex.h"

namespace wideberth {
namespace {

struct LogSink {
  Mutex mutex;
  std::string role ABSL_GUARDED_BY(mutex);
  int fd ABSL_GUARDED_BY(mutex) = -1;
  std::atomic<bool> to_stderr{true};
};

LogSink& Sink() {
  static LogSink* const sink =
      new LogSink;  // Never destroyed: lines may be logged while statics are torn down.
  return *sink;
}

void WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // A log that cannot be written must not stop the work it describes.
    text.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace

absl::Status OpenLog(absl::string_view role, absl::string_view path) {
  LogSink& sink = Sink();
  MutexLock lock(sink.mutex);
  sink.role = std::string(role);
  if (path.empty()) return absl::OkStatus();
  const std::string file(path);
  const int fd = ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0)
    return absl::UnavailableError(
        absl::StrCat(file, ": cannot open the log file: ", std::strerror(errno)));
  if (sink.fd >= 0) ::close(sink.fd);
  sink.fd = fd;
  return absl::OkStatus();
}

void SetLogToStderr(bool on) { Sink().to_stderr = on; }

void LogLine(LogSeverity severity, absl::string_view text) {
  constexpr const char* kLetters[] = {"I", "W", "E"};
  LogSink& sink = Sink();
  MutexLock lock(sink.mutex);
  const std::string line =
      absl::StrCat(absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()), " ",
                   kLetters[static_cast<int>(severity)], " ",
                   sink.role.empty() ? "wideberth" : sink.role, "] ", text, "\n");
  if (sink.to_stderr) WriteAll(STDERR_FILENO, line);
  if (sink.fd >= 0) WriteAll(sink.fd, line);
}

}  // namespace wideberth
