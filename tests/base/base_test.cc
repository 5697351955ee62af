// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <limits>
#include <thread>

#include "base/bounded_queue.h"
#include "base/device.h"
#include "base/excerpt.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/redact.h"
#include "base/text_proto.h"
#include "proto/config.pb.h"
#include "tests/testing/paths.h"

namespace wideberth {
namespace {

using ::testing::HasSubstr;
using ::wideberth::testing::TempDir;

TEST(TextProto, ATypoIsNamedWithPlaceAndNearestField) {
  proto::RunConfig config;
  const absl::Status status =
      MergeTextProto("name: \"x\"\nlearner {\n  groupsize: 4\n}\n", "configs/a.txtpb", &config);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("configs/a.txtpb:3:"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("no field named \"groupsize\""));
  EXPECT_THAT(std::string(status.message()), HasSubstr("the nearest valid name is \"group_size\""));
  EXPECT_FALSE(config.has_name()) << "a bad file changes nothing";
}

TEST(TextProto, LaterFilesReplaceScalarsAndAppendLists) {
  proto::RunConfig config;
  ASSERT_TRUE(
      MergeTextProto("seed: 1 learner { group_size: 4 max_steps: 7 } prompts { path: \"a\" }",
                     "one", &config)
          .ok());
  ASSERT_TRUE(
      MergeTextProto("learner { group_size: 8 } prompts { path: \"b\" }", "two", &config).ok());
  EXPECT_EQ(config.learner().group_size(), 8);
  EXPECT_EQ(config.learner().max_steps(), 7);
  EXPECT_EQ(config.prompts().path_size(), 2);
  proto::RunConfig again;
  ASSERT_TRUE(MergeTextProto(TextProto(config), "printed", &again).ok());
  EXPECT_EQ(again.SerializeAsString(), config.SerializeAsString());
}

TEST(TextProto, AMissingFileAndAWrongTypeAreOneSentence) {
  proto::RunConfig config;
  EXPECT_THAT(std::string(MergeTextProtoFile("no/such.txtpb", &config).message()),
              HasSubstr("no/such.txtpb: cannot open: No such file"));
  EXPECT_THAT(std::string(MergeTextProto("seed: 1.5", "f", &config).message()),
              HasSubstr("f:1:7:"));
}

TEST(File, AnAtomicWriteIsWholeOrAbsentOnAFullDisk) {
  TempDir folder;
  const std::string path = folder.Join("state");
  ASSERT_TRUE(WriteFileAtomically(path, "old").ok());
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {1000, 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    const absl::Status status = WriteFileAtomically(path, std::string(5000, 'x'));
    _exit(status.ok() ? 1 : 0);
  }
  int code = 0;
  waitpid(child, &code, 0);
  EXPECT_EQ(code, 0) << "the write past the limit was reported as a success";
  EXPECT_EQ(*ReadFile(path), "old");
  EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
}

TEST(File, ALockIsHeldOnce) {
  TempDir folder;
  {
    const auto first = FileLock::Acquire(folder.Join("lock"));
    ASSERT_TRUE(first.ok());
    EXPECT_EQ(FileLock::Acquire(folder.Join("lock")).status().code(),
              absl::StatusCode::kFailedPrecondition);
  }
  EXPECT_TRUE(FileLock::Acquire(folder.Join("lock")).ok());
}

TEST(Hash, PiecesGiveTheFingerprintOfTheWhole) {
  // xxhsum -H2 of the empty file.
  EXPECT_EQ(Fingerprint(""), "99aa06d3014798d86001c324468d497f");
  Fingerprinter pieces;
  pieces.Update("wide");
  pieces.Update("berth");
  EXPECT_EQ(pieces.Hex(), Fingerprint("wideberth"));
}

TEST(BoundedQueue, IsBoundedOrderedAndDrainsAfterClose) {
  BoundedQueue<int> queue(2);
  EXPECT_TRUE(queue.Push(1, absl::ZeroDuration()).ok());
  EXPECT_TRUE(queue.Push(2, absl::ZeroDuration()).ok());
  int three = 3;
  EXPECT_EQ(queue.TryPush(three).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(queue.Push(3, absl::ZeroDuration()).code(), absl::StatusCode::kDeadlineExceeded);
  queue.Close();
  EXPECT_EQ(queue.Push(3, absl::Seconds(1)).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(queue.Pop(absl::ZeroDuration()), 1);
  EXPECT_EQ(queue.Pop(absl::ZeroDuration()), 2);
  EXPECT_EQ(queue.Pop(absl::InfiniteDuration()), std::nullopt);
}

TEST(BoundedQueue, CloseWakesEveryWaiter) {
  BoundedQueue<int> queue(1);
  std::vector<std::thread> waiters;
  for (int i = 0; i < 3; ++i)
    waiters.emplace_back([&] { EXPECT_EQ(queue.Pop(absl::Seconds(60)), std::nullopt); });
  queue.Close();
  for (std::thread& waiter : waiters) waiter.join();
}

TEST(BoundedQueue, EveryItemPassesOnceThroughManyThreads) {
  BoundedQueue<int> queue(4);
  std::atomic<int> sum{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      while (auto item = queue.Pop(absl::Seconds(60))) sum += *item;
    });
  }
  for (int i = 1; i <= 500; ++i) ASSERT_TRUE(queue.Push(i, absl::Seconds(60)).ok());
  queue.Close();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sum, 500 * 501 / 2);
}

TEST(Excerpt, IsOneLineOfWholeCharacters) {
  EXPECT_EQ(Excerpt("  a\n\tb "), "\"a  b\"");
  EXPECT_EQ(Excerpt("abcdef", 4), "\"abcd...\"");
  EXPECT_EQ(Excerpt("abcdef", 4, ExcerptOf::kTail), "\"...cdef\"");
  EXPECT_EQ(Excerpt("ab\xC3\xA9"
                    "f",
                    3),
            "\"ab...\"");
  EXPECT_EQ(Excerpt("ab\xC3\xA9"
                    "f",
                    2, ExcerptOf::kTail),
            "\"...f\"");
  EXPECT_EQ(Excerpt("a\xC3(\xE2\x82"), "\"a?(??\"");
  EXPECT_EQ(Excerpt(""), "\"\"");
}

TEST(Excerpt, IsAHashOnceTextsAreRedacted) {
  RedactExcerpts(true);
  EXPECT_EQ(Excerpt("a secret"), Redacted("a secret"));
  EXPECT_EQ(Excerpt("a long secret", 4, ExcerptOf::kTail), Redacted("a long secret"));
  RedactExcerpts(false);
  EXPECT_EQ(Excerpt("a secret"), "\"a secret\"");
}

TEST(Redacted, HasSizeAndHashOfTheTextAndIsToldFromTexts) {
  const std::string hash = Fingerprint("caf\xC3\xA9").substr(0, 16);
  EXPECT_EQ(Redacted("caf\xC3\xA9"), "[5 bytes, xxh3 " + hash + "]");
  EXPECT_EQ(Redacted("caf\xC3\xA9", "a refusal"), "[5 bytes, xxh3 " + hash + ", a refusal]");
  EXPECT_NE(Redacted("a"), Redacted("b"));
  EXPECT_TRUE(IsRedacted(Redacted("")));
  EXPECT_TRUE(IsRedacted(Redacted("x", "a refusal"), "a refusal"));
  EXPECT_FALSE(IsRedacted(Redacted("x", "a refusal")));
  EXPECT_FALSE(IsRedacted(Redacted("x"), "a refusal"));
  for (const std::string& text : {std::string(), std::string("[]"), "[5 bytes, xxh3 " + hash,
                                  "[ bytes, xxh3 " + hash + "]", "[five bytes, xxh3 " + hash + "]",
                                  "[5 bytes, xxh3 " + hash + " secret]", "x" + Redacted("x")}) {
    EXPECT_FALSE(IsRedacted(text)) << text;
  }
}

TEST(Json, WhatWouldEndTheProcessIsAnError) {
  const auto message = [](absl::string_view text) {
    return std::string(ParseJson(text, "a.json").status().message());
  };
  EXPECT_EQ(message("[1, "), "a.json is not JSON: it goes wrong at byte 5 of 4");
  EXPECT_EQ(message("[1e999]"), "a.json has a number that no double can hold");
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + "\"]]\\\"\"" + std::string(depth, ']');
  };
  EXPECT_EQ(message(nested(501)),
            "a.json has JSON values within each other more than 500 deep at byte 500, expected "
            "fewer");
  const auto parsed = ParseJson(nested(500), "a.json");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->dump(), nested(500));
}

