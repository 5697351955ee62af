// SPDX-License-Identifier: Apache-2.0
// `wideberth mine` on a run's folder: what it writes is what DPO reads.
#include "launch/mine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "learner/dataset.h"
#include "learner/journal.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::launch {
namespace {

using ::testing::HasSubstr;

class MineTest : public ::testing::Test {
 protected:
  // Two prompts of four answers each: the first was answered rightly once, the second thrice.
  void SetUp() override {
    ASSERT_TRUE(testing::WriteTinyModel("llama", dir_.Join("model")).ok());
    Write("prompts.jsonl",
          "{\"id\": \"a\", \"prompt\": \"Is it?\"}\n"
          "{\"id\": \"b\", \"messages\": [{\"role\": \"system\", \"content\": \"Judge.\"},"
          " {\"role\": \"user\", \"content\": \"And this?\"}]}\n");
    Write("labels.jsonl",
          "{\"id\": \"a\", \"label\": \"harmful\"}\n{\"id\": \"b\", \"label\": \"unharmful\"}\n");
    Write("run/config.txtpb",
          absl::StrCat(
              "policy { model { path: \"", dir_.Join("model"), "\" } }\n", "prompts { path: \"",
              dir_.Join("prompts.jsonl"), "\" shuffle: false }\n",
              "scorer { name: \"s\" model { path: \"m\" } template: \"{prompt}{completion}\"",
              " positive: \"y\" negative: \"n\" }\nreward { guard: \"s\" utility: \"s\" }"));
    auto journal = learner::Journal::Create(dir_.Join("run/run.db"), "run-1");
    ASSERT_TRUE(journal.ok()) << journal.status();
    for (int id = 0; id < 2; ++id) {
      learner::JournalGroup group;
      group.prompt_id = id == 0 ? "a" : "b";
      group.member = "actor-0";
      group.request.set_group_id(id);
      group.request.set_lease_id(absl::StrCat("train-", id, "-0"));
      for (const char* verdict : {"harmful", "unharmful", "unharmful", "unharmful"}) {
        proto::Completion* completion = group.request.add_completion();
        completion->add_token_id(5);
        completion->add_logprob(-1);
        completion->set_finish_reason(proto::STOP);
        completion->set_text(absl::StrCat("I think\nResponse: ", verdict));
      }
      ASSERT_TRUE((*journal)->AppendGroup(group).ok());
    }
  }
  void Write(const std::string& name, const std::string& text) {
    const std::string path = dir_.Join(name);
    ASSERT_TRUE(MakeDirectories(path.substr(0, path.rfind('/'))).ok());
    ASSERT_TRUE(WriteFileAtomically(path, text).ok());
  }
  absl::Status MineInto(const std::string& output, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {absl::StrCat("--run=", dir_.Join("run")),
                                          absl::StrCat("--labels=", dir_.Join("labels.jsonl")),
                                          absl::StrCat("--output=", dir_.Join(output))};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Mine(arguments);
  }
  std::vector<learner::PreferenceRow> Rows(const std::string& output) {
    proto::DataConfig data;
    data.add_path(dir_.Join(output));
    auto rows = learner::ReadPreferenceRows(data.path());
    EXPECT_TRUE(rows.ok()) << rows.status();
    return rows.value_or(std::vector<learner::PreferenceRow>());
  }
  testing::TempDir dir_;
};

TEST_F(MineTest, WritesWeightedPairsThatDpoReads) {
  const absl::Status mined = MineInto("pairs.jsonl", {"--gamma=0.4"});
  ASSERT_TRUE(mined.ok()) << mined;
  const std::vector<learner::PreferenceRow> rows = Rows("pairs.jsonl");
  ASSERT_EQ(rows.size(), 2u);
  ASSERT_EQ(rows[0].prompt.messages.size(), 1u);
  EXPECT_EQ(rows[0].prompt.messages[0].content(), "Is it?");
  EXPECT_EQ(rows[0].chosen.messages[0].role(), "assistant");
  EXPECT_EQ(rows[0].chosen.messages[0].content(), "I think\nResponse: harmful");
  EXPECT_EQ(rows[0].rejected.messages[0].content(), "I think\nResponse: unharmful");
  EXPECT_NEAR(rows[0].weight, 1.4, 1e-12) << "one right, three wrong";
  ASSERT_EQ(rows[1].prompt.messages.size(), 2u);
  EXPECT_EQ(rows[1].chosen.messages[0].content(), "I think\nResponse: unharmful");
  EXPECT_NEAR(rows[1].weight, 0.6, 1e-12) << "three right, one wrong";
}

TEST_F(MineTest, APolicyWithoutAChatTemplateGetsTexts) {
  ASSERT_TRUE(WriteFileAtomically(dir_.Join("model/tokenizer_config.json"), "{}").ok());
  const absl::Status mined = MineInto("pairs.jsonl");
  ASSERT_TRUE(mined.ok()) << mined;
  const std::vector<learner::PreferenceRow> rows = Rows("pairs.jsonl");
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1].prompt.text, "Judge.\nAnd this?");
  EXPECT_EQ(rows[1].chosen.text, "I think\nResponse: unharmful");
}

TEST_F(MineTest, NothingIsWrittenWhereThereIsNoPairOrTheInputIsBad) {
  absl::Status mined = MineInto("pairs.jsonl", {"--verdict=Request:"});
  EXPECT_TRUE(absl::IsFailedPrecondition(mined));
  EXPECT_THAT(std::string(mined.message()), HasSubstr("2 prompts were answered: 0 hard"));
  mined = MineInto("pairs.jsonl", {"--gamma=1"});
  EXPECT_EQ(mined.message(), "--gamma is 1, must be at least 0 and below 1");
  Write("labels.jsonl", "{\"id\": \"a\"}\n");
  mined = MineInto("pairs.jsonl");
  EXPECT_THAT(std::string(mined.message()), HasSubstr("labels.jsonl:1: \"label\" must be there"));
  EXPECT_FALSE(ReadFile(dir_.Join("pairs.jsonl")).ok());
  EXPECT_THAT(std::string(Mine({}).message()), HasSubstr("--run is not given"));
}

}  // namespace
}  // namespace wideberth::launch
