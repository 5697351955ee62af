// SPDX-License-Identifier: Apache-2.0
// `wideberth score`: every line answered in order, bad lines named by number.
#include "scorer/score_lines.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "tests/scorer/fake_scoring_model.h"

namespace wideberth::scorer {
namespace {

using ::testing::ElementsAre;
using Json = nlohmann::json;

class ScoreLinesTest : public ::testing::Test {
 protected:
  // The lines printed for `text`; the status is in status_.
  std::vector<Json> Score(const std::string& text, int64_t max_batch_tokens = 1000) {
    std::istringstream in(text);
    std::ostringstream out;
    status_ = ScoreLines(model_, max_batch_tokens, in, out, "items.jsonl");
    std::vector<Json> lines;
    for (absl::string_view line : absl::StrSplit(out.str(), '\n', absl::SkipEmpty()))
      lines.push_back(Json::parse(std::string(line)));
    return lines;
  }
  std::string Error(const std::string& line) {
    Score(line);
    EXPECT_EQ(status_.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status_.message());
  }

  FakeScoringModel model_;
  absl::Status status_;
};

TEST_F(ScoreLinesTest, EveryLineIsAnsweredInOrderWithItsType) {
  const auto lines = Score(
      "{\"prompt\": \"p\", \"completion\": \"abc\"}\n"
      "\n"
      "{\"id\": 7, \"prompt\": [{\"role\": \"user\", \"content\": \"p\"}], \"completion\": \"\"}\n"
      "{\"messages\": [{\"role\": \"user\", \"content\": \"p\"}, {\"role\": \"assistant\", "
      "\"content\": \"!\"}]}");
  ASSERT_TRUE(status_.ok()) << status_;
  ASSERT_EQ(lines.size(), 3);
  EXPECT_EQ(lines[0]["status"], "SCORED");
  EXPECT_EQ(lines[0]["value"], 3.0);
  EXPECT_EQ(lines[0]["scorer"], "safety");
  EXPECT_TRUE(lines[0].contains("latency_ms"));
  EXPECT_FALSE(lines[0].contains("message"));
  EXPECT_EQ(lines[1]["id"], 7);
  EXPECT_EQ(lines[1]["status"], "REFUSED_INPUT");
  EXPECT_FALSE(lines[1].contains("value"));
  EXPECT_EQ(lines[1]["message"], "the completion is empty");
  EXPECT_EQ(lines[2]["status"], "MODEL_ERROR");
}

TEST_F(ScoreLinesTest, LinesAtHandShareABatchWithinTheBudget) {
  Score(
      "{\"prompt\": \"p\", \"completion\": \"aaa\"}\n"
      "{\"prompt\": \"p\", \"completion\": \"bb\"}\n"
      "{\"prompt\": \"p\", \"completion\": \"c\"}\n",
      5);
  EXPECT_THAT(model_.batches, ElementsAre(ElementsAre("aaa", "bb"), ElementsAre("c")));
}

TEST_F(ScoreLinesTest, ABadLineIsNamedAfterTheAnswersBeforeIt) {
  const auto lines = Score("{\"prompt\": \"p\", \"completion\": \"abc\"}\n\n{\"prompt\": \"p\"\n");
  EXPECT_EQ(lines.size(), 1);
  EXPECT_EQ(status_.message(),
            "items.jsonl:3: not a JSON object, expected {\"prompt\": ..., \"completion\": ...}");
}

TEST_F(ScoreLinesTest, BadFieldsAreNamed) {
  EXPECT_EQ(Error("{\"completion\": \"c\"}"),
            "items.jsonl:1: has no \"prompt\" and no \"messages\", expected {\"prompt\": ..., "
            "\"completion\": ...}");
  EXPECT_EQ(Error("{\"prompt\": \"p\"}"),
            "items.jsonl:1: has no \"completion\", nor \"messages\" that end with an assistant's");
  EXPECT_EQ(Error("{\"prompt\": 3, \"completion\": \"c\"}"),
            "items.jsonl:1: \"prompt\" is number, must be a text or a list of messages");
  EXPECT_EQ(Error("{\"prompt\": \"p\", \"completion\": null}"),
            "items.jsonl:1: \"completion\" is null, must be a text");
  EXPECT_EQ(Error("{\"messages\": [{\"role\": \"user\"}]}"),
            "items.jsonl:1: \"messages\" holds something that is not {\"role\": text, \"content\": "
            "text}");
  EXPECT_EQ(Error("{\"messages\": [{\"role\": \"user\", \"content\": \"p\"}]}"),
            "items.jsonl:1: has no \"completion\", nor \"messages\" that end with an assistant's");
}

TEST_F(ScoreLinesTest, AnOutputThatCannotBeWrittenIsAnError) {
  std::istringstream in("{\"prompt\": \"p\", \"completion\": \"abc\"}\n");
  std::ostream closed(nullptr);
  EXPECT_EQ(ScoreLines(model_, 10, in, closed, "x").code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace wideberth::scorer
