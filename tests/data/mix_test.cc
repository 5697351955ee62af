// SPDX-License-Identifier: Apache-2.0
#include "data/mix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/text_proto.h"
#include "data/duplicates.h"
#include "data/manifest.h"
#include "tests/testing/paths.h"

namespace wideberth::data {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::TempDir;

// `count` texts of eight made-up words, no two of them alike.
std::vector<std::string> Sentences(const std::string& stem, int count) {
  std::vector<std::string> sentences;
  for (int i = 0; i < count; ++i) {
    std::vector<std::string> words;
    for (int k = 0; k < 8; ++k) words.push_back(absl::StrCat(stem, i, "x", k));
    sentences.push_back(absl::StrJoin(words, " "));
  }
  return sentences;
}

int64_t CountWords(absl::string_view text) {
  int64_t count = 0;
  for (absl::string_view word : absl::StrSplit(text, absl::ByAnyChar(" \n")))
    count += !word.empty();
  return count;
}

class MixTest : public ::testing::Test {
 protected:
  void Write(const std::string& name, const std::vector<std::string>& texts) {
    std::string lines;
    for (const std::string& text : texts)
      absl::StrAppend(&lines, nlohmann::json{{"prompt", text}}.dump(), "\n");
    ASSERT_TRUE(WriteFileAtomically(dir_.Join(name), lines).ok());
  }
  absl::StatusOr<Mix> Make(const std::string& recipe_text, const TokenCounter& count = nullptr) {
    proto::DataRecipe recipe;
    const absl::Status parsed = MergeTextProto(recipe_text, "recipe", &recipe);
    if (!parsed.ok()) return parsed;
    return MakeMix(recipe, dir_.path(), count, [](const std::string&) {});
  }
  std::string Error(const std::string& recipe, const TokenCounter& count = nullptr) {
    const auto mix = Make(recipe, count);
    return mix.ok() ? "OK" : std::string(mix.status().message());
  }
  static std::vector<std::string> Texts(const std::vector<MixedPrompt>& prompts) {
    std::vector<std::string> texts;
    for (const MixedPrompt& prompt : prompts) texts.push_back(prompt.text);
    return texts;
  }
  static const Account& AccountOf(const Mix& mix, const std::string& source,
                                  const std::string& name) {
    for (const Mix::Part& part : mix.parts) {
      if (part.source == source && part.name == name) return part.account;
    }
    static const Account none;
    ADD_FAILURE() << "no account of " << source << ", " << name;
    return none;
  }

