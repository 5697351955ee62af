// SPDX-License-Identifier: Apache-2.0
// The section `pre_tokenizer` of tokenizer.json: normalised text -> the pieces within which BPE
// merges. Used by the tokenizer.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "model/regex.h"
#include "model/tokenizer_json.h"

namespace wideberth::model {

// Working memory of one thread, reused from call to call.
struct PreTokenizerScratch {
  RegexScratch regex;
  std::vector<absl::string_view> pieces;
  std::vector<absl::string_view> next;
  std::deque<std::string> prefixed;  // Pieces that got a space in front; stable addresses.
};

// Split, Digits, ByteLevel (last) and Sequences of them. Thread-safe, given one scratch a thread.
class PreTokenizer {
 public:
  static absl::StatusOr<PreTokenizer> FromJson(const JsonNode& node);

  // Whether it ends in ByteLevel: BPE then works on bytes, otherwise on characters.
  bool byte_level() const { return byte_level_; }

  // The non-empty pieces of valid UTF-8 `text`, in order; they live in `text` and `*scratch` until
  // its next use.
  const std::vector<absl::string_view>& Split(absl::string_view text,
                                              PreTokenizerScratch* scratch) const;

 private:
  enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Step {
    enum class Kind { kRegex, kDigits, kPrefixSpace } kind = Kind::kRegex;
    absl::optional<Regex> regex;
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;
  };
  // A run of a piece, and whether the step's pattern matched it.
  struct Run {
    size_t begin;
    size_t end;
    bool match;
  };

  absl::Status Add(const JsonNode& node);
  absl::Status AddByteLevel(const JsonNode& node);
  absl::Status AddSplit(const JsonNode& node);
  static void Apply(const Step& step, absl::string_view piece, PreTokenizerScratch* scratch);
  static void FindRuns(const Step& step, absl::string_view piece, RegexScratch* scratch,
                       std::vector<Run>* runs);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace wideberth::model
