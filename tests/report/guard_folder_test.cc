// SPDX-License-Identifier: Apache-2.0
// What is read of a guard's folder is what was written, and there is a sentence for every way in
// which it can be wrong.
#include "report/guard_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_replace.h"
#include "nlohmann/json.hpp"
#include "tests/report/guard_table_folder.h"

namespace wideberth::report {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using TestJson = nlohmann::ordered_json;

std::string ErrorOf(const std::string& folder) {
  return std::string(ReadGuardFolder(folder).status().message());
}

std::vector<std::string> PromptsOf(const GuardedSet& set) {
  std::vector<std::string> prompts;
  for (const GuardedRow& row : set.rows) prompts.push_back(row.prompt);
  return prompts;
}

TEST(GuardFolderTest, ReadsTheTableThatWasWrittenAndItsMistakes) {
  GuardTableFolder written("read");
  written.AddSixRows();
  GuardedSet& refused = written.AddSet("prompts", "prompt_harm", {Asked(true, absl::nullopt, "a")});
  refused.rows[0].failure = "REFUSED_INPUT";
  const auto read = ReadGuardFolder(written.Write());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(GuardTableText(read->asked, read->sets, read->figures),
            GuardTableText(written.asked, written.sets(), written.Figures()));
  EXPECT_EQ(GuardTableJson(read->asked, read->sets, read->figures), read->table);
  EXPECT_THAT(PromptsOf(read->sets[0]), ElementsAre("unread", "surely", "missed", "nearly <b>"));
  EXPECT_THAT(PromptsOf(read->sets[1]), ElementsAre("a"));
  const GuardedRow& unread = read->sets[0].rows[0];
  EXPECT_EQ(unread.failure, "MALFORMED_OUTPUT");
  EXPECT_EQ(unread.message, "it ends with \"prose\"");
  EXPECT_EQ(unread.origin, "data/answers.jsonl:6");
  EXPECT_EQ(read->sets[0].rows[1].response, "reply");
  EXPECT_EQ(read->sets[0].rows[1].probability, 0.875);
}

TEST(GuardFolderTest, SetsOfOneNameAreToldApartByTaskAndFile) {
  GuardTableFolder folder("names");
  folder.AddSet("test", "refusal", {Asked(true, 0.1, "first")}, "a");
  folder.AddSet("test", "refusal", {Asked(true, 0.1, "second")}, "b");
  folder.AddSet("test", "prompt_harm", {Asked(true, 0.1, "third")}, "b");
  const auto read = ReadGuardFolder(folder.Write());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_THAT(PromptsOf(read->sets[0]), ElementsAre("first"));
  EXPECT_THAT(PromptsOf(read->sets[1]), ElementsAre("second"));
  EXPECT_THAT(PromptsOf(read->sets[2]), ElementsAre("third"));
}

TEST(GuardFolderTest, ABrokenTableIsNamedWithItsField) {
  GuardTableFolder folder("broken_table");
  folder.AddSixRows();
  const auto error = [&](const std::function<void(TestJson*)>& change) {
    TestJson table = TestJson::parse(folder.Table());
    change(&table);
    return ErrorOf(folder.Write(table.dump(), folder.Confusions()));
  };
  const std::string cut = folder.Table().substr(0, 100);
  EXPECT_THAT(ErrorOf(folder.Write(cut, "")),
              HasSubstr("guard_table.json: not JSON at byte 101, expected one object"));
  EXPECT_THAT(ErrorOf(folder.Write("[]", "")),
              EndsWith("guard_table.json: is a JSON array, expected an object"));
  EXPECT_THAT(ErrorOf(folder.Write("{\"threshold\": 1e999}", "")),
              HasSubstr("guard_table.json: has a number that no double can hold"));
  EXPECT_THAT(error([](TestJson* t) { t->erase("scorer"); }),
              EndsWith("guard_table.json: \"scorer\" is missing, expected text"));
  EXPECT_THAT(error([](TestJson* t) { (*t)["threshold"] = "half"; }),
              EndsWith("\"threshold\" is \"half\", expected a number"));
  EXPECT_THAT(error([](TestJson* t) { (*t)["sets"] = 3; }),
              EndsWith("\"sets\" is 3, expected a list"));
  EXPECT_THAT(error([](TestJson* t) { (*t)["sets"] = TestJson::array(); }),
              EndsWith("\"sets\" is empty, expected at least one set"));
  EXPECT_THAT(error([](TestJson* t) { (*t)["sets"][0]["num"] = -1; }),
              EndsWith("\"sets[0].num\" is -1, expected a whole number from 0"));
  EXPECT_THAT(error([](TestJson* t) { (*t)["sets"][0]["f1"] = 83; }),
              EndsWith("\"sets[0].f1\" is 83, expected a number from 0 to 1"));
  EXPECT_THAT(error([](TestJson* t) { (*t)["sets"][0]["without_verdict"]["X"] = "two"; }),
              EndsWith("\"sets[0].without_verdict.X\" is \"two\", expected a whole number from 0"));
}

TEST(GuardFolderTest, ABrokenMistakeIsNamedWithItsLineAndField) {
  GuardTableFolder folder("broken_line");
  folder.AddSixRows();
  const std::string lines = folder.Confusions();
  const auto error = [&](const std::string& found, const std::string& put) {
    EXPECT_THAT(lines, HasSubstr(found));
    return ErrorOf(folder.Write(folder.Table(), absl::StrReplaceAll(lines, {{found, put}})));
  };
  EXPECT_THAT(
      ErrorOf(folder.Write(folder.Table(), lines.substr(0, lines.size() - 9))),
      AllOf(HasSubstr("confusions.jsonl:4: not JSON at byte "), EndsWith(", expected one object")));
  EXPECT_THAT(
      error("\"positive\":true,\"probability\":0.25", "\"positive\":1,\"probability\":0.25"),
      EndsWith("confusions.jsonl:3: \"positive\" is 1, expected true or false"));
  EXPECT_THAT(error("\"probability\":0.25,", "\"probability\":2.5,"),
              EndsWith(":3: \"probability\" is 2.5, expected a number from 0 to 1"));
  EXPECT_THAT(error("\"probability\":0.25,", ""),
              EndsWith(":3: \"status\" is missing, expected text"));
  EXPECT_THAT(
      error("\"probability\":0.25", "\"probability\":0.75"),
      EndsWith(":3: \"mistake\" is \"false_negative\", expected a row whose probability and "
               "label disagree"));
  EXPECT_THAT(
      error("false_negative", "false"),
      EndsWith(":3: \"mistake\" is \"false\", expected \"false_negative\" by its probability "
               "and label"));
  EXPECT_THAT(error("\"set\":\"answers\"", "\"set\":\"questions\""),
              EndsWith(":1: \"set\" is \"questions\" of response_harm, expected a set and task of "
                       "guard_table.json"));
}

TEST(GuardFolderTest, AMissingFileAndMistakesOfAnotherDayAreRefused) {
  GuardTableFolder folder("missing");
  folder.AddSixRows();
  const std::string lines = folder.Confusions();
  const std::string path =
      folder.Write(folder.Table(), lines.substr(0, lines.rfind('\n', lines.size() - 2) + 1));
  EXPECT_THAT(ErrorOf(path), EndsWith("confusions.jsonl: has 3 mistakes of set \"answers\", "
                                      "expected 4 as guard_table.json says"));
  std::filesystem::remove(path + "/confusions.jsonl");
  EXPECT_EQ(ReadGuardFolder(path).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(ErrorOf(path), HasSubstr("guard_missing/confusions.jsonl"));
}

}  // namespace
}  // namespace wideberth::report
