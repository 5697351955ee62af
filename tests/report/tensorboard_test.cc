// SPDX-License-Identifier: Apache-2.0
#include "report/tensorboard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/testing/paths.h"

namespace wideberth::report {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

const absl::Time kNow = absl::UnixEpoch() + absl::Seconds(1700000000.25);

// Vectors of RFC 3720, appendix B.4, and the usual check value.
TEST(Crc32cTest, EqualsTheStandardsVectors) {
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string rising, falling;
  for (int i = 0; i < 32; ++i) {
    rising.push_back(static_cast<char>(i));
    falling.push_back(static_cast<char>(31 - i));
  }
  EXPECT_EQ(Crc32c(rising), 0x46dd794eu);
  EXPECT_EQ(Crc32c(falling), 0x113fdb5cu);
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c(""), 0u);
}

// Made with tensorboard's own RecordWriter.
TEST(TfRecordTest, EqualsTheFrameOfTensorboard) {
  std::string hex;
  for (const char byte : TfRecord("hello"))
    absl::StrAppend(&hex, absl::Hex(static_cast<unsigned char>(byte), absl::kZeroPad2));
  EXPECT_EQ(hex, "0500000000000000eab2043e68656c6c6fbb1f1c19");
}

TEST(ScalarsOfTest, TakesEveryFiniteNumberByItsPath) {
  EXPECT_THAT(ScalarsOf(R"({"step": 3, "reward": 0.5, "t_mean": null, "who": "x", "done": true,
                            "seconds": {"total": 2, "wait": 1.5}, "clip_ratio/low_mean": 0})"),
              ElementsAre(Pair("reward", 0.5), Pair("seconds/total", 2.0),
                          Pair("seconds/wait", 1.5), Pair("clip_ratio/low_mean", 0.0)));
  EXPECT_TRUE(ScalarsOf("{\"step\": 3").empty());
  EXPECT_TRUE(ScalarsOf("[1, 2]").empty());
}

json ReadWithTensorboard(const std::string& folder) {
  const char* const python = std::getenv("WIDEBERTH_PYTHON");
  const std::string command =
      absl::StrCat("'", python, "' tests/report/read_events.py '", folder, "' 2>/dev/null");
  FILE* const pipe = ::popen(command.c_str(), "r");
  std::string out;
  std::array<char, 4096> part;
  while (const size_t n = std::fread(part.data(), 1, part.size(), pipe)) out.append(part.data(), n);
  EXPECT_EQ(::pclose(pipe), 0) << command;
  return json::parse(out, nullptr, /*allow_exceptions=*/false);
}

bool PythonHasTensorboard() {
  const char* const python = std::getenv("WIDEBERTH_PYTHON");
  return python != nullptr &&
         std::system(absl::StrCat("'", python, "' -c 'import tensorboard' 2>/dev/null").c_str()) ==
             0;
}

TEST(TensorBoardTest, TheTensorboardPackageReadsEveryTagStepAndValue) {
  if (!PythonHasTensorboard())
    GTEST_SKIP() << "WIDEBERTH_PYTHON does not name a Python with tensorboard";
  const testing::TempDir dir;
  const std::string folder = dir.Join("tensorboard");
  const std::vector<std::string> tags = {"loss", "clip_ratio/low_mean", "rewards/safety/mean"};
  {
    TensorBoardWriter writer(folder, kNow);
    for (int64_t step = 1; step <= 200; ++step) {
      std::vector<std::pair<std::string, double>> scalars;
      for (size_t i = 0; i < tags.size(); ++i)
        scalars.emplace_back(tags[i], 1.0 / static_cast<double>(step) - static_cast<double>(i));
      writer.Add(step, scalars, kNow + absl::Seconds(step));
    }
  }
  const json read = ReadWithTensorboard(folder);
  ASSERT_TRUE(read.is_object());
  EXPECT_EQ(read["files"], 1);
  EXPECT_EQ(read["events"], 201);
  ASSERT_EQ(read["tags"].size(), tags.size());
  for (size_t i = 0; i < tags.size(); ++i) {
    const json points = read["tags"].value(tags[i], json::array());
    ASSERT_EQ(points.size(), 200u) << tags[i];
    for (int64_t step = 1; step <= 200; ++step) {
      const json& point = points[step - 1];
      EXPECT_EQ(point[0], step);
      EXPECT_EQ(point[1], absl::ToDoubleSeconds(kNow - absl::UnixEpoch()) + step);
      const double value = 1.0 / static_cast<double>(step) - static_cast<double>(i);
      EXPECT_EQ(point[2].get<float>(), static_cast<float>(value));
    }
  }
}

