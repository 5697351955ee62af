// SPDX-License-Identifier: Apache-2.0
// tokenizer.json, tokenizer_config.json and a text, divided by zero bytes: loading, and what then
// is encoded and decoded.
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/tokenizer.h"
#include "model/unicode_text.h"
#include "tests/fuzz/fuzz.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::fuzz {
namespace {

constexpr char kByteLevel[] =
    R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":6,"content":"<s>",)"
    R"("single_word":false,"lstrip":true,"rstrip":true,"normalized":false,"special":true}],)"
    R"("normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":)"
    R"("Split","pattern":{"Regex":"\\p{N}{1,3}|\\s+(?!\\S)|[^\\s]+"},"behavior":"Isolated",)"
    R"("invert":false},{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,)"
    R"("use_regex":true}]},"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":)"
    R"({"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":)"
    R"({"<s>":{"id":"<s>","ids":[6],"tokens":["<s>"]}}},"decoder":{"type":"ByteLevel"},"model":)"
    R"({"type":"BPE","dropout":null,"unk_token":"a","fuse_unk":false,"byte_fallback":false,)"
    R"("ignore_merges":true,"vocab":{"a":0,"b":1,"ab":2,"abb":3,"Ġ":4,"Ġa":5},)"
    R"("merges":["a b",["ab","b"],"Ġ a"]}})";
constexpr char kSentencePiece[] =
    R"({"added_tokens":[{"id":0,"content":"<unk>","special":true},{"id":8,"content":"xy",)"
    R"("normalized":true,"single_word":true}],"normalizer":{"type":"Sequence","normalizers":[)"
    R"({"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},)"
    R"("pre_tokenizer":null,"post_processor":null,"decoder":{"type":"Sequence","decoders":[)"
    R"({"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},)"
    R"({"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},"model":{"type":"BPE",)"
    R"("unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"vocab":{"<unk>":0,"▁":1,"a":2,)"
    R"("b":3,"▁a":4,"ab":5,"<0x0A>":6,"<0xC3>":7},"merges":["▁ a","a b"]}})";
constexpr char kDigits[] =
    R"({"pre_tokenizer":{"type":"Digits","individual_digits":true},"normalizer":{"type":"NFKD"},)"
    R"("decoder":{"type":"ByteLevel"},"model":{"vocab":{"a":0,"1":1,"2":2,"12":3},"merges":["1 2"]}})";

std::string SequencesWithinSequences(int depth) {
  std::string open, close;
  for (int i = 0; i < depth; ++i) {
    open += R"({"type":"Sequence","pretokenizers":[)";
    close += "]}";
  }
  return absl::StrCat(R"({"pre_tokenizer":)", open, close, "}");
}

}  // namespace

std::vector<std::string> Seeds() {
  static const Folder folder;
  WB_CHECK(testing::WriteTinyTokenizer(folder.path()).ok(), "no tokenizer");
  return {Joined({kByteLevel, R"({"added_tokens_decoder":{"7":{"content":"<e>","special":true}}})",
                  "ab <s>abb 12345\xF0\x9F\x98\x80 b\n\n <e>"}),
          Joined({kSentencePiece, "{}", "a ab\nxy b\xC3\xA9"}),
          absl::StrCat(R"({"normalizer":{"type":)", DeepJson(), "}}"),
          SequencesWithinSequences(20'000),
          Joined({kDigits, "", "a12 \xEF\xB7\xBA"}),
          Joined({FileBytes(folder.path() + "/tokenizer.json"),
                  FileBytes(folder.path() + "/tokenizer_config.json"),
                  "<|im_start|>user\nHow are the others?<|im_end|>"})};
}

bool TryOne(absl::string_view input) {
  static const Folder folder;
  const std::vector<absl::string_view> parts = Parts(input, 3);
  folder.Write("tokenizer.json", parts[0]);
  if (parts[1].empty()) {
    folder.Remove("tokenizer_config.json");
  } else {
    folder.Write("tokenizer_config.json", parts[1]);
  }
  const auto tokenizer = model::Tokenizer::FromFolder(folder.path());
  ExpectNames(tokenizer.status(), folder.path());
  if (!tokenizer.ok()) return false;
  // A pattern may backtrack up to its limit at every character.
  const absl::string_view text = parts[2].substr(0, 256);
  for (const bool parse_special : {false, true}) {
    const std::vector<int32_t> ids = (*tokenizer)->Encode(text, true, parse_special);
    for (int32_t id : ids) WB_CHECK((*tokenizer)->IdToToken(id).has_value(), "an id is no token");
    const std::string decoded = (*tokenizer)->Decode(ids, parse_special);
    model::StreamDecoder stream(**tokenizer, parse_special);
    std::string streamed;
    for (int32_t id : ids) streamed += stream.Push(id);
    WB_CHECK(streamed + stream.Finish() == decoded, "the stream decodes otherwise");
    WB_CHECK(model::ValidUtf8Prefix(decoded) == decoded.size(), "decoded text is not UTF-8");
  }
  (void)(*tokenizer)->Decode({-1, 0, 1, 2, 1 << 24, INT32_MAX}, false);
  return true;
}

}  // namespace wideberth::fuzz