  TempDir dir_;
};

TEST_F(MixTest, DrawsTheNumbersAsked) {
  Write("a.jsonl", Sentences("a", 30));
  Write("b.jsonl", Sentences("b", 30));
  const auto mix = Make(R"(
    source { name: "tides" unsafe: false num_train: 12 num_test: 5 files { path: "a.jsonl" } }
    source { name: "winds" unsafe: true num_train: 7 files { path: "b.jsonl" } })");
  ASSERT_TRUE(mix.ok()) << mix.status();
  EXPECT_EQ(mix->train.size(), 19u);
  EXPECT_EQ(mix->test.size(), 5u);
  std::set<std::string> ids;
  for (const auto* prompts : {&mix->train, &mix->test}) {
    for (const MixedPrompt& prompt : *prompts) {
      EXPECT_TRUE(ids.insert(prompt.id).second) << prompt.id;
      EXPECT_EQ(prompt.source, prompt.text[0] == 'a' ? "tides" : "winds");
      EXPECT_EQ(prompt.category, prompt.source);
      EXPECT_EQ(prompt.unsafe, prompt.text[0] == 'b');
    }
  }
  // The sources are mixed, not one behind the other.
  std::string order;
  for (const MixedPrompt& prompt : mix->train) order += prompt.text[0];
  EXPECT_THAT(order, AllOf(HasSubstr("ab"), HasSubstr("ba")));
  const Account& account = AccountOf(*mix, "tides", "prompts");
  EXPECT_EQ(account.read, 30);
  EXPECT_EQ(account.taken, 17);
  EXPECT_EQ(account.num_dropped(), 0);
}

TEST_F(MixTest, TheSameSeedMakesTheSameMixAndAnotherDoesNot) {
  Write("a.jsonl", Sentences("a", 60));
  const std::string source =
      R"(source { name: "s" num_train: 20 num_test: 10 files { path: "a.jsonl" } })";
  const auto one = Make(source), two = Make(source), other = Make("seed: 1 " + source);
  ASSERT_TRUE(one.ok() && two.ok() && other.ok());
  EXPECT_EQ(PromptLines(one->train), PromptLines(two->train));
  EXPECT_EQ(PromptLines(one->test), PromptLines(two->test));
  EXPECT_NE(PromptLines(one->train), PromptLines(other->train));
}

TEST_F(MixTest, TheOrderOfTheRowsIsNothingAndAFurtherRowMovesOneAtMost) {
  std::vector<std::string> texts = Sentences("a", 60);
  const std::string recipe = R"(source { name: "s" num_test: 30 files { path: "a.jsonl" } })";
  Write("a.jsonl", texts);
  const auto before = Make(recipe);
  std::reverse(texts.begin(), texts.end());
  texts.push_back(Sentences("b", 1)[0]);
  Write("a.jsonl", texts);
  const auto after = Make(recipe);
  ASSERT_TRUE(before.ok() && after.ok());
  std::set<std::string> kept;
  for (const std::string& text : Texts(after->test)) kept.insert(text);
  int gone = 0;
  for (const std::string& text : Texts(before->test)) gone += kept.count(text) == 0;
  EXPECT_LE(gone, 1);
}

TEST_F(MixTest, DuplicatesAndNearDuplicatesAreDroppedAcrossSourcesAndSplits) {
  const std::vector<std::string> texts = Sentences("a", 20);
  Write("a.jsonl", texts);
  std::vector<std::string> copies = Sentences("b", 5);
  for (int i = 0; i < 10; ++i) copies.push_back(absl::StrCat("  ", texts[i], "!! "));
  // Six of eight shingles are shared of eight each but for one: 6 / (6 + 8 - 6) = 0.75.
  for (int i = 10; i < 20; ++i) copies.push_back(absl::StrCat(texts[i], " and more"));
  Write("b.jsonl", copies);
  const std::string recipe = R"(
      near_duplicates { threshold: 0.75 }
      source { name: "first" num_train: 10 num_test: 10 files { path: "a.jsonl" } }
      source { name: "second" num_train: 3 num_test: %d files { path: "b.jsonl" } })";
  const auto mix = Make(absl::StrReplaceAll(recipe, {{"%d", "2"}}));
  ASSERT_TRUE(mix.ok()) << mix.status();
  for (const auto* prompts : {&mix->train, &mix->test}) {
    for (const MixedPrompt& prompt : *prompts)
      EXPECT_EQ(prompt.source == "second", prompt.text[0] == 'b') << prompt.text;
  }
  const std::string error = Error(absl::StrReplaceAll(recipe, {{"%d", "3"}}));
  EXPECT_EQ(error,
            "source \"second\" gives 2 training and 3 test prompts, num_train 3 and num_test 3 are "
            "wanted (prompts: 25 read, 10 duplicate, 10 near duplicate)");
  // A higher threshold lets the near ones through.
  EXPECT_EQ(Error(absl::StrReplaceAll(recipe, {{"%d", "12"}, {"0.75", "0.76"}})), "OK");
}

TEST_F(MixTest, StaysClearOfTheFilesNamed) {
  Write("a.jsonl", Sentences("a", 10));
  ASSERT_TRUE(WriteFileAtomically(dir_.Join("clear.txt"),
                                  absl::StrJoin(Sentences("a", 6), " indeed\n") + "\n")
                  .ok());
  const std::string recipe = R"(source { name: "s" num_train: %d files { path: "a.jsonl" } }
                                stay_clear_of { path: "clear.txt" })";
  const auto mix = Make(absl::StrReplaceAll(recipe, {{"%d", "4"}}));
  ASSERT_TRUE(mix.ok()) << mix.status();
  for (const std::string& text : Texts(mix->train)) EXPECT_GE(text[1], '6') << text;
  EXPECT_THAT(
      Error(absl::StrReplaceAll(recipe, {{"%d", "5"}})),
      HasSubstr("gives 4 training and 0 test prompts, num_train 5 and num_test 0 are wanted "
                "(prompts: 10 read, 6 near a prompt to stay clear of)"));
}

TEST_F(MixTest, StaysClearWithWhatATemplateHides) {
  Write("requests.jsonl", Sentences("r", 3));
  Write("clear.jsonl", Sentences("r", 1));
  Write("templates.jsonl", Sentences("t", 1));
  EXPECT_THAT(Error(R"(source { name: "w" num_train: 3 files { path: "requests.jsonl" }
                                wrap { templates { path: "templates.jsonl" } append: true } }
                       stay_clear_of { path: "clear.jsonl" })"),
              HasSubstr("(requests: 3 read, 1 near a prompt to stay clear of; templates: 1 read; "
                        "prompts: 2 read)"));
}