TEST(TensorBoardTest, ARestartAddsAFileAndTakesBackWhatIsDoneAgain) {
  if (!PythonHasTensorboard())
    GTEST_SKIP() << "WIDEBERTH_PYTHON does not name a Python with tensorboard";
  const testing::TempDir dir;
  {
    TensorBoardWriter writer(dir.path(), kNow);
    for (int64_t step = 1; step <= 4; ++step) writer.Add(step, {{"loss", 1.0 * step}}, kNow);
  }
  TensorBoardWriter again(dir.path(), kNow + absl::Seconds(5));
  again.RestartAt(3, kNow);
  again.Add(3, {{"loss", 30}}, kNow);
  again.Add(4, {{"loss", 40}}, kNow);
  const json read = ReadWithTensorboard(dir.path());
  ASSERT_TRUE(read.is_object());
  EXPECT_EQ(read["files"], 2);
  std::vector<std::pair<int64_t, double>> points;
  for (const json& point : read["tags"].value("loss", json::array()))
    points.emplace_back(point[0], point[2]);
  EXPECT_THAT(points, ElementsAre(Pair(1, 1), Pair(2, 2), Pair(3, 30), Pair(4, 40)));
}

TEST(TensorBoardTest, EveryWriterHasAFileOfItsOwn) {
  const testing::TempDir dir;
  const TensorBoardWriter one(dir.path(), kNow), two(dir.path(), kNow);
  EXPECT_NE(one.path(), two.path());
  EXPECT_THAT(one.path(), HasSubstr("/events.out.tfevents.1700000000."));
}

TEST(TensorBoardTest, AFullDiskIsOneWarningAndLeavesWholeRecords) {
  const testing::TempDir dir;
  TensorBoardWriter writer(dir.path(), kNow);
  // More than the captured words, which the limit below counts as well.
  writer.Add(1, {{std::string(10000, 'x'), 1}}, kNow);
  const std::string before = ReadFile(writer.path()).value();
  // A limit on the size of files stands for the disk: the next record fits half.
  struct rlimit old;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  struct rlimit tight = old;
  tight.rlim_cur = before.size() + 10;
  ::signal(SIGXFSZ, SIG_IGN);
  ::testing::internal::CaptureStderr();
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  writer.Add(2, {{"loss", 2}}, kNow);
  writer.Add(3, {{"loss", 3}}, kNow);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(ReadFile(writer.path()).value(), before);
  const std::string sentence = "the run goes on, its TensorBoard events may be incomplete";
  ASSERT_THAT(said, HasSubstr(sentence));
  EXPECT_EQ(said.find(sentence), said.rfind(sentence)) << said;
  // There is room again.
  writer.Add(4, {{"loss", 4}}, kNow);
  EXPECT_GT(ReadFile(writer.path()).value().size(), before.size());
}

TEST(TensorBoardTest, AFolderThatCannotBeMadeIsNoError) {
  const testing::TempDir dir;
  ASSERT_TRUE(WriteFileAtomically(dir.Join("taken"), "a file").ok());
  ::testing::internal::CaptureStderr();
  TensorBoardWriter writer(dir.Join("taken"), kNow);
  writer.Add(1, {{"loss", 1}}, kNow);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("without TensorBoard events"));
}

}  // namespace
}  // namespace wideberth::report
