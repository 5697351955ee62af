// SPDX-License-Identifier: Apache-2.0
// See tokenizer.h. Encoding: added tokens of the raw text, normalisation, added tokens of the
// normalised text, pre-tokenizer, BPE, post-processor. Decoding: the tokens' contributions through
// the decoder.
#include "model/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mutex.h"
#include "base/status.h"
#include "model/added_tokens.h"
#include "model/bpe.h"
#include "model/normalizer.h"
#include "model/pretokenizer.h"
#include "model/tokenizer_json.h"
#include "model/unicode_text.h"

namespace wideberth::model {
namespace {

struct Scratch {
  PreTokenizerScratch pre_tokenizer;
  BpeScratch bpe;
  std::vector<AddedTokenFinder::Part> raw_parts;
  std::vector<AddedTokenFinder::Part> parts;
};

// What the post-processor puts around one sequence.
struct Frame {
  std::vector<int32_t> before;
  std::vector<int32_t> after;
};

absl::Status AddTemplate(const JsonNode& node, Frame* frame) {
  WB_RETURN_IF_ERROR(node.OnlyFields({"type", "single", "pair", "special_tokens"}));
  WB_ASSIGN_OR_RETURN(const std::vector<JsonNode> items, node.Field("single").Items());
  std::vector<int32_t> before, after;
  bool seen = false;
  for (const JsonNode& item : items) {
    if (!item.Field("Sequence").is_null()) {
      if (seen) return item.Unsupported("one Sequence");
      seen = true;
      continue;
    }
    WB_ASSIGN_OR_RETURN(const std::string name, item.Field("SpecialToken").Field("id").String());
    WB_ASSIGN_OR_RETURN(const std::vector<JsonNode> ids,
                        node.Field("special_tokens").Field(name).Field("ids").Items());
    for (const JsonNode& id : ids) {
      WB_ASSIGN_OR_RETURN(const int64_t value, id.Integer());
      if (value < 0 || value > (1 << 24)) return id.Unsupported("an id from 0 to 2^24");
      (seen ? after : before).push_back(static_cast<int32_t>(value));
    }
  }
  if (!seen) return node.Field("single").Unsupported("a list with a Sequence");
  frame->before.insert(frame->before.begin(), before.begin(), before.end());
  frame->after.insert(frame->after.end(), after.begin(), after.end());
  return absl::OkStatus();
}

absl::Status AddPostProcessor(const JsonNode& node, Frame* frame) {
  if (node.is_null()) return absl::OkStatus();
  WB_ASSIGN_OR_RETURN(const std::string type, node.Field("type").String());
  if (type == "ByteLevel") return absl::OkStatus();  // Moves offsets only.
  if (type == "TemplateProcessing") return AddTemplate(node, frame);
  if (type != "Sequence") {
    return node.Field("type").Unsupported("ByteLevel, TemplateProcessing, Sequence");
  }
  WB_ASSIGN_OR_RETURN(const std::vector<JsonNode> items, node.Field("processors").Items());
  for (const JsonNode& item : items) WB_RETURN_IF_ERROR(AddPostProcessor(item, frame));
  return absl::OkStatus();
}

}  // namespace

struct Tokenizer::State {
  // An id's spelling in the file, and what it adds to decoded text.
  struct Entry {
    bool special = false;
    bool skipped = false;  // When decoding without special tokens.
    std::string token;
    std::string contribution;
  };

