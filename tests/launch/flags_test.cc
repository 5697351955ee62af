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
    return std::string(table_.Parse(arguments, &help_).status().message());
  }

  std::string model_;
  std::vector<std::string> configs_;
  bool chat_ = false;
  int32_t max_new_tokens_ = 7;
  double temperature_ = 1;
  bool help_ = false;
  FlagTable table_;
};

TEST_F(FlagTableTest, TakesBothSpellingsAndKeepsTheRestInOrder) {
  const auto rest = table_.Parse({"a", "--model=dir", "--config", "x", "-config=y", "--chat",
                                  "--temperature=0.5", "-", "--", "--model=z"},
                                 &help_);
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_THAT(*rest, ElementsAre("a", "-", "--model=z"));
  EXPECT_EQ(model_, "dir");
  EXPECT_THAT(configs_, ElementsAre("x", "y"));
  EXPECT_TRUE(chat_);
  EXPECT_EQ(temperature_, 0.5);
  EXPECT_EQ(max_new_tokens_, 7);
  EXPECT_FALSE(help_);
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
  ASSERT_TRUE(table_.Parse({"--nonsense", "--help"}, &help_).ok());
  EXPECT_TRUE(help_);
  for (const char* flag :
       {"--model=TEXT", "--config=TEXT", "--chat ", "--max_new_tokens=N", "--temperature=X"}) {
    EXPECT_THAT(table_.Help(), HasSubstr(flag));
  }
  EXPECT_THAT(table_.Help(), HasSubstr("Usage: wideberth generate --model=DIR [FILE]\n"));
}

TEST(NearestNameTest, IsEmptyWhereNothingIsNear) {
  EXPECT_EQ(NearestName("generat", {"run", "generate", "logprobs"}), "generate");
  EXPECT_EQ(NearestName("xyz", {"run", "generate"}), "");
}

}  // namespace
}  // namespace wideberth::launch
