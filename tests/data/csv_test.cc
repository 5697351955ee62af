// SPDX-License-Identifier: Apache-2.0
#include "data/csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace wideberth::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Rows = std::vector<std::vector<std::string>>;

absl::StatusOr<Rows> ReadAll(absl::string_view text) {
  CsvReader reader(text);
  Rows rows;
  std::vector<std::string> row;
  while (true) {
    const absl::StatusOr<bool> more = reader.Next(&row);
    if (!more.ok()) return more.status();
    if (!*more) return rows;
    rows.push_back(row);
  }
}

TEST(CsvTest, ReadsQuotesCommasAndLinesWithinFields) {
  const auto rows = ReadAll("a,b\r\n\"x, y\",\"says \"\"hi\"\"\"\r\n\"two\nlines\",\"\"\r\n");
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ(*rows, (Rows{{"a", "b"}, {"x, y", "says \"hi\""}, {"two\nlines", ""}}));
}

TEST(CsvTest, TakesMereLineFeedsAnUnfinishedLastLineAndQuotesInTheMiddle) {
  const auto rows = ReadAll("a,b\n\n5\" pipe,\nlast,");
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ(*rows, (Rows{{"a", "b"}, {"5\" pipe", ""}, {"last", ""}}));
}

TEST(CsvTest, KeepsCarriageReturnsThatEndNoLine) {
  const auto rows = ReadAll("\"a\r\nb\",c\rd\r\n");
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ(*rows, (Rows{{"a\r\nb", "c\rd"}}));
}

TEST(CsvTest, SaysOnWhichLineARowBegins) {
  CsvReader reader("h\n\"1\n2\n3\"\nx\n");
  std::vector<std::string> row;
  for (int64_t line : {1, 2, 5}) {
    ASSERT_TRUE(reader.Next(&row).value());
    EXPECT_EQ(reader.line(), line);
  }
  EXPECT_FALSE(reader.Next(&row).value());
}

TEST(CsvTest, NamesLineAndFieldOfAQuoteWithoutItsEnd) {
  const auto rows = ReadAll("a,b\nc,\"never\nclosed\n");
  ASSERT_FALSE(rows.ok());
  EXPECT_THAT(std::string(rows.status().message()),
              HasSubstr("line 2, field 2 begins with a quote"));
}

TEST(CsvTest, NamesLineAndFieldOfTextAfterAClosingQuote) {
  const auto rows = ReadAll("a,b\nc,\"two\nlines\"x\n");
  ASSERT_FALSE(rows.ok());
  EXPECT_THAT(std::string(rows.status().message()),
              HasSubstr("line 3, field 2 goes on with \"x\""));
}

}  // namespace
}  // namespace wideberth::data
