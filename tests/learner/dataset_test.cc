// SPDX-License-Identifier: Apache-2.0
// Rows of training data: what is read, every way to be refused, and the order of a run.
#include "learner/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "learner/prompts.h"
#include "tests/testing/paths.h"

namespace wideberth::learner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Paths = google::protobuf::RepeatedPtrField<std::string>;

class DatasetTest : public ::testing::Test {
 protected:
  Paths File(const std::string& text, const std::string& selection = "") {
    const std::string path = dir_.Join(absl::StrCat("rows-", ++files_, ".jsonl"));
    EXPECT_TRUE(WriteFileAtomically(path, text).ok());
    Paths paths;
    *paths.Add() = absl::StrCat(path, selection);
    return paths;
  }
  std::string SftError(const std::string& text, const std::string& selection = "") {
    return std::string(ReadSftRows(File(text, selection)).status().message());
  }
  std::string PreferenceError(const std::string& text) {
    return std::string(ReadPreferenceRows(File(text)).status().message());
  }
  std::string GuardError(const std::string& text) {
    return std::string(ReadGuardRows(File(text), guard_).status().message());
  }
  wideberth::testing::TempDir dir_;
  proto::DataConfig guard_;
  int files_ = 0;
};

constexpr char kPair[] = R"({"prompt": "a", "completion": "b", "note": 3})";

TEST_F(DatasetTest, SftRowsAreTextsMessagesOrChats) {
  const auto rows = ReadSftRows(File(absl::StrCat(kPair, "\n",
                                                  R"(
{"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "r"}]}
{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]})" +
                                                      1)));
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 3u);
  EXPECT_EQ((*rows)[0].prompt.text, "a");
  EXPECT_EQ((*rows)[0].completion.text, "b");
  EXPECT_EQ((*rows)[1].completion.messages[0].content(), "r");
  EXPECT_EQ((*rows)[2].messages.size(), 2u);
  EXPECT_THAT((*rows)[2].origin, ::testing::EndsWith(".jsonl:3"));
}

TEST_F(DatasetTest, EveryBadSftRowIsRefusedWithItsLine) {
  const struct {
    const char* row;
    const char* sentence;
  } kBad[] = {
      {"", ":2: the line is empty, expected a JSON object"},
      {"  \t", ":2: the line is empty, expected a JSON object"},
      {"{\"prompt\": ", ":2: found a line that is not JSON, expected a JSON object"},
      {"[1]", ":2: found [1], expected a JSON object"},
      {"{}", ":2: has neither \"messages\" and \"prompt\" with \"completion\""},
      {R"({"prompt": "a"})", ":2: \"completion\" is missing, expected a text or a list"},
      {R"({"prompt": "a", "completion": 7})", ":2: \"completion\" is 7, expected a text or"},
      {R"({"prompt": "a", "completion": "  "})", ":2: \"completion\" is empty, expected a text"},
      {R"({"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]})",
       ":2: \"completion\" is messages, expected a text as \"prompt\""},
      {R"({"prompt": "a", "completion": []})", ":2: \"completion\" is [], expected a list of"},
      {R"({"messages": "hello"})", ":2: \"messages\" is \"hello\", expected a list of messages"},
      {R"({"messages": [3]})", ":2: messages[0] is 3, expected {\"role\""},
      {R"({"messages": [{"role": "user"}]})", ":2: messages[0].content is missing, expected a"},
      {R"({"messages": [{"role": "bot", "content": "b"}]})",
       ":2: messages[0].role is \"bot\", expected system, user or assistant"},
      {R"({"messages": [{"role": "user", "content": "b"}]})",
       ":2: \"messages\" has none of the assistant"},
      {R"({"messages": [{"role": "assistant", "content": "b"}]})",
       ":2: messages[0].role is \"assistant\", expected a prompt first"},
      {R"({"messages": [], "prompt": "a"})", ":2: has both \"messages\" and"},
      {R"({"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "user", "content": "r"}]})",
       ":2: \"completion\" has no message of the assistant"},
  };
  for (const auto& bad : kBad) {
    EXPECT_THAT(SftError(absl::StrCat(kPair, "\n", bad.row, "\n", kPair, "\n")),
                HasSubstr(bad.sentence));
  }
}

TEST_F(DatasetTest, AFileWithoutRowsIsRefused) {
  EXPECT_THAT(SftError(""), HasSubstr("no row found, expected at least one"));
  Paths missing;
  *missing.Add() = dir_.Join("nothing.jsonl");
  EXPECT_TRUE(absl::IsNotFound(ReadSftRows(missing).status()));
}

TEST_F(DatasetTest, RowsAreChosenByAField) {
  const std::string text =
      "{\"prompt\": \"a\", \"completion\": \"b\", \"split\": \"train\"}\n"
      "{\"prompt\": \"c\", \"completion\": \"d\", \"split\": \"val\"}\n";
  const auto rows = ReadSftRows(File(text, "#split=val"));
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 1u);
  EXPECT_EQ((*rows)[0].prompt.text, "c");
  EXPECT_THAT(SftError(text, "#split=test"), HasSubstr("no row found"));
  EXPECT_THAT(SftError(text, "#kind=x"),
              HasSubstr(":1: \"kind\" is missing, expected a text, by which rows are chosen"));
  EXPECT_THAT(SftError(text, "#split"), HasSubstr("expected #FIELD=VALUE after the file"));
  EXPECT_THAT(SftError(text, "#=val"), HasSubstr("expected #FIELD=VALUE after the file"));
}