TEST(Json, OnlyWholeNumbersThatFitAreWholeNumbers) {
  const auto whole = [](const char* text) { return WholeNumber(*ParseJson(text, "a.json")); };
  EXPECT_EQ(whole("-3"), -3);
  EXPECT_EQ(whole("9223372036854775807"), std::numeric_limits<int64_t>::max());
  for (const char* other : {"9223372036854775808", "1e300", "4.0", "\"4\"", "null", "true"}) {
    EXPECT_EQ(whole(other), absl::nullopt) << other;
  }
}

TEST(Log, LinesCarryTimeSeverityAndRole) {
  TempDir folder;
  ASSERT_TRUE(OpenLog("actor-3", folder.Join("a.log")).ok());
  SetLogToStderr(false);
  WB_LOG(WARNING) << "lease " << 7 << " is late";
  SetLogToStderr(true);
  const std::string text = *ReadFile(folder.Join("a.log"));
  EXPECT_THAT(text, ::testing::MatchesRegex("[0-9-]+T[0-9:.]+Z W actor-3\\] lease 7 is late\n"));
  EXPECT_FALSE(OpenLog("x", folder.Join("no/such/folder.log")).ok());
}

TEST(DeviceTest, GpusAreCountedFromZeroAndNothingElseIsOne) {
  EXPECT_EQ(GpuOf("cuda"), 0);
  EXPECT_EQ(GpuOf("cuda:2"), 2);
  for (const char* other : {"", "cpu", "cuda:", "cuda:-1", "cuda:+1", "cuda: 1", "cuda:1x", "cudax",
                            "cuda:99999999999"})
    EXPECT_FALSE(GpuOf(other).has_value()) << other;
}

}  // namespace
}  // namespace wideberth
