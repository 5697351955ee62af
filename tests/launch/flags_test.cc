// SPDX-License-Identifier: Apache-2.0
#include "launch/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace wideberth::launch {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FlagTableTest : public ::testing::Test {
 protected:
  FlagTableTest() : table_("wideberth generate", "--model=DIR [FILE]", "Samples.") {
    table_.Add("model", &model_, "a Hugging Face folder");
    table_.Add("config", &configs_, "a file, may be repeated");
    table_.Add("chat", &chat_, "lines are user turns");
    table_.Add("max_new_tokens", &max_new_tokens_, "at most so many");
    table_.Add("temperature", &temperature_, "0: greedy");
  }
  std::string Error(const std::vector<std::string>& arguments) {
    return std::string(table_.Parse(arguments, &rest_).status().message());
  }

  std::string model_;
  std::vector<std::string> configs_;
  bool chat_ = false;
  int32_t max_new_tokens_ = 7;
  double temperature_ = 1;
  std::vector<std::string> rest_;
  FlagTable table_;
};

TEST_F(FlagTableTest, TakesBothSpellingsAndKeepsTheRestInOrder) {
  const auto go = table_.Parse({"a", "--model=dir", "--config", "x", "-config=y", "--chat",
                                "--temperature=0.5", "-", "--", "--model=z"},
                               &rest_);
  ASSERT_TRUE(go.ok()) << go.status();
  EXPECT_TRUE(*go);
  EXPECT_THAT(rest_, ElementsAre("a", "-", "--model=z"));
  EXPECT_EQ(model_, "dir");
  EXPECT_THAT(configs_, ElementsAre("x", "y"));
  EXPECT_TRUE(chat_);
  EXPECT_EQ(temperature_, 0.5);
  EXPECT_EQ(max_new_tokens_, 7);
}

TEST_F(FlagTableTest, AnUnknownFlagIsAnErrorWithTheNearestName) {
  EXPECT_EQ(Error({"--max_new_token=3"}),
            "there is no flag --max_new_token; the nearest is --max_new_tokens (see wideberth "
            "generate --help)");
}

TEST_F(FlagTableTest, AValueOfTheWrongKindNamesFlagValueAndExpectation) {
  EXPECT_EQ(Error({"--max_new_tokens=many"}),
            "--max_new_tokens is \"many\", expected a whole number");
  EXPECT_EQ(Error({"--temperature", "hot"}), "--temperature is \"hot\", expected a number");
  EXPECT_EQ(Error({"--chat=perhaps"}), "--chat is \"perhaps\", expected true or false");
  EXPECT_EQ(Error({"--model"}), "--model needs a value: --model=TEXT");
}

TEST_F(FlagTableTest, HelpNamesEveryFlagAndChecksNothing) {
  ::testing::internal::CaptureStdout();
  const auto go = table_.Parse({"--nonsense", "--help"});
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), table_.Help());
  ASSERT_TRUE(go.ok()) << go.status();
  EXPECT_FALSE(*go);
  for (const char* flag :
       {"--model=TEXT", "--config=TEXT", "--chat ", "--max_new_tokens=N", "--temperature=X"}) {
    EXPECT_THAT(table_.Help(), HasSubstr(flag));
  }
  EXPECT_THAT(table_.Help(), HasSubstr("Usage: wideberth generate --model=DIR [FILE]\n"));
}

TEST_F(FlagTableTest, ArgumentsThatAreNoFlagsAreRefusedWhereNoneAreTaken) {
  EXPECT_EQ(std::string(table_.Parse({"run.txtpb"}).status().message()),
            "\"run.txtpb\" is no flag; a configuration is --config=run.txtpb");
  FlagTable plain("wideberth replay", "", "");
  EXPECT_EQ(std::string(plain.Parse({"run"}).status().message()), "\"run\" is no flag");
}

TEST_F(FlagTableTest, TakesOneFileAtMost) {
  std::string file;
  EXPECT_TRUE(*table_.ParseWithFile({"--chat"}, &file));
  EXPECT_EQ(file, "");
  EXPECT_TRUE(*table_.ParseWithFile({"lines.jsonl", "--chat"}, &file));
  EXPECT_EQ(file, "lines.jsonl");
  EXPECT_EQ(std::string(table_.ParseWithFile({"a", "b"}, &file).status().message()),
            "\"b\": one file at most, or standard input");
}

TEST_F(FlagTableTest, ARequiredFlagMustHaveAValue) {
  std::string folder;
  table_.AddRequired("run", &folder, "folder of the run");
  for (const std::vector<std::string>& given :
       {std::vector<std::string>{}, std::vector<std::string>{"--run="}}) {
    EXPECT_EQ(Error(given), "--run is not given (see wideberth generate --help)");
  }
  EXPECT_EQ(Error({"--run=r"}), "");
}

TEST(NearestNameTest, IsEmptyWhereNothingIsNear) {
  EXPECT_EQ(NearestName("generat", {"run", "generate", "logprobs"}), "generate");
  EXPECT_EQ(NearestName("xyz", {"run", "generate"}), "");
}

}  // namespace
}  // namespace wideberth::launch
