// SPDX-License-Identifier: Apache-2.0
// See token_decoder.h.
#include "model/token_decoder.h"

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "model/bpe.h"
#include "model/tokenizer_json.h"
#include "model/unicode_text.h"

namespace wideberth::model {
namespace {

constexpr absl::string_view kSupported =
    "ByteLevel, or a Sequence of Replace (any number), ByteFallback, Fuse and Strip (stop 0)";

// "<0x0A>" -> true and the byte.
bool ReadByteToken(absl::string_view token, char* byte) {
  if (token.size() != 6 || !absl::StartsWith(token, "<0x") || token[5] != '>') return false;
  if (!absl::ascii_isxdigit(token[3]) || !absl::ascii_isxdigit(token[4])) return false;
  *byte = absl::HexStringToBytes(token.substr(3, 2))[0];
  return true;
}

}  // namespace

absl::StatusOr<TokenDecoder> TokenDecoder::FromJson(const JsonNode& node) {
  TokenDecoder decoder;
  WB_ASSIGN_OR_RETURN(const std::string type, node.Field("type").StringOr(""));
  if (type == "ByteLevel") return decoder;
  if (type != "Sequence") return node.Field("type").Unsupported(kSupported);
  decoder.byte_level_ = false;
  WB_RETURN_IF_ERROR(decoder.ReadSequence(node.Field("decoders")));
  return decoder;
}

absl::Status TokenDecoder::ReadSequence(const JsonNode& node) {
  WB_ASSIGN_OR_RETURN(const std::vector<JsonNode> items, node.Items());
  size_t at = 0;
  Growth growth;
  const auto next_is = [&](absl::string_view type) {
    return at < items.size() && items[at].Field("type").value() == std::string(type);
  };
  for (; next_is("Replace"); ++at) {
    WB_RETURN_IF_ERROR(items[at].Field("pattern").OnlyFields({"String"}));
    WB_ASSIGN_OR_RETURN(std::string pattern, items[at].Field("pattern").Field("String").String());
    WB_ASSIGN_OR_RETURN(std::string content, items[at].Field("content").String());
    if (pattern.empty())
      return items[at].Field("pattern").Unsupported("a pattern of a character or more");
    WB_RETURN_IF_ERROR(growth.Add(items[at], pattern, content));
    replacements_.emplace_back(std::move(pattern), std::move(content));
  }
  if (!next_is("ByteFallback")) return node.Unsupported(kSupported);
  ++at;
  if (!next_is("Fuse")) return node.Unsupported(kSupported);
  ++at;
  if (next_is("Strip")) {
    WB_ASSIGN_OR_RETURN(strip_, items[at].Field("content").String());
    WB_ASSIGN_OR_RETURN(const int64_t start, items[at].Field("start").Integer());
    WB_ASSIGN_OR_RETURN(const int64_t stop, items[at].Field("stop").Integer());
    if (strip_.empty() || start < 0 || stop != 0) return items[at].Unsupported(kSupported);
    strip_left_ = static_cast<size_t>(start);
    ++at;
  }
  return at == items.size() ? absl::OkStatus() : node.Unsupported(kSupported);
}

std::string TokenDecoder::Contribution(absl::string_view token) const {
  if (byte_level_) return BytesOfToken(token);
  std::string text(token);
  for (const auto& [pattern, content] : replacements_) {
    text = absl::StrReplaceAll(text, {{pattern, content}});
  }
  return text;
}

void TokenDecoder::Emit(absl::string_view text, Progress* progress, std::string* out) const {
  while (progress->characters_to_strip > 0 && !text.empty()) {
    if (absl::ConsumePrefix(&text, strip_)) {
      --progress->characters_to_strip;
    } else {
      progress->characters_to_strip = 0;
    }
  }
  out->append(text.data(), text.size());
}

void TokenDecoder::Push(absl::string_view contribution, Progress* progress,
                        std::string* text) const {
  if (byte_level_) {
    progress->bytes.append(contribution.data(), contribution.size());
    const size_t keep = UnfinishedUtf8Suffix(progress->bytes);
    const size_t ready = progress->bytes.size() - keep;
    if (ready == 0) return;
    *text += ReplaceInvalidUtf8(absl::string_view(progress->bytes).substr(0, ready));
    progress->bytes.erase(0, ready);
    return;
  }
  char byte;
  if (ReadByteToken(contribution, &byte)) {
    // Whether these bytes are characters shows only when the run of byte tokens ends.
    progress->bytes += byte;
    return;
  }
  if (!progress->bytes.empty()) Finish(progress, text);
  Emit(contribution, progress, text);
}

void TokenDecoder::Finish(Progress* progress, std::string* text) const {
  if (byte_level_) {
    *text += ReplaceInvalidUtf8(progress->bytes);
  } else if (ValidUtf8Prefix(progress->bytes) == progress->bytes.size()) {
    Emit(progress->bytes, progress, text);
  } else {
    for (size_t i = 0; i < progress->bytes.size(); ++i) Emit("\xEF\xBF\xBD", progress, text);
  }
  progress->bytes.clear();
}

}  // namespace wideberth::model
