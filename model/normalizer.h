// SPDX-License-Identifier: Apache-2.0
// The section `normalizer` of tokenizer.json: what happens to text before anything else. Used by
// the tokenizer.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/tokenizer_json.h"
#include "model/unicode_text.h"

namespace wideberth::model {

// NFC, NFD, NFKC, NFKD, Prepend, Replace (of a string) and Sequences of them. Thread-safe.
class Normalizer {
 public:
  static absl::StatusOr<Normalizer> FromJson(const JsonNode& node);
  bool IsIdentityFor(absl::string_view text) const;
  // `text` is valid UTF-8, so is the result.
  std::string Apply(absl::string_view text) const;

 private:
  struct Step {
    enum class Kind { kForm, kPrepend, kReplace } kind;
    NormalForm form = NormalForm::kNfc;
    std::string pattern;
    std::string content;
  };
  absl::Status Add(const JsonNode& node);
  std::vector<Step> steps_;
  Growth growth_;
};

}  // namespace wideberth::model
