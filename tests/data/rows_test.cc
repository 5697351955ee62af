// SPDX-License-Identifier: Apache-2.0
#include "data/rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/text_proto.h"
#include "tests/testing/paths.h"

namespace wideberth::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using testing::TempDir;

class RowsTest : public ::testing::Test {
 protected:
  // Reads `text` as a file of that name, mapped by `form` (DataFiles as text).
  absl::Status Read(const std::string& name, const std::string& text, const std::string& form = "",
                    int64_t max_unreadable = 0) {
    rows_.clear();
    account_ = {};
    google::protobuf::RepeatedPtrField<proto::DataFiles> files;
    EXPECT_TRUE(WriteFileAtomically(dir_.Join(name), text).ok());
    const absl::Status parsed = MergeTextProto(form, "form", files.Add());
    EXPECT_TRUE(parsed.ok()) << parsed;
    files[0].add_path(name);
    return ReadRows(files, dir_.path(), max_unreadable, &rows_, &account_, &inputs_);
  }
  std::vector<std::string> Texts() const {
    std::vector<std::string> texts;
    for (const Row& row : rows_) texts.push_back(row.text);
    return texts;
  }
  std::string Message(const absl::Status& status) const { return std::string(status.message()); }

  TempDir dir_;
  std::vector<Row> rows_;
  Account account_;
  std::vector<InputFile> inputs_;
};

TEST_F(RowsTest, MapsFieldsOfJsonLines) {
  const absl::Status status = Read(
      "a.jsonl",
      R"({"q": {"text": "  how are tides made? "}, "n": 7, "kind": "sea", "from": "book", "label": "bad"})"
      "\n\n"
      R"({"q": {"text": "why rain"}, "n": null, "kind": null, "from": "", "label": "good"})",
      R"(prompt: "q.text" id: "n" category: "kind" source: "from"
              unsafe_where { field: "label" is: "bad" })");
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(rows_.size(), 2u);
  EXPECT_EQ(rows_[0].text, "how are tides made?");
  EXPECT_EQ(rows_[0].id, "7");
  EXPECT_EQ(rows_[0].category, "sea");
  EXPECT_EQ(rows_[0].source, "book");
  EXPECT_EQ(rows_[0].unsafe, true);
  EXPECT_EQ(rows_[0].origin, dir_.Join("a.jsonl:1"));
  EXPECT_EQ(rows_[1].id + rows_[1].category + rows_[1].source, "");
  EXPECT_EQ(rows_[1].unsafe, false);
  EXPECT_EQ(rows_[1].origin, dir_.Join("a.jsonl:3"));
}

TEST_F(RowsTest, JoinsSeveralFieldsAndLeavesOutEmptyOnes) {
  const absl::Status status =
      Read("a.json",
           R"([{"instruction": "Sort", "input": "3 1 2"}, {"instruction": "Sing", "input": ""}])",
           R"(prompt: "instruction" prompt: "input")");
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(Texts(), ElementsAre("Sort\n\n3 1 2", "Sing"));
}

TEST_F(RowsTest, ReadsTheListThatIsNamed) {
  const absl::Status status =
      Read("a.json", R"({"meta": {"rows": [{"prompt": "one"}]}, "n": 1})", R"(list: "meta.rows")");
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(Texts(), ElementsAre("one"));
  EXPECT_EQ(rows_[0].origin, dir_.Join("a.json: item 0"));
}

TEST_F(RowsTest, ReadsTreesWithTheirKeys) {
  const absl::Status status =
      Read("a.json", R"({"Sea": {"Waves": ["one", "two"]}, "Sky": {"Rain": ["three"]}})",
           R"(format: JSON_TREE category: "keys.0" id: "keys.1")");
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(Texts(), ElementsAre("one", "two", "three"));
  EXPECT_EQ(rows_[1].category, "Sea");
  EXPECT_EQ(rows_[2].id, "Rain");
  EXPECT_EQ(rows_[1].origin, dir_.Join("a.json: Sea.Waves.1"));
}

TEST_F(RowsTest, ReadsCsvAndPlainLines) {
  ASSERT_TRUE(Read("a.csv", "\xEF\xBB\xBFgoal,x.y\n\"one,\ntwo\",sea\n",
                   R"(prompt: "goal" category: "x.y")")
                  .ok());
  EXPECT_THAT(Texts(), ElementsAre("one,\ntwo"));
  EXPECT_EQ(rows_[0].category, "sea");
  ASSERT_TRUE(Read("a.txt", "one\r\n\n two\n").ok());
  EXPECT_THAT(Texts(), ElementsAre("one", "two"));
}

TEST_F(RowsTest, CountsRowsThatAreEmptyOrLeftOut) {
  const absl::Status status = Read("a.jsonl",
                                   "{\"prompt\": \"one\", \"task\": \"prompt\"}\n"
                                   "{\"prompt\": \" \", \"task\": \"prompt\"}\n"
                                   "{\"prompt\": null, \"task\": \"prompt\"}\n"
                                   "{\"prompt\": \"two\", \"task\": \"answer\"}\n"
                                   "{\"prompt\": \"three\", \"task\": true}\n",
                                   R"(where { field: "task" is: "prompt" is: "true" })");
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(Texts(), ElementsAre("one", "three"));
  EXPECT_EQ(account_.read, 5);
  EXPECT_THAT(account_.dropped, ElementsAre(Pair(Drop::kLeftOut, 1), Pair(Drop::kEmpty, 2)));
}

