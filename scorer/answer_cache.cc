// SPDX-License-Identifier: Apache-2.0
#include "scorer/answer_cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"

namespace wideberth::scorer {

using nlohmann::json;

absl::StatusOr<std::unique_ptr<AnswerCache>> AnswerCache::Open(const std::string& path) {
  if (path.empty()) return std::unique_ptr<AnswerCache>(new AnswerCache(-1));
  const std::string folder = std::filesystem::path(path).parent_path().string();
  if (!folder.empty()) WB_RETURN_IF_ERROR(MakeDirectories(folder));
  const int fd = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) {
    return absl::UnavailableError(
        absl::StrCat(path, ": cannot be written: ", std::strerror(errno)));
  }
  std::unique_ptr<AnswerCache> cache(new AnswerCache(fd));
  WB_ASSIGN_OR_RETURN(const std::string lines, ReadFile(path));
  cache->Load(path, lines);
  return cache;
}

AnswerCache::~AnswerCache() {
  if (fd_ >= 0) ::close(fd_);
}

void AnswerCache::Load(const std::string& path, const std::string& lines) {
  MutexLock lock(mutex_);
  int64_t number = 0;
  for (const absl::string_view line : absl::StrSplit(lines, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    const json entry = json::parse(line, nullptr, /*allow_exceptions=*/false);
    const bool right = entry.is_object() && entry.contains("key") && entry["key"].is_string() &&
                       entry.contains("text") && entry["text"].is_string();
    if (right) {
      answers_[entry["key"].get<std::string>()] = entry["text"].get<std::string>();
    } else {
      WB_LOG(WARNING) << path << ":" << number
                      << ": is left out, expected {\"key\": text, \"text\": text}";
    }
  }
  // What is added begins a line of its own.
  if (!lines.empty() && lines.back() != '\n' && ::write(fd_, "\n", 1) != 1)
    WB_LOG(WARNING) << path << ": cannot be written: " << std::strerror(errno);
}

absl::optional<std::string> AnswerCache::Find(const std::string& key) const {
  MutexLock lock(mutex_);
  const auto found = answers_.find(key);
  if (found == answers_.end()) return absl::nullopt;
  return found->second;
}

void AnswerCache::Add(const std::string& key, const std::string& text) {
  const std::string line =
      json({{"key", key}, {"text", text}})
          .dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace) +
      "\n";
  MutexLock lock(mutex_);
  answers_[key] = text;
  // One call, so that lines of several processes do not mix.
  if (fd_ >= 0 && ::write(fd_, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
    WB_LOG(WARNING) << "an answer was not kept in http.cache_path: " << std::strerror(errno);
}

}  // namespace wideberth::scorer
