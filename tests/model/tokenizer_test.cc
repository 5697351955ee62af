// SPDX-License-Identifier: Apache-2.0
// The tokenizer against the `tokenizers` package (tests/golden/tokenizer*.json, vectors of the
// shared data) and against itself.
#include "model/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "model/unicode_text.h"
#include "tests/model/random_text.h"
#include "tests/testing/paths.h"

namespace wideberth::model {
namespace {

using testing::Fnv;
using ::testing::HasSubstr;
using testing::kFnvStart;
using testing::RandomUnicode;
using Ids = std::vector<int32_t>;
using Json = nlohmann::json;

Json Golden(absl::string_view name) {
  std::ifstream file(testing::GoldenPath(name));
  return Json::parse(file);
}

std::string Shown(absl::string_view text) { return absl::Utf8SafeCEscape(text); }
std::string Shown(const Ids& ids) { return absl::StrJoin(ids, " "); }

std::unique_ptr<Tokenizer> FromJson(const Json& json) {
  const testing::TempDir folder;
  EXPECT_TRUE(WriteFileAtomically(folder.Join("tokenizer.json"), json.dump()).ok());
  auto tokenizer = Tokenizer::FromFolder(folder.path());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

// The byte-level tokenizer of the golden file: token b is byte b for b < 256, a few merges follow.
Json ByteLevelJson() {
  return Json::parse(Golden("tokenizer_fields.json")["bases"]["bytes"].get<std::string>());
}

// A real tokenizer's file by its name in the golden file; empty where absent.
std::string RealTokenizer(const std::string& name) {
  const std::string path = name == "smollm2"
                               ? absl::StrCat(testing::SmolLm2Dir(), "/tokenizer.json")
                               : absl::StrCat(testing::SharedDir(), "/data/", name);
  return std::ifstream(path).good() ? path : "";
}

TEST(RandomTextTest, MakesTheStringsOfTheGoldenScript) {
  const Json golden = Golden("tokenizer.json");
  for (size_t i = 0; i < golden["string_hashes"].size(); ++i) {
    const std::string text = RandomUnicode(i * 500);
    uint64_t hash = kFnvStart;
    size_t length;
    for (size_t at = 0; at < text.size(); at += length)
      hash = Fnv(hash, CodePointAt(text, at, &length));
    EXPECT_EQ(absl::StrFormat("%016x", hash), golden["string_hashes"][i].get<std::string>());
  }
}

// Ten thousand random strings each: ids and decoded text as the peer's.
class RealTokenizerTest : public ::testing::TestWithParam<std::string> {};

TEST_P(RealTokenizerTest, EncodesAndDecodesRandomUnicodeLikeThePeer) {
  const std::string path = RealTokenizer(GetParam());
  if (path.empty()) GTEST_SKIP() << GetParam() << " is not on this machine";
  const auto tokenizer = Tokenizer::FromFile(path);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const Json golden = Golden("tokenizer.json");
  Json expected;
  for (const Json& entry : golden["tokenizers"]) {
    if (entry["name"] == GetParam()) expected = entry;
  }
  ASSERT_FALSE(expected.is_null());
  const absl::string_view digits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const size_t block_size = golden["block"];
  int mismatches = 0;
  for (size_t block = 0; block < golden["num_strings"].get<size_t>() / block_size; ++block) {
    const std::string tags = expected["tags"][block];
    uint64_t block_hash = kFnvStart;
    for (size_t i = 0; i < block_size; ++i) {
      const size_t index = block * block_size + i;
      const std::string text = RandomUnicode(index);
      const Ids ids = (*tokenizer)->Encode(text, /*add_special_tokens=*/index % 3 == 0);
      const std::string decoded = (*tokenizer)->Decode(ids, /*skip_special_tokens=*/index % 2 == 0);
      uint64_t hash = kFnvStart;
      for (int32_t id : ids) hash = Fnv(hash, static_cast<uint32_t>(id));
      for (char c : decoded) hash = Fnv(hash, static_cast<uint8_t>(c));
      block_hash = Fnv(block_hash, hash);
      if (digits[hash >> 6 & 63] != tags[2 * i] || digits[hash & 63] != tags[2 * i + 1]) {
        EXPECT_LT(++mismatches, 3)
            << "string " << index << ": \"" << Shown(text) << "\"\n  ids here " << Shown(ids)
            << "\n  decoded here \"" << Shown(decoded) << "\"";
      }
    }
    EXPECT_EQ(absl::StrFormat("%016x", block_hash), expected["blocks"][block].get<std::string>())
        << "strings " << block * block_size << " to " << (block + 1) * block_size - 1;
    if (mismatches > 3) return;
  }
}

INSTANTIATE_TEST_SUITE_P(All, RealTokenizerTest,
                         ::testing::Values("tok-qwen2/tokenizer.json", "tok-llama3/tokenizer.json",
                                           "tok-llama-spm/tokenizer.json",
                                           "tok-small-fixtures/scalellm-tokenizer.json",
                                           "tok-small-fixtures/torchtitan-tokenizer.json",
                                           "model-stories260k/hf/tokenizer.json", "smollm2"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace_if(
                               name.begin(), name.end(),
                               [](char c) { return !absl::ascii_isalnum(c); }, '_');
                           return name;
                         });

class VectorsTest : public ::testing::TestWithParam<std::string> {};

TEST_P(VectorsTest, GivesTheIdsOfTheSharedVectors) {
  const std::string folder = absl::StrCat(testing::SharedDir(), "/data/", GetParam());
  std::ifstream lines(folder + "/vectors.jsonl");
  if (!lines.good()) GTEST_SKIP() << "no shared data";
  const auto tokenizer = Tokenizer::FromFolder(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  int num_lines = 0;
  for (std::string line; std::getline(lines, line); ++num_lines) {
    const Json vector = Json::parse(line);
    const std::string text = vector["text"];
    ASSERT_EQ(Shown((*tokenizer)->Encode(text)), Shown(vector["ids"].get<Ids>())) << Shown(text);
  }
  EXPECT_GT(num_lines, 1500);
}

INSTANTIATE_TEST_SUITE_P(All, VectorsTest,
                         ::testing::Values("tok-qwen2", "tok-llama3", "tok-llama-spm"),
                         [](const auto& info) {
                           return info.param == "tok-qwen2"    ? "Qwen2"
                                  : info.param == "tok-llama3" ? "Llama3"
                                                               : "LlamaSpm";
                         });

TEST(TokenizerFieldsTest, EachSupportedFieldDoesWhatItDoesInThePeer) {
  const Json golden = Golden("tokenizer_fields.json");
  for (const Json& variant : golden["variants"]) {
    Json json = Json::parse(golden["bases"][variant["base"].get<std::string>()].get<std::string>());
    json.update(Json::parse(variant["fields"].get<std::string>()));
    const auto tokenizer = FromJson(json);
    ASSERT_NE(tokenizer, nullptr) << variant["name"];
    for (const Json& one : Json::parse(variant["cases"].get<std::string>())) {
      const std::string text = one[0];
      const Ids ids = one[1];
      EXPECT_EQ(Shown(tokenizer->Encode(text, /*add_special_tokens=*/true)), Shown(ids))
          << variant["name"] << ": \"" << Shown(text) << "\"";
      EXPECT_EQ(Shown(tokenizer->Decode(ids)), Shown(one[2].get<std::string>())) << variant["name"];
      EXPECT_EQ(Shown(tokenizer->Decode(ids, false)), Shown(one[3].get<std::string>()))
          << variant["name"];
    }
  }
}

TEST(TokenizerTest, DecodingAnEncodedTextGivesTheText) {
  const auto tokenizer = FromJson(ByteLevelJson());
  ASSERT_NE(tokenizer, nullptr);
  for (uint64_t i = 0; i < 2000; ++i) {
    const std::string text = RandomUnicode(1'000'000 + i);
    EXPECT_EQ(Shown(tokenizer->Decode(tokenizer->Encode(text))), Shown(text));
  }
}

TEST(TokenizerTest, LongTextsOfOneKindEncodeAndComeBack) {
  const auto tokenizer = FromJson(ByteLevelJson());
  ASSERT_NE(tokenizer, nullptr);
  for (absl::string_view unit : {" ", "\n", "a", "the", " the", "1", "'", "\u65e5", " \n"}) {
    std::string text;
    while (text.size() < 300'000) text += std::string(unit);
    EXPECT_TRUE(tokenizer->Decode(tokenizer->Encode(text)) == text) << Shown(unit);
  }
}

TEST(TokenizerTest, StreamedTextIsWholeCharactersAndJoinsToTheDecodedText) {
  const auto tokenizer = FromJson(ByteLevelJson());
  ASSERT_NE(tokenizer, nullptr);
  for (uint64_t i = 0; i < 3000; ++i) {
    // Tokens 0 to 255 are bytes. Of the bytes of a text some are changed, so that much is broken
    // UTF-8.
    std::string bytes = RandomUnicode(2'000'000 + i);
    for (size_t at = 0; at < bytes.size(); ++at) {
      const uint64_t draw = testing::SplitMix64(i << 32 | at);
      if (draw % 8 == 0) bytes[at] = static_cast<char>(draw >> 8);
    }
    Ids ids;
    StreamDecoder decoder(*tokenizer);
    std::string streamed;
    for (char byte : bytes) {
      ids.push_back(static_cast<uint8_t>(byte));
      const std::string piece = decoder.Push(ids.back());
      EXPECT_EQ(ValidUtf8Prefix(piece), piece.size());
      streamed += piece;
    }
    streamed += decoder.Finish();
    EXPECT_EQ(Shown(streamed), Shown(ReplaceInvalidUtf8(bytes)));
    EXPECT_EQ(streamed, tokenizer->Decode(ids));
  }
}

TEST(TokenizerTest, AStreamShowsACharacterWithItsLastByteAndNotLater) {
  const auto tokenizer = FromJson(ByteLevelJson());
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.Push(0xF0), "");
  EXPECT_EQ(decoder.Push(0x9F), "");
  EXPECT_EQ(decoder.Push(0x98), "");
  EXPECT_EQ(decoder.Push(0x80), "\U0001F600");
  EXPECT_EQ(decoder.Push('a'), "a");
  EXPECT_EQ(decoder.Push(0xE2), "");
  EXPECT_EQ(decoder.Push('b'),
            "\uFFFD"
            "b");
  EXPECT_EQ(decoder.Push(0xE2), "");
  EXPECT_EQ(decoder.Finish(), "\uFFFD");
  EXPECT_EQ(decoder.Finish(), "");
}

TEST(TokenizerTest, ByteFallbackStreamsLikeItDecodes) {
  const Json golden = Golden("tokenizer_fields.json");
  const auto tokenizer = FromJson(Json::parse(golden["bases"]["characters"].get<std::string>()));
  ASSERT_NE(tokenizer, nullptr);
  StreamDecoder decoder(*tokenizer);
  const int32_t byte_0 = *tokenizer->TokenToId("<0x00>");
  const auto push = [&](int byte) { return decoder.Push(byte_0 + byte); };
  EXPECT_EQ(decoder.Push(*tokenizer->TokenToId("\u2581the")), "the");
  EXPECT_EQ(push(0xC3), "");
  EXPECT_EQ(push(0xA9), "");
  EXPECT_EQ(decoder.Push(*tokenizer->TokenToId("\u2581the")), "\u00e9 the");
  EXPECT_EQ(push(0xC3), "");
  EXPECT_EQ(push('a'), "");
  EXPECT_EQ(decoder.Finish(), "\uFFFD\uFFFD");
  EXPECT_EQ(decoder.Push(*tokenizer->TokenToId("\u2581the")), "the")
      << "the stream is not as new after Finish";
}

TEST(TokenizerTest, InvalidUtf8IsReadAsReplacementCharacters) {
  const auto tokenizer = FromJson(ByteLevelJson());
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode("a\xFF"
                                                "b\xE2\x82")),
            "a\uFFFD"
            "b\uFFFD");
  EXPECT_EQ(tokenizer->Encode("\xC3"), tokenizer->Encode("\uFFFD"));
}

TEST(TokenizerTest, SpecialTokensInATextAreTextWhenNotParsed) {
  Json json = ByteLevelJson();
  const int32_t fin = static_cast<int32_t>(json["model"]["vocab"].size()), tool = fin + 1;
  json["added_tokens"] = {{{"id", fin}, {"content", "<|fin|>"}, {"special", true}},
                          {{"id", tool}, {"content", "<tool>"}, {"special", false}}};
  const auto tokenizer = FromJson(json);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->Encode("a<|fin|><tool>"), Ids({'a', fin, tool}));
  EXPECT_EQ(tokenizer->Encode("a<|fin|><tool>", false, /*parse_special=*/false),
            Ids({'a', '<', '|', 'f', 'i', 'n', '|', '>', tool}));
  EXPECT_TRUE(tokenizer->IsSpecial(fin));
  EXPECT_FALSE(tokenizer->IsSpecial(tool));
  EXPECT_FALSE(tokenizer->IsSpecial(-1));
  EXPECT_FALSE(tokenizer->IsSpecial(1 << 20));
  EXPECT_EQ(tokenizer->Decode({'a', fin, tool}), "a<tool>");
  EXPECT_EQ(tokenizer->Decode({'a', fin, -5, 1 << 20, tool}, false), "a<|fin|><tool>");
  EXPECT_EQ(tokenizer->TokenToId("<|fin|>"), fin);
  EXPECT_EQ(tokenizer->TokenToId("<|absent|>"), absl::nullopt);
  EXPECT_EQ(tokenizer->IdToToken(fin), "<|fin|>");
  EXPECT_EQ(tokenizer->IdToToken(302), absl::nullopt);
}

TEST(TokenizerTest, TokensThatOnlyTheConfigurationAddsAreAdded) {
  const testing::TempDir folder;
  ASSERT_TRUE(WriteFileAtomically(folder.Join("tokenizer.json"), ByteLevelJson().dump()).ok());
  const auto without = Tokenizer::FromFolder(folder.path());
  ASSERT_TRUE(without.ok());
  const int64_t next = (*without)->vocab_size();
  const Json config = {
      {"added_tokens_decoder", {{absl::StrCat(next), {{"content", "<|x|>"}, {"special", true}}}}}};
  ASSERT_TRUE(WriteFileAtomically(folder.Join("tokenizer_config.json"), config.dump()).ok());
  const auto with = Tokenizer::FromFolder(folder.path());
  ASSERT_TRUE(with.ok()) << with.status();
  EXPECT_EQ((*with)->Encode("<|x|>"), Ids({static_cast<int32_t>(next)}));
  EXPECT_EQ((*with)->vocab_size(), next + 1);
  EXPECT_NE((*with)->fingerprint(), (*without)->fingerprint());
  EXPECT_EQ((*without)->fingerprint(),
            (*Tokenizer::FromFile(folder.Join("tokenizer.json")))->fingerprint());
}

TEST(TokenizerTest, AFolderWhoseTokensAreInTheConfigurationOnlyEncodesLikeTransformers) {
  const std::string file =
      absl::StrCat(testing::SharedDir(), "/data/tok-small-fixtures/torchtitan-tokenizer");
  const auto tokenizer_json = ReadFile(file + ".json"), config = ReadFile(file + "_config.json");
  if (!tokenizer_json.ok()) GTEST_SKIP() << "no shared data";
  const testing::TempDir folder;
  ASSERT_TRUE(WriteFileAtomically(folder.Join("tokenizer.json"), *tokenizer_json).ok());
  ASSERT_TRUE(WriteFileAtomically(folder.Join("tokenizer_config.json"), *config).ok());
  const auto tokenizer = Tokenizer::FromFolder(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Encode("a<|im_start|>b <|pad|>c"), Ids({97, 2009, 98, 2001, 99}));
  EXPECT_EQ((*tokenizer)->Encode("hello <think>x</think>"),
            Ids({104, 101, 108, 108, 111, 60, 116, 104, 105, 110, 107, 62, 120, 2015}));
  EXPECT_EQ((*tokenizer)->vocab_size(), 2020);
}

TEST(TokenizerTest, ThreadsShareOneTokenizer) {
  const auto tokenizer = FromJson(ByteLevelJson());
  std::vector<Ids> expected;
  for (uint64_t i = 0; i < 200; ++i) expected.push_back(tokenizer->Encode(RandomUnicode(i)));
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (uint64_t i = 0; i < 200; ++i)
        wrong += tokenizer->Encode(RandomUnicode(i)) != expected[i];
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(TokenizerTest, WhatIsNotSupportedIsNamedWithFileFieldAndChoices) {
  struct Case {
    std::string pointer;
    Json value;
    std::vector<std::string> message;
  };
  const Case cases[] = {
      {"/model/type", "Unigram", {"model.type is \"Unigram\"", "supported: BPE"}},
      {"/model/dropout", 0.1, {"model.dropout is 0.1", "null"}},
      {"/model/end_of_word_suffix", "</w>", {"model.end_of_word_suffix is \"</w>\""}},
      {"/model/new_option", true, {"model has the unknown field \"new_option\""}},
      {"/model/merges/0",
       {"t", "zz"},
       {"model.merges[0] is [\"t\",\"zz\"]", "two tokens of the vocabulary"}},
      {"/model/vocab/the", -3, {"model.vocab[\"the\"] is -3", "an id from 0"}},
      {"/normalizer", {{"type", "Lowercase"}}, {"normalizer.type is \"Lowercase\"", "NFC"}},
      {"/pre_tokenizer/type",
       "Whitespace",
       {"pre_tokenizer.type is \"Whitespace\"", "ByteLevel, Split"}},
      {"/pre_tokenizer/use_regex", 1, {"pre_tokenizer.use_regex is 1", "true or false"}},
      {"/post_processor",
       {{"type", "BertProcessing"}},
       {"post_processor.type is \"BertProcessing\""}},
      {"/decoder/type", "WordPiece", {"decoder.type is \"WordPiece\"", "ByteLevel, or a Sequence"}},
      {"/added_tokens/0",
       {{"id", 5}, {"content", "the"}},
       {"the added token \"the\" has id 5, must have 257"}},
      {"/added_tokens/0",
       {{"id", 400}, {"content", "<gap>"}},
       {"the added token \"<gap>\" has id 400, must have 266"}},
      {"/post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {{{"Sequence", {{"id", "A"}}}}, {{"SpecialToken", {{"id", "x"}}}}}},
        {"special_tokens", {{"x", {{"ids", {400}}}}}}},
       {"post_processor adds the id 400, which is no token's"}},
      {"/normalizer",
       {{"type", "Sequence"},
        {"normalizers",
         {{{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aaaaaaaaa"}},
          {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aaaaaaaaa"}}}}},
       {"normalizer.normalizers[1] is", "at most 64 times as long"}},
      {"/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"Regex", "(*ACCEPT)a"}}}, {"behavior", "Isolated"}},
       {"pre_tokenizer.pattern: regex \"(*ACCEPT)a\" has \"(*\" at byte 0"}},
      {"/extra", 1, {"has the unknown field \"extra\""}}};
  for (const Case& one : cases) {
    Json json = ByteLevelJson();
    json[Json::json_pointer(one.pointer)] = one.value;
    const testing::TempDir folder;
    ASSERT_TRUE(WriteFileAtomically(folder.Join("tokenizer.json"), json.dump()).ok());
    const auto tokenizer = Tokenizer::FromFolder(folder.path());
    ASSERT_FALSE(tokenizer.ok()) << one.pointer;
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(tokenizer.status().message()),
                HasSubstr(folder.Join("tokenizer.json")));
    for (const std::string& part : one.message) {
      EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(part));
    }
  }
}

TEST(TokenizerTest, AFileThatIsAbsentOrCutOffIsAnError) {
  const testing::TempDir folder;
  EXPECT_EQ(Tokenizer::FromFolder(folder.path()).status().code(), absl::StatusCode::kNotFound);
  const std::string whole = ByteLevelJson().dump();
  ASSERT_TRUE(WriteFileAtomically(folder.Join("tokenizer.json"), whole.substr(0, 1000)).ok());
  const absl::Status status = Tokenizer::FromFolder(folder.path()).status();
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("is not JSON: it goes wrong at byte 1001 of 1000"));
}

}  // namespace
}  // namespace wideberth::model
