// SPDX-License-Identifier: Apache-2.0
// One line a message, timestamped, to standard error and (once opened) to the role's log file. Used
// by every folder.
#pragma once

#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace wideberth {

enum class LogSeverity { INFO, WARNING, ERROR };

// Names the process in every line ("learner-0") and, with a non-empty path, appends all lines to
// that file as well as to standard error. Called once, early in main(). Errors: the file cannot be
// opened.
absl::Status OpenLog(absl::string_view role, absl::string_view path);

// Whether lines also go to standard error (default true). A supervisor's children turn it off,
// their file has it all.
void SetLogToStderr(bool on);

// "2026-01-31T12:00:00.123Z I learner-0] text"; thread-safe, one write call a line.
void LogLine(LogSeverity severity, absl::string_view text);

namespace internal {
class LogMessage {
 public:
  explicit LogMessage(LogSeverity severity) : severity_(severity) {}
  ~LogMessage() { LogLine(severity_, stream_.str()); }
  std::ostringstream& stream() { return stream_; }

 private:
  LogSeverity severity_;
  std::ostringstream stream_;
};
}  // namespace internal
}  // namespace wideberth

#define WB_LOG(severity) \
  ::wideberth::internal::LogMessage(::wideberth::LogSeverity::severity).stream()