TEST_F(MixTest, KeepsTheLimits) {
  Write("a.jsonl",
        {"a", "three little words", "five words are in here", "\u00E9\u00E9\u00E9\u00E9\u00E9"});
  const auto mix = Make(
      R"(limits { min_characters: 2 max_tokens: 9 }
         source { name: "s" num_train: 2 files { path: "a.jsonl" }
                  limits { max_characters: 20 max_tokens: 3 } })",
      CountWords);
  ASSERT_TRUE(mix.ok()) << mix.status();
  EXPECT_THAT(Texts(mix->train), ::testing::UnorderedElementsAre("three little words",
                                                                 "\u00E9\u00E9\u00E9\u00E9\u00E9"));
  EXPECT_THAT(Error(R"(limits { max_tokens: 3 }
                       source { name: "s" num_train: 2 files { path: "a.jsonl" } })"),
              HasSubstr("limits.max_tokens is given, which needs --tokenizer"));
  EXPECT_THAT(Error(R"(limits { max_characters: 4 }
                       source { name: "s" num_train: 2 files { path: "a.jsonl" } })"),
              HasSubstr("(prompts: 4 read, 3 too long)"));
}

TEST_F(MixTest, WrappersAndRequestsOfTestAndTrainingAreDisjoint) {
  const std::vector<std::string> requests = Sentences("r", 20);
  std::vector<std::string> templates;
  for (const std::string& text : Sentences("t", 8)) templates.push_back(text + " [ASK] please");
  Write("requests.jsonl", requests);
  templates.push_back("no place for a request here");
  templates.push_back(templates[0] + " do");
  Write("templates.jsonl", templates);
  const auto mix = Make(R"(
    source { name: "wrapped" num_train: 60 num_test: 20 files { path: "requests.jsonl" }
             wrap { templates { path: "templates.jsonl" } placeholder: "[ASK]" } })");
  ASSERT_TRUE(mix.ok()) << mix.status();
  ASSERT_EQ(mix->train.size(), 60u);
  ASSERT_EQ(mix->test.size(), 20u);
  std::map<std::string, int> uses[2], requests_used[2];
  std::set<std::string> texts;
  for (int split : {0, 1}) {
    for (const std::string& text : Texts(split == 0 ? mix->test : mix->train)) {
      EXPECT_TRUE(texts.insert(text).second) << text;
      const size_t at = text.find(" r");
      ++uses[split][text.substr(0, at)];
      const std::string request = text.substr(at + 1, text.find(" please") - at - 1);
      EXPECT_EQ(std::count(requests.begin(), requests.end(), request), 1) << request;
      ++requests_used[split][request];
    }
  }
  EXPECT_EQ(uses[0].size(), 3u);
  EXPECT_EQ(uses[1].size(), 5u);
  EXPECT_EQ(requests_used[0].size(), 7u);
  EXPECT_EQ(requests_used[1].size(), 13u);
  for (int split : {0, 1}) {
    for (const auto& [text, count] : uses[split]) {
      EXPECT_NEAR(count, split == 0 ? 20 / 3.0 : 12, 1) << text;
      EXPECT_EQ(uses[1 - split].count(text), 0u) << text;
    }
    for (const auto& [text, count] : requests_used[split])
      EXPECT_EQ(requests_used[1 - split].count(text), 0u) << text;
  }
  EXPECT_EQ(AccountOf(*mix, "wrapped", "templates").ToString(),
            "10 read, 1 without a placeholder, 1 near duplicate");
}

TEST_F(MixTest, SaysHowManyPairsOfTemplatesAndRequestsThereAre) {
  Write("requests.jsonl", Sentences("r", 4));
  Write("templates.jsonl", Sentences("t", 4));
  const std::string recipe = R"(
    source { name: "w" num_train: %d num_test: 4 files { path: "requests.jsonl" }
             wrap { templates { path: "templates.jsonl" } append: true } })";
  EXPECT_EQ(Error(absl::StrReplaceAll(recipe, {{"%d", "4"}})), "OK");
  EXPECT_EQ(
      Error(absl::StrReplaceAll(recipe, {{"%d", "5"}})),
      "source \"w\" gives 4 training and 4 test prompts, num_train 5 and num_test 4 are wanted "
      "(requests: 4 read; templates: 4 read; prompts: 8 read)");
  Write("templates.jsonl", Sentences("t", 1));
  EXPECT_THAT(Error(absl::StrReplaceAll(recipe, {{"%d", "4"}})),
              HasSubstr("has 1 usable templates, expected at least 2"));
}