  absl::Status Read(const nlohmann::json& json, absl::string_view file);
  absl::Status ReadConfig(absl::string_view path);
  absl::Status AddToken(const AddedToken& token, absl::string_view file);
  void Finish();
  void EncodeText(absl::string_view text, bool parse_special, Scratch* scratch,
                  std::vector<int32_t>* ids) const;
  std::unique_ptr<Scratch> Borrow();
  void Return(std::unique_ptr<Scratch> scratch);

  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  absl::optional<Bpe> bpe;
  TokenDecoder decoder;
  Frame frame;
  std::vector<AddedToken> added;
  absl::flat_hash_map<std::string, int32_t> added_ids;
  int32_t next_added_id = 0;
  AddedTokenFinder raw_finder;
  AddedTokenFinder normalized_finder;
  absl::flat_hash_map<int32_t, Entry> entries;  // By id; a file may leave wide gaps.
  std::string fingerprint;
  Mutex mutex;
  std::vector<std::unique_ptr<Scratch>> idle ABSL_GUARDED_BY(mutex);
};

absl::Status Tokenizer::State::Read(const nlohmann::json& json, absl::string_view file) {
  const JsonNode root(json, absl::StrCat(file, ": "));
  WB_RETURN_IF_ERROR(
      root.OnlyFields({"version", "truncation", "padding", "added_tokens", "normalizer",
                       "pre_tokenizer", "post_processor", "decoder", "model"}));
  WB_ASSIGN_OR_RETURN(normalizer, Normalizer::FromJson(root.Field("normalizer")));
  WB_ASSIGN_OR_RETURN(pre_tokenizer, PreTokenizer::FromJson(root.Field("pre_tokenizer")));
  WB_ASSIGN_OR_RETURN(bpe, Bpe::FromJson(root.Field("model"), pre_tokenizer.byte_level()));
  next_added_id = static_cast<int32_t>(bpe->vocabulary().size());
  WB_RETURN_IF_ERROR(AddPostProcessor(root.Field("post_processor"), &frame));
  WB_ASSIGN_OR_RETURN(decoder, TokenDecoder::FromJson(root.Field("decoder")));
  const JsonNode added_node = root.Field("added_tokens");
  if (added_node.is_null()) return absl::OkStatus();
  WB_ASSIGN_OR_RETURN(const std::vector<JsonNode> items, added_node.Items());
  for (const JsonNode& item : items) {
    WB_ASSIGN_OR_RETURN(const int64_t id, item.Field("id").Integer());
    WB_ASSIGN_OR_RETURN(const AddedToken token, AddedToken::FromJson(item, id));
    WB_RETURN_IF_ERROR(AddToken(token, file));
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::State::ReadConfig(absl::string_view path) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  WB_RETURN_IF_ERROR(text.status());
  WB_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(*text, path));
  const JsonNode list = JsonNode(json, absl::StrCat(path, ": ")).Field("added_tokens_decoder");
  if (list.is_null()) return absl::OkStatus();
  if (!list.value().is_object()) return list.Unsupported("an object of id and token");
  std::vector<AddedToken> tokens;
  for (const auto& entry : list.value().items()) {
    int32_t id = 0;
    const JsonNode node = list.Field(entry.key());
    if (!absl::SimpleAtoi(entry.key(), &id)) return node.Unsupported("a whole number as the key");
    WB_ASSIGN_OR_RETURN(AddedToken token, AddedToken::FromJson(node, id));
    if (!added_ids.contains(token.content)) tokens.push_back(std::move(token));
  }
  std::sort(tokens.begin(), tokens.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  for (const AddedToken& token : tokens) {
    WB_RETURN_IF_ERROR(AddToken(token, path));
    absl::StrAppend(&fingerprint, "\n", token.id, " ", token.content, " ", token.single_word,
                    token.lstrip, token.rstrip, token.normalized, token.special);
  }
  if (!tokens.empty()) fingerprint = Fingerprint(fingerprint);
  return absl::OkStatus();
}

absl::Status Tokenizer::State::AddToken(const AddedToken& token, absl::string_view file) {
  // The peer numbers added tokens itself, whatever the file says. A file that says something else
  // has two meanings.
  const int32_t expected = bpe->TokenToId(token.content).value_or(next_added_id);
  if (expected != token.id) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": the added token \"", token.content, "\" has id ", token.id,
                     ", must have ", expected,
                     ", its id in the vocabulary or else the one after the vocabulary and the "
                     "added tokens before"));
  }
  if (!added_ids.emplace(token.content, token.id).second) return absl::OkStatus();
  next_added_id = std::max(next_added_id, token.id + 1);
  added.push_back(token);
  return absl::OkStatus();
}

// Once all tokens are known: the finders and the table by id.
void Tokenizer::State::Finish() {
  entries.reserve(bpe->vocabulary().size() + added.size());
  const auto enter = [&](const std::string& token, int32_t id) -> Entry& {
    Entry& entry = entries[id];
    entry.token = token;
    entry.contribution = decoder.Contribution(token);
    return entry;
  };
  for (const auto& [token, id] : bpe->vocabulary()) enter(token, id);
  for (const AddedToken& token : added) {
    Entry& entry = enter(token.content, token.id);
    entry.special = entry.skipped = token.special;
    if (!token.normalized) {
      raw_finder.Add(token, token.content);
      continue;
    }
    // The peer knows a normalised token by its normalised spelling only: so it is found, decoded,
    // and not taken for special.
    const std::string spelling = normalizer.Apply(token.content);
    normalized_finder.Add(token, spelling);
    entry.contribution = decoder.Contribution(spelling);
    entry.skipped = token.special && spelling == token.content;
  }
}

