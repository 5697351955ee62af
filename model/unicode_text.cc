// SPDX-License-Identifier: Apache-2.0
// See unicode_text.h.
#include "model/unicode_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>

#include "base/status.h"

namespace wideberth::model {
namespace {

struct CategoryRange {
  uint32_t first;
  uint32_t last;
  const char* category;
};

#include "model/unicode_tables.inc"

constexpr char kReplacement[] = "\xEF\xBF\xBD";

template <size_t kSize>
bool Contains(const CodePointRange (&ranges)[kSize], uint32_t code_point) {
  const CodePointRange* after = std::upper_bound(
      std::begin(ranges), std::end(ranges), code_point,
      [](uint32_t point, const CodePointRange& range) { return point < range.first; });
  return after != std::begin(ranges) && code_point <= (after - 1)->last;
}

// Length of the character that starts at `at`; 0 if none does, and then `*bad` is the length of the
// maximal invalid part and
// `*unfinished` says whether the bytes end before the character does.
size_t CharacterLength(absl::string_view bytes, size_t at, size_t* bad, bool* unfinished) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const uint8_t lead = byte(at);
  *bad = 1;
  *unfinished = false;
  if (lead < 0x80) return 1;
  size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  uint8_t low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < length; ++i) {
    if (at + i == bytes.size()) {
      *bad = i;
      *unfinished = true;
      return 0;
    }
    if (byte(at + i) < low || byte(at + i) > high) {
      *bad = i;
      return 0;
    }
    low = 0x80;
    high = 0xBF;
  }
  return length;
}

// Ranges without combining marks and without a character that NFC changes or that composes with its
// predecessor.
constexpr CodePointRange kPlainNfc[] = {
    {0x0, 0x2FF},     {0x400, 0x482},   {0x2010, 0x2027},   {0x3001, 0x3029},
    {0x3041, 0x3096}, {0x30A1, 0x30FA}, {0x3400, 0x4DBF},   {0x4E00, 0x9FFF},
    {0xAC00, 0xD7A3}, {0xFF01, 0xFF5E}, {0x1F300, 0x1FAFF},
};

std::string MapWithUtf8proc(absl::string_view text, NormalForm form) {
  int options = UTF8PROC_STABLE;
  options |=
      form == NormalForm::kNfc || form == NormalForm::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                                             static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
  WB_CHECK(size >= 0, "utf8proc refused valid UTF-8");
  return std::string(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
}

// A character the peer does not know is, for it, a starter that never composes: the text on either
// side normalises alone.
std::string NormalizeAroundInert(absl::string_view text, NormalForm form) {
  std::string result;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    size_t length;
    const uint32_t point = CodePointAt(text, at, &length);
    if (point >= 0x7FD && Contains(kInertInNormalization, point)) {
      result += MapWithUtf8proc(text.substr(start, at - start), form);
      result.append(text.data() + at, length);
      start = at + length;
    }
    at += length;
  }
  return result += MapWithUtf8proc(text.substr(start), form);
}

// The first character from `at` on that may change or combine; text.size() if none.
size_t NextNotPlain(absl::string_view text, size_t at) {
  size_t length = 1;
  for (; at < text.size(); at += length) {
    length = 1;
    if (static_cast<uint8_t>(text[at]) < 0x80) continue;
    if (!Contains(kPlainNfc, CodePointAt(text, at, &length))) return at;
  }
  return at;
}

size_t NextPlain(absl::string_view text, size_t at) {
  size_t length = 1;
  for (; at < text.size(); at += length) {
    if (Contains(kPlainNfc, CodePointAt(text, at, &length))) return at;
  }
  return at;
}

}  // namespace