TEST_F(MixTest, AWholeTestPromptIsNearNoTrainingPromptEither) {
  // The second source holds, as plain prompts, what the first makes of its templates.
  Write("requests.jsonl", Sentences("r", 2));
  Write("templates.jsonl", Sentences("t", 2));
  std::vector<std::string> plain;
  for (const std::string& wrapper : Sentences("t", 2)) {
    for (const std::string& request : Sentences("r", 2))
      plain.push_back(absl::StrCat(wrapper, "\n\n", request));
  }
  Write("plain.jsonl", plain);
  const std::string wrapped = R"(
    source { name: "w" num_train: 1 num_test: 1 files { path: "requests.jsonl" }
             wrap { templates { path: "templates.jsonl" } append: true } })";
  EXPECT_THAT(Error(wrapped + R"(source { name: "p" num_train: 4 files { path: "plain.jsonl" } })"),
              HasSubstr("(prompts: 4 read, 1 near a prompt of the other split)"));
}

TEST_F(MixTest, ARequestKeepsWholeInALongContext) {
  const std::vector<std::string> requests = Sentences("r", 40);
  Write("requests.jsonl", requests);
  Write("filler.jsonl", Sentences("f", 100));
  const std::string recipe = R"(
    source { name: "s" num_train: 20 num_test: 20 files { path: "requests.jsonl" }
      long_context { filler { path: "filler.jsonl" } min_tokens: 100 max_tokens: 200 share: %s } })";
  const auto mix = Make(absl::StrReplaceAll(recipe, {{"%s", "1"}}), CountWords);
  ASSERT_TRUE(mix.ok()) << mix.status();
  std::set<std::string> filler[2];
  for (int split : {0, 1}) {
    for (const std::string& text : Texts(split == 0 ? mix->test : mix->train)) {
      EXPECT_GT(CountWords(text), 100 - 8);
      EXPECT_LE(CountWords(text), 200);
      int num_requests = 0;
      const std::vector<std::string> parts = absl::StrSplit(text, "\n\n");
      for (const std::string& part : parts) {
        if (part[0] == 'f') filler[split].insert(part);
        num_requests += std::count(requests.begin(), requests.end(), part);
      }
      EXPECT_EQ(num_requests, 1) << text;
    }
  }
  for (const std::string& paragraph : filler[0]) EXPECT_EQ(filler[1].count(paragraph), 0u);
  const auto some = Make(absl::StrReplaceAll(recipe, {{"%s", "0.5"}}), CountWords);
  ASSERT_TRUE(some.ok()) << some.status();
  int num_long = 0;
  for (const std::string& text : Texts(some->train)) num_long += CountWords(text) > 8;
  EXPECT_GT(num_long, 3);
  EXPECT_LT(num_long, 17);
  Write("filler.jsonl", Sentences("f", 30));
  EXPECT_THAT(
      Error(absl::StrReplaceAll(recipe, {{"%s", "1"}}), CountWords),
      HasSubstr("source \"s\": long_context: the filler has 120 tokens, expected at least"));
}

TEST_F(MixTest, RowsKeepTheirOwnIdCategorySourceAndLabel) {
  ASSERT_TRUE(WriteFileAtomically(dir_.Join("a.csv"),
                                  "n,prompt,kind,from,label\n1,what is rain,sky,book,safe\n"
                                  "2,what is foam,,,unsafe\n")
                  .ok());
  const std::string recipe = R"(source { name: "s" num_test: 2
      files { path: "a.csv" id: "n" category: "kind" source: "from"
              unsafe_where { field: "label" is: "unsafe" } } })";
  const auto mix = Make(recipe);
  ASSERT_TRUE(mix.ok()) << mix.status();
  const std::string lines = PromptLines(mix->test);
  EXPECT_THAT(lines, HasSubstr(R"({"id":"s-1","prompt":"what is rain","unsafe":false,)"
                               R"("category":"sky","source":"book"})"));
  EXPECT_THAT(lines, HasSubstr(R"({"id":"s-2","prompt":"what is foam","unsafe":true,)"
                               R"("category":"s","source":"s"})"));
  ASSERT_TRUE(WriteFileAtomically(dir_.Join("a.csv"),
                                  "n,prompt,kind,from,label\n1,what is rain,sky,book,safe\n"
                                  "1,what is foam,,,unsafe\n")
                  .ok());
  EXPECT_THAT(Error(recipe), HasSubstr("the id \"s-1\" is already used at"));
}

