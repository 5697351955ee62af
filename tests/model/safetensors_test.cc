// SPDX-License-Identifier: Apache-2.0
#include "model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/testing/paths.h"

namespace wideberth::model {
namespace {

using ::testing::HasSubstr;

std::string FileWithHeader(absl::string_view header, absl::string_view data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(header.size() >> (8 * i) & 0xff));
  return absl::StrCat(bytes, header, data);
}

class SafetensorsTest : public ::testing::Test {
 protected:
  absl::Status OpenBytes(absl::string_view bytes) {
    const std::string path = folder_.Join("model.safetensors");
    EXPECT_TRUE(WriteFileAtomically(path, bytes).ok());
    return WeightFiles::OpenFolder(folder_.path()).status();
  }
  std::string Message(absl::string_view bytes) {
    const absl::Status status = OpenBytes(bytes);
    EXPECT_FALSE(status.ok());
    return std::string(status.message());
  }
  wideberth::testing::TempDir folder_;
};

TEST_F(SafetensorsTest, WrittenTensorsAreReadBack) {
  const float values[] = {1, 2, 3, 4, 5, 6};
  const std::string bytes = SerializeSafetensors(
      {{"a", "F32", {2, 3}, absl::string_view(reinterpret_cast<const char*>(values), 24)},
       {"b", "BF16", {2}, "wxyz"}},
      {{"format", "pt"}});
  ASSERT_TRUE(OpenBytes(bytes).ok());
  const auto files = WeightFiles::OpenFolder(folder_.path());
  ASSERT_TRUE(files.ok());
  const auto a = (*files)->Find("a", {2, 3});
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_EQ(reinterpret_cast<const float*>(a->data)[4], 5);
  const auto b = (*files)->Find("b", {2});
  ASSERT_TRUE(b.ok());
  EXPECT_EQ(absl::string_view(b->data, 4), "wxyz");
  EXPECT_EQ(b->dtype, "BF16");
}

TEST_F(SafetensorsTest, FilesOfThePythonLibraryAreRead) {
  if (wideberth::testing::SharedDir().empty()) GTEST_SKIP() << "the shared data is not at hand";
  const std::string folder = wideberth::testing::SharedDir() + "/data/fixture-safetensors/";
  const auto test = WeightFiles::OpenFile(folder + "test.safetensors");
  ASSERT_TRUE(test.ok()) << test.status();
  EXPECT_EQ((*test)->tensors().size(), 20u);
  EXPECT_TRUE((*test)->Find("key_19", {10, 10}).ok());
  const auto gptq = WeightFiles::OpenFile(folder + "gptq_small.safetensors");
  ASSERT_TRUE(gptq.ok()) << gptq.status();
  EXPECT_EQ((*gptq)->tensors().size(), 5u);
}

TEST_F(SafetensorsTest, DamagedFilesAreOneSentenceThatNamesFileAndTensor) {
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  EXPECT_TRUE(OpenBytes(FileWithHeader(good, "01234567")).ok());
  EXPECT_THAT(Message("short"), HasSubstr("model.safetensors: has 5 bytes"));
  EXPECT_THAT(Message(FileWithHeader(good, "0123")),
              HasSubstr("tensor \"a\": data_offsets [0, 8] do not fit the file's 4 bytes"));
  EXPECT_THAT(Message(FileWithHeader(good, "0123456789")),
              HasSubstr("tensors end at byte 8 of the data, but the file has 10"));
  EXPECT_THAT(Message(FileWithHeader("{nonsense", "")),
              HasSubstr("the header is not a JSON object"));
  EXPECT_THAT(Message(std::string(8, '\xff') + "{}"),
              HasSubstr("does not fit the file's 10 bytes"));
  EXPECT_THAT(Message(FileWithHeader(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})",
                                     "01234567")),
              HasSubstr("shape [3] of F32"));
  EXPECT_THAT(Message(FileWithHeader(R"({"a":{"dtype":"X9","shape":[2],"data_offsets":[0,8]}})",
                                     "01234567")),
              HasSubstr("dtype \"X9\" is unknown"));
  EXPECT_THAT(Message(FileWithHeader(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                                     "01234567")),
              HasSubstr("starts at byte 4, expected 0"));
  EXPECT_THAT(Message(FileWithHeader(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,8]}})",
                                     "01234567")),
              HasSubstr("shape has -1, expected whole numbers from 0"));
}

TEST_F(SafetensorsTest, MissingFolderAndMissingTensorAreNamed) {
  EXPECT_THAT(std::string(WeightFiles::OpenFolder(folder_.path()).status().message()),
              HasSubstr("holds neither model.safetensors nor"));
  ASSERT_TRUE(OpenBytes(SerializeSafetensors({{"a", "U8", {2}, "xy"}}, {})).ok());
  const auto files = WeightFiles::OpenFolder(folder_.path());
  EXPECT_THAT(std::string((*files)->Find("b", {4}).status().message()),
              HasSubstr("tensor \"b\" is missing, expected with shape [4]"));
  EXPECT_THAT(std::string((*files)->Find("a", {3}).status().message()),
              HasSubstr("tensor \"a\" has shape [2], expected [3]"));
}

TEST_F(SafetensorsTest, ShardsMustHoldWhatTheIndexSays) {
  ASSERT_TRUE(WriteFileAtomically(folder_.Join("s1.safetensors"),
                                  SerializeSafetensors({{"a", "U8", {1}, "x"}}, {}))
                  .ok());
  ASSERT_TRUE(WriteFileAtomically(folder_.Join("s2.safetensors"),
                                  SerializeSafetensors({{"b", "U8", {1}, "y"}}, {}))
                  .ok());
  const std::string index = folder_.Join("model.safetensors.index.json");
  ASSERT_TRUE(
      WriteFileAtomically(index, R"({"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}})")
          .ok());
  const auto files = WeightFiles::OpenFolder(folder_.path());
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ((*files)->tensors().size(), 2u);
  ASSERT_TRUE(
      WriteFileAtomically(index, R"({"weight_map":{"a":"s2.safetensors","b":"s2.safetensors"}})")
          .ok());
  EXPECT_THAT(std::string(WeightFiles::OpenFolder(folder_.path()).status().message()),
              HasSubstr("where the index says it is"));
  ASSERT_TRUE(WriteFileAtomically(index, R"({"weight_map":{"a":"gone.safetensors"}})").ok());
  EXPECT_THAT(std::string(WeightFiles::OpenFolder(folder_.path()).status().message()),
              HasSubstr("gone.safetensors: cannot open"));
}

}  // namespace
}  // namespace wideberth::model
