// SPDX-License-Identifier: Apache-2.0
#include "base/redact.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/hash.h"

namespace wideberth {
namespace {

constexpr absl::string_view kBetween = " bytes, xxh3 ";
constexpr size_t kDigits = 16;

std::string End(absl::string_view mark) {
  return mark.empty() ? "]" : absl::StrCat(", ", mark, "]");
}

}  // namespace

std::string Redacted(absl::string_view text, absl::string_view mark) {
  return absl::StrCat("[", text.size(), kBetween, Fingerprint(text).substr(0, kDigits), End(mark));
}

bool IsRedacted(absl::string_view text, absl::string_view mark) {
  if (!absl::ConsumePrefix(&text, "[") || !absl::ConsumeSuffix(&text, End(mark))) return false;
  const size_t between = text.find(kBetween);
  if (between == absl::string_view::npos || between == 0) return false;
  const absl::string_view size = text.substr(0, between);
  const absl::string_view hash = text.substr(between + kBetween.size());
  const auto is_digit = [](unsigned char c) { return absl::ascii_isdigit(c); };
  const auto is_hex = [](unsigned char c) { return absl::ascii_isxdigit(c); };
  return hash.size() == kDigits && std::all_of(size.begin(), size.end(), is_digit) &&
         std::all_of(hash.begin(), hash.end(), is_hex);
}

}  // namespace wideberth