TEST_F(RowsTest, ABrokenLineIsNamedWithItsFieldAndWhatWasExpected) {
  const std::string good = "{\"goal\": \"one\"}\n";
  const std::string form = "prompt: \"goal\"";
  EXPECT_THAT(Message(Read("a.jsonl", good + "{\"goal\": \"tw", form)),
              HasSubstr("a.jsonl:2: not JSON at column 13, expected an object"));
  EXPECT_THAT(Message(Read("a.jsonl", good + "[1]", form)),
              HasSubstr("a.jsonl:2: is a list, expected a JSON object"));
  EXPECT_THAT(Message(Read("a.jsonl", good + "{\"gaol\": \"two\"}", form)),
              HasSubstr("a.jsonl:2: has no field \"goal\"; the nearest is \"gaol\""));
  EXPECT_THAT(Message(Read("a.jsonl", good + "{\"goal\": 3}", form)),
              HasSubstr("a.jsonl:2: field \"goal\" is a number, expected a text"));
  EXPECT_THAT(Message(Read("a.csv", "goal,b\none,2\nthree\n", form)),
              HasSubstr("a.csv:3: has 1 field(s), expected the 2 that the first line names"));
  EXPECT_THAT(Message(Read("a.csv", "goal\none\ncaf\x8E\n", form)),
              HasSubstr("a.csv:3: field \"goal\": is not UTF-8 at byte 3"));
  EXPECT_THAT(Message(Read("a.csv", "goal,goal\n", form)),
              HasSubstr("a.csv:1: names the field \"goal\" twice"));
  EXPECT_THAT(Message(Read("a.json", "[{\"goal\": \"one\"},\n{\"goal\" \"two\"}]", form)),
              HasSubstr("a.json:2: not JSON"));
  EXPECT_THAT(Message(Read("a.json", "[{\"goal\": \"one\"}, 5]", form)),
              HasSubstr("a.json: item 1: is a number, expected an object"));
  EXPECT_THAT(Message(Read("a.json", "{\"rows\": []}", form)),
              HasSubstr("the file is an object, expected a list of objects"));
  EXPECT_THAT(Message(Read("a.json", "{\"rows\": 3}", "list: \"rows\"")),
              HasSubstr("\"rows\" is a number, expected a list"));
  EXPECT_THAT(Message(Read("a.json", "{\"a\": [3]}", "format: JSON_TREE")),
              HasSubstr("a.json: a.0: is a number"));
  const auto deep = [](size_t n) {
    return "{\"a\": " + std::string(n, '[') + std::string(n, ']') + "}";
  };
  EXPECT_THAT(Message(Read("a.json", deep(200), "format: JSON_TREE")),
              HasSubstr("a.json: has values within each other more than 100 deep"));
  EXPECT_THAT(Message(Read("a.json", deep(1'000'000), "format: JSON_TREE")),
              HasSubstr("a.json has JSON values within each other more than 500 deep"));
  EXPECT_THAT(Message(Read("a.jsonl", deep(1'000'000), form)),
              HasSubstr("a.jsonl:1 has JSON values within each other more than 500 deep"));
  EXPECT_THAT(Message(Read("a.jsonl", "{\"goal\": 1e999}", form)),
              HasSubstr("a.jsonl:1: not JSON, expected an object on one line (a number that no "
                        "double can hold)"));
  EXPECT_THAT(Message(Read("a.dat", "x", form)), HasSubstr("expected `format`"));
}

TEST_F(RowsTest, SomeBrokenRowsMayBeAllowed) {
  const std::string text = "{\"prompt\": \"one\"}\n{\n{}\n{\"prompt\": \"two\"}\n";
  ASSERT_TRUE(Read("a.jsonl", text, "", 2).ok());
  EXPECT_THAT(Texts(), ElementsAre("one", "two"));
  EXPECT_THAT(account_.dropped, ElementsAre(Pair(Drop::kUnreadable, 2)));
  EXPECT_EQ(account_.ToString(), "4 read, 2 unreadable");
  const std::string message = Message(Read("a.jsonl", text, "", 1));
  EXPECT_THAT(message, HasSubstr("a.jsonl:2: not JSON"));
  EXPECT_THAT(message, HasSubstr("2 rows are unreadable, max_unreadable is 1"));
}

TEST_F(RowsTest, ListsEveryFileOnceWithItsHash) {
  ASSERT_TRUE(Read("a.txt", "abc").ok());
  ASSERT_TRUE(Read("a.txt", "abc").ok());
  ASSERT_EQ(inputs_.size(), 1u);
  EXPECT_EQ(inputs_[0].path, "a.txt");
  EXPECT_EQ(inputs_[0].bytes, 3);
  EXPECT_EQ(inputs_[0].sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace wideberth::data