size_t ValidUtf8Prefix(absl::string_view bytes) {
  size_t at = 0, bad;
  bool unfinished;
  while (at < bytes.size()) {
    uint64_t eight;
    if (at + 8 <= bytes.size() &&
        (std::memcpy(&eight, bytes.data() + at, 8), (eight & 0x8080808080808080u) == 0)) {
      at += 8;
      continue;
    }
    const size_t length = CharacterLength(bytes, at, &bad, &unfinished);
    if (length == 0) return at;
    at += length;
  }
  return at;
}

std::string ReplaceInvalidUtf8(absl::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  bool unfinished;
  while (!bytes.empty()) {
    const size_t valid = ValidUtf8Prefix(bytes);
    text.append(bytes.data(), valid);
    bytes.remove_prefix(valid);
    if (bytes.empty()) break;
    size_t bad;
    CharacterLength(bytes, 0, &bad, &unfinished);
    text += kReplacement;
    bytes.remove_prefix(bad);
  }
  return text;
}

size_t UnfinishedUtf8Suffix(absl::string_view bytes) {
  size_t bad;
  bool unfinished;
  for (size_t length = std::min<size_t>(3, bytes.size()); length > 0; --length) {
    const size_t at = bytes.size() - length;
    if ((static_cast<uint8_t>(bytes[at]) & 0xC0) == 0x80) continue;
    if (CharacterLength(bytes, at, &bad, &unfinished) == 0 && unfinished && bad == length)
      return length;
  }
  return 0;
}

uint32_t CodePointAt(absl::string_view text, size_t at, size_t* length) {
  const auto byte = [&](size_t i) {
    return static_cast<uint32_t>(static_cast<uint8_t>(text[at + i]));
  };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return *length = 1, lead;
  if (lead < 0xE0) return *length = 2, (lead & 0x1F) << 6 | (byte(1) & 0x3F);
  if (lead < 0xF0) {
    return *length = 3, (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  }
  *length = 4;
  return (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
}

void AppendUtf8(uint32_t code_point, std::string* text) {
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t size =
      utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes);
  text->append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(size));
}

bool IsPlainlyNfc(absl::string_view text) { return NextNotPlain(text, 0) == text.size(); }

std::string Normalize(absl::string_view text, NormalForm form) {
  if (form != NormalForm::kNfc) return NormalizeAroundInert(text, form);
  // A plain character never changes by what stands before it, so the text normalises in parts that
  // each begin with one.
  std::string result;
  result.reserve(text.size());
  size_t start = 0;
  while (true) {
    const size_t odd = NextNotPlain(text, start);
    if (odd == text.size()) break;
    size_t part = odd;
    while (part > start && (static_cast<uint8_t>(text[--part]) & 0xC0) == 0x80) {
    }
    const size_t end = NextPlain(text, odd);
    result.append(text.data() + start, part - start);
    result += NormalizeAroundInert(text.substr(part, end - part), form);
    start = end;
  }
  return result.append(text.data() + start, text.size() - start);
}

bool IsWhiteSpace(uint32_t c) {
  if (c <= 0x20) return c == 0x20 || (c >= 0x9 && c <= 0xD);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool IsNumeric(uint32_t code_point) {
  if (code_point < 0x80) return code_point >= '0' && code_point <= '9';
  return Contains(kDigits, code_point);
}

bool IsWordCharacter(uint32_t code_point) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return code_point == 0x200C || code_point == 0x200D;  // Join_Control is in \w.
  }
}

const std::vector<CodePointRange>* CategoryAdditions(absl::string_view category) {
  static const auto* const additions = [] {
    auto* all = new std::map<std::string, std::vector<CodePointRange>>{
        {"Lt", {}}, {"Nl", {}}, {"Z", {}}};  // The same in both.
    for (const CategoryRange& range : kCategoryAdditions) {
      (*all)[range.category].push_back({range.first, range.last});
    }
    return all;
  }();
  const auto found = additions->find(std::string(category));
  return found == additions->end() ? nullptr : &found->second;
}

absl::string_view SupportedCategories() { return "L Lu Ll Lt Lm Lo M N Nd Nl No P S Z"; }

}  // namespace wideberth::model
