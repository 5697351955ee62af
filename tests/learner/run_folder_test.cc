// SPDX-License-Identifier: Apache-2.0
// One run, one folder: a second run is refused, and files are whole or absent.
#include "learner/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "base/text_proto.h"
#include "tests/testing/paths.h"

namespace wideberth::learner {
namespace {

using ::testing::HasSubstr;

class RunFolderTest : public ::testing::Test {
 protected:
  std::string Read(const std::string& path) {
    auto text = ReadFile(path);
    return text.ok() ? *text : std::string(text.status().message());
  }
  wideberth::testing::TempDir dir_;
};

TEST_F(RunFolderTest, WritesTheResolvedConfiguration) {
  proto::RunConfig config;
  config.set_name("first");
  config.mutable_learner()->set_group_size(6);
  auto folder = RunFolder::Claim(dir_.Join("a/b"), config);
  ASSERT_TRUE(folder.ok()) << folder.status();
  proto::RunConfig read;
  ASSERT_TRUE(MergeTextProtoFile(dir_.Join("a/b/config.txtpb"), &read).ok());
  EXPECT_EQ(read.SerializeAsString(), config.SerializeAsString());
}

TEST_F(RunFolderTest, ASecondRunInTheSameFolderIsRefusedAndChangesNothing) {
  const std::string path = dir_.Join("run");
  proto::RunConfig config;
  config.set_name("first");
  {
    auto folder = RunFolder::Claim(path, config);
    ASSERT_TRUE(folder.ok());
    ASSERT_TRUE(folder->AppendMetrics("{\"step\":0}").ok());
  }
  proto::RunConfig second;
  second.set_name("second");
  const auto again = RunFolder::Claim(path, second);
  EXPECT_EQ(again.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(again.status().message()),
              ::testing::AllOf(HasSubstr(path), HasSubstr("holds a run already")));
  EXPECT_EQ(RunFolder::CheckFree(path).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Read(path + "/config.txtpb"), HasSubstr("first"));
  EXPECT_EQ(Read(path + "/metrics.jsonl"), "{\"step\":0}\n");
}

TEST_F(RunFolderTest, AFolderHeldByARunningLearnerIsRefused) {
  const std::string path = dir_.Join("run");
  std::filesystem::create_directories(path + "/logs");  // The launcher's logs may be there before.
  ASSERT_TRUE(RunFolder::CheckFree(path).ok());
  auto lock = FileLock::Acquire(path + "/lock");
  ASSERT_TRUE(lock.ok());
  const auto folder = RunFolder::Claim(path, {});
  EXPECT_EQ(folder.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(folder.status().message()), HasSubstr("is in use"));
  EXPECT_FALSE(std::filesystem::exists(path + "/config.txtpb"));
}

TEST_F(RunFolderTest, AnAbandonedClaimLeavesTheFolderFreeAndTheLogs) {
  const std::string path = dir_.Join("run");
  std::filesystem::create_directories(path + "/logs");
  RunFolder::Claim(path, {})->Abandon();
  EXPECT_TRUE(std::filesystem::exists(path + "/logs"));
  EXPECT_TRUE(RunFolder::CheckFree(path).ok());
  EXPECT_TRUE(RunFolder::Claim(path, {}).ok());
  RunFolder::Claim(dir_.Join("other"), {})->Abandon();
  EXPECT_FALSE(std::filesystem::exists(dir_.Join("other")));
}

TEST_F(RunFolderTest, AFileInPlaceOfTheFolderIsOneSentence) {
  std::ofstream(dir_.Join("file")) << "x";
  EXPECT_THAT(std::string(RunFolder::Claim(dir_.Join("file"), {}).status().message()),
              HasSubstr("is a file, run_dir must be a folder"));
}

TEST_F(RunFolderTest, AFullDiskLeavesNoPartOfALine) {
  const std::string path = dir_.Join("run");
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    auto folder = RunFolder::Claim(path, {});
    if (!folder.ok() || !folder->AppendMetrics("{\"step\":0}").ok()) ::_exit(1);
    const rlimit limit = {20, 20};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const absl::Status status = folder->AppendMetrics("{\"step\":1,\"loss\":2}");
    if (status.code() != absl::StatusCode::kResourceExhausted) ::_exit(2);
    if (std::string(status.message()).find("metrics.jsonl: cannot write") == std::string::npos)
      ::_exit(3);
    ::_exit(folder->Write("summary.json", std::string(100, 'x')).ok() ? 4 : 0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(Read(path + "/metrics.jsonl"), "{\"step\":0}\n");
  EXPECT_FALSE(std::filesystem::exists(path + "/summary.json"));
  EXPECT_FALSE(std::filesystem::exists(path + "/summary.json.partial"));
}

TEST_F(RunFolderTest, TheDefaultFolderIsNamedAfterRunAndTime) {
  proto::RunConfig config;
  config.set_name("quick");
  EXPECT_EQ(DefaultRunDir(config, absl::UnixEpoch()), "runs/quick-19700101-000000");
}

}  // namespace
}  // namespace wideberth::learner