TEST_F(DatasetTest, RowsAreChosenByTheirLines) {
  const std::string text =
      "{\"prompt\": \"a\", \"completion\": \"x\"}\n"
      "{\"prompt\": \"b\", \"completion\": \"x\"}\n"
      "{\"prompt\": \"c\", \"completion\": \"x\"}\n";
  const auto prompts = [&](const std::string& lines) {
    const auto rows = ReadSftRows(File(text, lines));
    EXPECT_TRUE(rows.ok()) << rows.status();
    std::string all;
    for (const SftRow& row : *rows) all += row.prompt.text;
    return all;
  };
  EXPECT_EQ(prompts("#lines=1-2"), "ab");
  EXPECT_EQ(prompts("#lines=3-3"), "c");
  EXPECT_EQ(prompts("#lines=2-"), "bc");
  EXPECT_THAT(SftError(text, "#lines=4-9"), HasSubstr("no row found"));
  for (const char* bad : {"#lines=3-2", "#lines=0-2", "#lines=2", "#lines=-2", "#lines=a-b"}) {
    EXPECT_THAT(SftError(text, bad), HasSubstr("expected FIRST-LAST or FIRST-, from 1")) << bad;
  }
}

TEST_F(DatasetTest, PreferencesAreReadFromTwoDialogues) {
  const auto rows = ReadPreferenceRows(File(
      R"({"chosen": "\n\nHuman: a\n\nAssistant: b\n\nc\n\nHuman: d\n\nAssistant: yes", )"
      R"("rejected": "\n\nHuman: a\n\nAssistant: b\n\nc\n\nHuman: d\n\nAssistant:"})"
      "\n"
      R"({"chosen": "\n\nHuman: a\n\nAssistant: c", "rejected": "\n\nHuman: b\n\nAssistant: d"})"));
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 1u);  // The second pair answers two prompts.
  const PreferenceRow& row = rows->front();
  ASSERT_EQ(row.prompt.messages.size(), 3u);
  EXPECT_EQ(row.prompt.messages[1].role(), "assistant");
  EXPECT_EQ(row.prompt.messages[1].content(), "b\n\nc");
  EXPECT_EQ(row.prompt.messages[2].role(), "user");
  EXPECT_EQ(row.prompt.messages[2].content(), "d");
  ASSERT_EQ(row.chosen.messages.size(), 1u);
  EXPECT_EQ(row.chosen.messages[0].content(), "yes");
  EXPECT_EQ(row.rejected.messages[0].role(), "assistant");
  EXPECT_EQ(row.rejected.messages[0].content(), "");
}

TEST_F(DatasetTest, EveryBadDialogueIsRefusedWithItsLine) {
  EXPECT_THAT(PreferenceError(R"({"chosen": "c", "rejected": "r"})"),
              HasSubstr(":1: \"chosen\" begins with \"c\", expected a dialogue"));
  EXPECT_THAT(PreferenceError(R"({"chosen": "\n\nHuman: a\n\nAssistant: b"})"),
              HasSubstr(":1: \"rejected\" is missing"));
  EXPECT_THAT(PreferenceError(R"({"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: a"})"),
              HasSubstr(":1: \"chosen\" is a dialogue of 1 turns, expected one from Human"));
  EXPECT_THAT(
      PreferenceError(
          R"({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: b"})"),
      HasSubstr("no pair answers one prompt"));
}

TEST_F(DatasetTest, PreferencesHaveWeightsAndMargins) {
  const auto rows =
      ReadPreferenceRows(File("{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\"}\n"
                              "{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\", "
                              "\"weight\": 0.5, \"margin\": -1}"));
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ((*rows)[0].weight, 1);
  EXPECT_FALSE((*rows)[0].margin.has_value());
  EXPECT_EQ((*rows)[1].weight, 0.5);
  EXPECT_EQ((*rows)[1].margin, -1);
  EXPECT_EQ((*rows)[1].rejected.text, "r");
}

TEST_F(DatasetTest, EveryBadPreferenceIsRefusedWithItsLine) {
  EXPECT_THAT(PreferenceError(R"({"prompt": "p", "chosen": "c"})"),
              HasSubstr(":1: \"rejected\" is missing"));
  EXPECT_THAT(PreferenceError(R"({"prompt": "p", "chosen": "c", "rejected": "r", "weight": -1})"),
              HasSubstr(":1: \"weight\" is -1, expected a number of at least 0"));
  EXPECT_THAT(
      PreferenceError(R"({"prompt": "p", "chosen": "c", "rejected": "r", "margin": "big"})"),
      HasSubstr(":1: \"margin\" is \"big\", expected a number"));
  EXPECT_THAT(
      PreferenceError(
          R"({"prompt": "p", "chosen": [{"role": "assistant", "content": "c"}], "rejected": "r"})"),
      HasSubstr(":1: \"chosen\" is messages, expected a text"));
}