void Tokenizer::State::EncodeText(absl::string_view text, bool parse_special, Scratch* scratch,
                                  std::vector<int32_t>* ids) const {
  raw_finder.Split(text, parse_special, &scratch->raw_parts);
  std::string normalized;
  for (const AddedTokenFinder::Part& raw_part : scratch->raw_parts) {
    if (raw_part.token != nullptr) {
      ids->push_back(raw_part.token->id);
      continue;
    }
    absl::string_view part_text = raw_part.text;
    if (!normalizer.IsIdentityFor(part_text)) part_text = normalized = normalizer.Apply(part_text);
    normalized_finder.Split(part_text, parse_special, &scratch->parts);
    for (const AddedTokenFinder::Part& part : scratch->parts) {
      if (part.token != nullptr) {
        ids->push_back(part.token->id);
        continue;
      }
      for (absl::string_view piece : pre_tokenizer.Split(part.text, &scratch->pre_tokenizer)) {
        bpe->Encode(piece, &scratch->bpe, ids);
      }
    }
  }
}

std::unique_ptr<Scratch> Tokenizer::State::Borrow() {
  {
    MutexLock lock(mutex);
    if (!idle.empty()) {
      std::unique_ptr<Scratch> scratch = std::move(idle.back());
      idle.pop_back();
      return scratch;
    }
  }
  return std::make_unique<Scratch>();
}

void Tokenizer::State::Return(std::unique_ptr<Scratch> scratch) {
  MutexLock lock(mutex);
  idle.push_back(std::move(scratch));
}

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromFile(absl::string_view tokenizer_json) {
  return Load(tokenizer_json, "");
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromFolder(absl::string_view folder) {
  return Load(absl::StrCat(folder, "/tokenizer.json"),
              absl::StrCat(folder, "/tokenizer_config.json"));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(absl::string_view file,
                                                           absl::string_view config) {
  auto state = std::make_unique<State>();
  WB_ASSIGN_OR_RETURN(const std::string text, ReadFile(file));
  WB_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, file));
  WB_RETURN_IF_ERROR(state->Read(json, file));
  state->fingerprint = Fingerprint(text);
  if (!config.empty()) WB_RETURN_IF_ERROR(state->ReadConfig(config));
  state->Finish();
  for (const std::vector<int32_t>& ids : {state->frame.before, state->frame.after}) {
    for (int32_t id : ids) {
      if (state->entries.contains(id)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": post_processor adds the id ", id, ", which is no token's"));
    }
  }
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(state)));
}

std::vector<int32_t> Tokenizer::Encode(absl::string_view text, bool add_special_tokens,
                                       bool parse_special) const {
  std::string repaired;
  if (ValidUtf8Prefix(text) < text.size()) text = repaired = ReplaceInvalidUtf8(text);
  std::vector<int32_t> ids;
  if (add_special_tokens) ids = state_->frame.before;
  std::unique_ptr<Scratch> scratch = state_->Borrow();
  state_->EncodeText(text, parse_special, scratch.get(), &ids);
  state_->Return(std::move(scratch));
  if (add_special_tokens) {
    ids.insert(ids.end(), state_->frame.after.begin(), state_->frame.after.end());
  }
  return ids;
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special_tokens) const {
  StreamDecoder decoder(*this, skip_special_tokens);
  std::string text;
  for (int32_t id : ids) text += decoder.Push(id);
  return text += decoder.Finish();
}

absl::optional<int32_t> Tokenizer::TokenToId(absl::string_view token) const {
  const auto found = state_->added_ids.find(token);
  if (found != state_->added_ids.end()) return found->second;
  return state_->bpe->TokenToId(token);
}

absl::optional<std::string> Tokenizer::IdToToken(int32_t id) const {
  const auto found = state_->entries.find(id);
  if (found == state_->entries.end()) return absl::nullopt;
  return found->second.token;
}

int64_t Tokenizer::vocab_size() const { return static_cast<int64_t>(state_->entries.size()); }

bool Tokenizer::IsSpecial(int32_t id) const {
  const auto found = state_->entries.find(id);
  return found != state_->entries.end() && found->second.special;
}

std::string Tokenizer::fingerprint() const { return state_->fingerprint; }

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(tokenizer),
      skip_special_tokens_(skip_special_tokens),
      progress_(tokenizer.state_->decoder.Start()) {}

std::string StreamDecoder::Push(int32_t id) {
  std::string text;
  const Tokenizer::State& state = *tokenizer_.state_;
  const auto found = state.entries.find(id);
  if (found == state.entries.end() || (skip_special_tokens_ && found->second.skipped)) return text;
  state.decoder.Push(found->second.contribution, &progress_, &text);
  return text;
}

std::string StreamDecoder::Finish() {
  std::string text;
  tokenizer_.state_->decoder.Finish(&progress_, &text);
  progress_ = tokenizer_.state_->decoder.Start();
  return text;
}

}  // namespace wideberth::model
