// SPDX-License-Identifier: Apache-2.0
// Text <-> token ids of one model, as its tokenizer.json says (the `tokenizers` package's file
// format). Actors and scorers encode prompts with it and decode completions; `wideberth tokenize`
// shows it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "model/token_decoder.h"

namespace wideberth::model {

// The BPE tokenizers of tokenizer.json: byte-level (GPT-2, Llama-3, Qwen2, SmolLM2) and
// SentencePiece-like with byte fallback (Llama-2). Ids are those of the `tokenizers` package.
// Immutable after creation: every method may be called from any thread.
class Tokenizer {
 public:
  // `folder`/tokenizer.json, plus the tokens that only `folder`/tokenizer_config.json (optional)
  // adds. InvalidArgument names file, field, what was found and what is supported. The sections
  // `truncation` and `padding` are ignored: lengths are the caller's.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromFolder(absl::string_view folder);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromFile(absl::string_view tokenizer_json);
  ~Tokenizer();

  // Invalid UTF-8 in `text` is read as U+FFFD (one for each maximal invalid part). Added tokens
  // written out in the text become their ids, unless `parse_special` is false: then the special
  // ones among them are ordinary text, as a prompt from outside should be. `add_special_tokens`
  // adds what the post-processor adds around one sequence (Llama-3's BOS).
  std::vector<int32_t> Encode(absl::string_view text, bool add_special_tokens = false,
                              bool parse_special = true) const;

  // Always valid UTF-8 for byte-level tokenizers: bytes that are no character become U+FFFD.
  // Unknown ids are skipped.
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special_tokens = true) const;

  absl::optional<int32_t> TokenToId(absl::string_view token) const;
  // The token as tokenizer.json spells it (byte-level: "Ġthe" for " the"); nullopt for an id that
  // is no token.
  absl::optional<std::string> IdToToken(int32_t id) const;
  // Distinct ids, added tokens included. A model's embedding may have more rows.
  int64_t vocab_size() const;
  bool IsSpecial(int32_t id) const;
  // Of the bytes of tokenizer.json (and of the tokens added by tokenizer_config.json).
  std::string fingerprint() const;

 private:
  friend class StreamDecoder;
  struct State;
  explicit Tokenizer(std::unique_ptr<State> state);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(absl::string_view file,
                                                         absl::string_view config);
  std::unique_ptr<State> state_;
};

// Decodes ids as they are sampled, for text that is shown while it grows. Never emits a part of a
// character; what `Push` and `Finish` returned, joined, equals `Decode` of all ids. Not
// thread-safe; the tokenizer must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = true);
  // The text that became certain with this id; may be empty.
  std::string Push(int32_t id);
  // The rest: an unfinished character becomes U+FFFD. The decoder is then as new.
  std::string Finish();

 private:
  const Tokenizer& tokenizer_;
  const bool skip_special_tokens_;
  TokenDecoder::Progress progress_;
};

}  // namespace wideberth::model