TEST_F(DatasetTest, LabelsAreTextsBooleansAndNumbers) {
  std::string text;
  for (const char* label : {"\"unsafe\"", "\"harmful\"", "true", "1", "\"safe\"", "\"unharmful\"",
                            "\"harmless\"", "false", "0"}) {
    absl::StrAppend(&text, "{\"prompt\": \"p\", \"response\": \"r\", \"label\": ", label, "}\n");
  }
  const auto rows = ReadGuardRows(File(text), guard_);
  ASSERT_TRUE(rows.ok()) << rows.status();
  std::vector<bool> positive;
  for (const GuardRow& row : rows->rows) positive.push_back(row.positive);
  EXPECT_THAT(positive, ElementsAre(true, true, true, true, false, false, false, false, false));
}

TEST_F(DatasetTest, GuardRowsMayHaveTheirOwnFieldsAndLabels) {
  guard_.set_prompt_field("q");
  guard_.set_response_field("a");
  guard_.set_label_field("harm");
  guard_.set_source_field("set");
  guard_.add_positive_label("2");
  guard_.add_positive_label("bad");
  const auto rows = ReadGuardRows(File("{\"q\": \"p\", \"a\": \"r\", \"harm\": 2, \"set\": \"x\"}\n"
                                       "{\"q\": \"p\", \"a\": \"r\", \"harm\": \"bad\"}\n"
                                       "{\"q\": \"p\", \"a\": \"r\", \"harm\": 1}\n"
                                       "{\"q\": \"p\", \"a\": null, \"harm\": 1}\n"
                                       "{\"q\": \"p\", \"a\": \"r\", \"harm\": null}\n"),
                                  guard_);
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->rows.size(), 3u);
  EXPECT_EQ(rows->num_unlabelled, 2);
  EXPECT_TRUE(rows->rows[0].positive);
  EXPECT_EQ(rows->rows[0].source, "x");
  EXPECT_TRUE(rows->rows[1].positive);
  EXPECT_FALSE(rows->rows[2].positive);
}

TEST_F(DatasetTest, EveryBadGuardRowIsRefusedWithItsLine) {
  EXPECT_THAT(GuardError(R"({"prompt": "p", "response": "r"})"),
              HasSubstr(":1: \"label\" is missing"));
  EXPECT_THAT(GuardError(R"({"prompt": "p", "response": "r", "label": "perhaps"})"),
              HasSubstr(":1: \"label\" is \"perhaps\", expected \"unsafe\" or \"safe\""));
  EXPECT_THAT(GuardError(R"({"prompt": "p", "response": "r", "label": [1]})"),
              HasSubstr(":1: \"label\" is [1], expected a text, a boolean or a number"));
  EXPECT_THAT(GuardError(R"({"prompt": "", "response": "r", "label": 1})"),
              HasSubstr(":1: \"prompt\" is empty"));
  EXPECT_THAT(GuardError(R"({"prompt": "p", "label": 1})"),
              HasSubstr(":1: \"response\" is missing"));
  EXPECT_THAT(GuardError(R"({"prompt": "p", "response": null, "label": 1})"),
              HasSubstr("all 1 rows have null as \"label\" or \"response\""));
}

TEST(RowOrderTest, AnEpochTakesEveryRowOnceInAnOrderOfItsOwn) {
  proto::DataConfig config;
  config.set_batch_size(4);
  RowOrder order(10, config, 3);
  EXPECT_EQ(order.steps_per_epoch(), 3);
  std::vector<std::vector<int64_t>> epochs(2);
  for (int64_t step = 0; step < 6; ++step) {
    const std::vector<int64_t> batch = order.Batch(step);
    EXPECT_EQ(batch.size(), step % 3 == 2 ? 2u : 4u);
    epochs[step / 3].insert(epochs[step / 3].end(), batch.begin(), batch.end());
  }
  for (const std::vector<int64_t>& epoch : epochs)
    EXPECT_EQ(std::set<int64_t>(epoch.begin(), epoch.end()).size(), 10u);
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_EQ(epochs[1], ShuffledOrder(10, 3, 1));
  // What a resumed run asks for first.
  EXPECT_EQ(RowOrder(10, config, 3).Batch(4), order.Batch(4));
  EXPECT_NE(RowOrder(10, config, 4).Batch(4), order.Batch(4));
}

TEST(RowOrderTest, TheCursorCountsRowsOverEpochs) {
  proto::DataConfig config;
  config.set_batch_size(4);
  config.set_shuffle(false);
  RowOrder order(10, config, 3);
  EXPECT_THAT(order.Batch(5), ElementsAre(8, 9));
  EXPECT_EQ(order.RowsBefore(0), 0);
  EXPECT_EQ(order.RowsBefore(2), 8);
  EXPECT_EQ(order.RowsBefore(3), 10);
  EXPECT_EQ(order.RowsBefore(4), 14);
  EXPECT_DOUBLE_EQ(order.Epochs(4), 1.4);
}

}  // namespace
}  // namespace wideberth::learner
