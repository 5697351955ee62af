// SPDX-License-Identifier: Apache-2.0
#include "base/excerpt.h"

#include <atomic>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/redact.h"

namespace wideberth {
namespace {

std::atomic<bool> redacts{false};

bool Continues(unsigned char c) { return (c & 0xC0) == 0x80; }

// Bytes of the character that begins here; 0 where none does.
size_t CharacterBytes(absl::string_view text) {
  const unsigned char first = text[0];
  const size_t size = first < 0x80                    ? 1
                      : first >= 0xC2 && first < 0xE0 ? 2
                      : first >= 0xE0 && first < 0xF0 ? 3
                      : first >= 0xF0 && first < 0xF5 ? 4
                                                      : 0;
  if (size > text.size()) return 0;
  for (size_t i = 1; i < size; ++i) {
    if (!Continues(text[i])) return 0;
  }
  return size;
}

std::string OneLine(absl::string_view text) {
  std::string line;
  while (!text.empty()) {
    const size_t size = CharacterBytes(text);
    if (size == 1) {
      line += absl::ascii_iscntrl(text[0]) ? ' ' : text[0];
    } else {
      absl::StrAppend(&line, size == 0 ? absl::string_view("?") : text.substr(0, size));
    }
    text.remove_prefix(size == 0 ? 1 : size);
  }
  return line;
}

}  // namespace

std::string Excerpt(absl::string_view text, size_t max_bytes, ExcerptOf part) {
  if (redacts) return Redacted(text);
  const std::string line = OneLine(absl::StripAsciiWhitespace(text));
  if (line.size() <= max_bytes) return absl::StrCat("\"", line, "\"");
  size_t at = part == ExcerptOf::kTail ? line.size() - max_bytes : max_bytes;
  if (part == ExcerptOf::kTail) {
    while (at < line.size() && Continues(line[at])) ++at;
    return absl::StrCat("\"...", line.substr(at), "\"");
  }
  while (at > 0 && Continues(line[at])) --at;
  return absl::StrCat("\"", line.substr(0, at), "...\"");
}

void RedactExcerpts(bool on) { redacts = on; }
bool ExcerptsAreRedacted() { return redacts; }

}  // namespace wideberth
