// SPDX-License-Identifier: Apache-2.0
// The section `decoder` of tokenizer.json: tokens -> text, all at once or as they come. Used by the
// tokenizer.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace wideberth::model {

class JsonNode;

// ByteLevel, or SentencePiece's Sequence of Replace, ByteFallback, Fuse and Strip (from the start).
// Thread-safe.
class TokenDecoder {
 public:
  static absl::StatusOr<TokenDecoder> FromJson(const JsonNode& node);

  // What a token contributes: its bytes (ByteLevel) or its text with the replacements made.
  std::string Contribution(absl::string_view token) const;

  // The text of tokens that come one by one.
  struct Progress {
    std::string
        bytes;  // ByteLevel: the beginning of a character. Byte fallback: a run of byte tokens.
    size_t characters_to_strip = 0;
  };
  Progress Start() const { return Progress{"", strip_left_}; }
  // Appends to `*text` what is certain with a further contribution.
  void Push(absl::string_view contribution, Progress* progress, std::string* text) const;
  // Appends the rest.
  void Finish(Progress* progress, std::string* text) const;

 private:
  absl::Status ReadSequence(const JsonNode& node);
  void Emit(absl::string_view text, Progress* progress, std::string* out) const;

  bool byte_level_ = true;
  std::vector<std::pair<std::string, std::string>> replacements_;
  std::string strip_;  // The character taken away at the start, up to `strip_left_` times.
  size_t strip_left_ = 0;
};

}  // namespace wideberth::model