TEST_F(MixTest, TheManifestAddsUp) {
  Write("a.jsonl", {"one plain thing", "one plain thing!", "another thing", "", "a third one"});
  const auto mix = Make(R"(seed: 7 source { name: "s" unsafe: true num_train: 2 num_test: 1
                                            files { path: "a.jsonl" } })");
  ASSERT_TRUE(mix.ok()) << mix.status();
  proto::DataRecipe recipe;
  recipe.set_seed(7);
  const auto manifest = nlohmann::json::parse(ManifestJson(*mix, recipe, "text", "print"));
  EXPECT_EQ(manifest["seed"], 7);
  EXPECT_EQ(manifest["tokenizer"], "print");
  EXPECT_EQ(manifest["recipe_sha256"], Sha256("text"));
  const auto& train = manifest["files"]["train.jsonl"];
  EXPECT_EQ(train["prompts"], 2);
  EXPECT_EQ(train["unsafe"], 2);
  EXPECT_EQ(train["sources"]["s"]["categories"]["s"], 2);
  EXPECT_EQ(train["sha256"], Sha256(PromptLines(mix->train)));
  const auto& account = manifest["accounts"]["s"]["prompts"];
  EXPECT_EQ(account["read"], 5);
  EXPECT_EQ(account["taken"], 3);
  EXPECT_EQ(account["dropped"]["empty"], 1);
  int64_t sum = account["taken"].get<int64_t>() + account["not_needed"].get<int64_t>();
  for (const auto& count : account["dropped"]) sum += count.get<int64_t>();
  EXPECT_EQ(sum, 5);
  EXPECT_EQ(manifest["inputs"][0]["path"], "a.jsonl");
  EXPECT_THAT(MixText(*mix), HasSubstr("s, prompts: 5 read, 1 empty"));
}

TEST_F(MixTest, ARecipeThatMakesNoSenseIsRefusedByField) {
  const std::string files = R"(files { path: "a.jsonl" })";
  const auto source = [&](const std::string& more) {
    return absl::StrCat("source { name: \"s\" num_train: 1 ", files, more, "}");
  };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "source is not given"},
      {"source { }", "source.name is not given"},
      {"source { name: \"s\" num_train: 1 }", "source \"s\": files is not given"},
      {"source { name: \"s\" num_train: 1 files { } }", "source \"s\": files.path is not given"},
      {absl::StrCat("source { name: \"s\" ", files, "}"), "num_train and num_test are 0"},
      {source("num_test: -1"), "source \"s\": num_test is -1, must be at least 0"},
      {source("") + source(""), "source.name \"s\" is given twice"},
      {source("") + "near_duplicates { threshold: 1.5 }", "near_duplicates.threshold is 1.5"},
      {source("") + "near_duplicates { shingle_words: 0 }", "near_duplicates.shingle_words is 0"},
      {source("limits { max_characters: 0 }"), "limits.max_characters is 0, must be at least 1"},
      {source("wrap { }"), "source \"s\": wrap.templates is not given"},
      {source("wrap { templates { path: \"t.txt\" } }"), "wrap.placeholder is not given"},
      {source("long_context { filler { path: \"f.txt\" } min_tokens: 9 max_tokens: 8 }"),
       "long_context.max_tokens is 8, must be at least min_tokens, which is 9"},
      {source("long_context { filler { path: \"f.txt\" } min_tokens: 8 max_tokens: 8 }"),
       "source \"s\": long_context is given, which needs --tokenizer"},
      {source("files { path: \"b.csv\" where { field: \"x\" } }"), "files.where needs `field` and"},
      {source("files { path: \"b.csv\" format: CSV list: \"x\" }"), "files.list is given"},
      {source("num_trane: 3"), "the nearest valid name is \"num_train\""},
  };
  for (const auto& [recipe, expected] : cases)
    EXPECT_THAT(Error(recipe), HasSubstr(expected)) << recipe;
  EXPECT_THAT(Error(source("")), HasSubstr("a.jsonl: "));  // Not there.
}

}  // namespace
}  // namespace wideberth::data
