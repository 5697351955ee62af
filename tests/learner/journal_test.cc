// SPDX-License-Identifier: Apache-2.0
// The journal keeps what it confirmed: across kill -9, a full disk and a second look.
#include "learner/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/testing/paths.h"

namespace wideberth::learner {
namespace {

using ::testing::HasSubstr;

JournalGroup MakeGroup(uint64_t id, int num_tokens = 5) {
  JournalGroup group;
  group.prompt_id = absl::StrCat("prompt-", id);
  group.member = "actor-0";
  group.accepted_at = absl::UnixEpoch() + absl::Seconds(1000);
  proto::SubmitGroupRequest& request = group.request;
  request.set_group_id(id);
  request.set_lease_id(absl::StrCat("train-", id, "-0"));
  request.set_policy_version(3);
  request.set_adapter_fingerprint("abc");
  request.set_purpose(proto::GroupLease::TRAIN);
  request.set_generate_seconds(1.5);
  request.set_score_seconds(0.25);
  for (int t : {1, 2, 300}) request.add_prompt_token_id(t);
  for (int c = 0; c < 2; ++c) {
    proto::Completion* completion = request.add_completion();
    for (int t = 0; t < num_tokens; ++t) {
      completion->add_token_id(100 * c + t);
      completion->add_logprob(-0.125f * t);
    }
    completion->set_text(absl::StrCat("answer ", c));
    completion->set_finish_reason(c == 0 ? proto::STOP : proto::LENGTH);
    proto::Score* score = completion->add_score();
    score->set_scorer_name("safety");
    score->set_latency_ms(2);
    score->set_cached(false);
    score->set_message("");
    score->set_model_fingerprint("m");
    score->set_template_hash("h");
    score->set_status(c == 0 ? proto::SCORED : proto::TIMED_OUT);
    if (c == 0) score->set_value(0.0);
  }
  return group;
}

class JournalTest : public ::testing::Test {
 protected:
  std::string path() { return dir_.Join("run.db"); }
  std::set<uint64_t> StoredIds() {
    auto journal = Journal::Open(path());
    EXPECT_TRUE(journal.ok()) << journal.status();
    auto groups = (*journal)->ReadGroups();
    EXPECT_TRUE(groups.ok()) << groups.status();
    std::set<uint64_t> ids;
    for (const JournalGroup& group : *groups) {
      EXPECT_EQ(group.request.completion_size(), 2) << "a group was stored by half";
      ids.insert(group.request.group_id());
    }
    return ids;
  }
  wideberth::testing::TempDir dir_;
};

TEST_F(JournalTest, WhatGoesInComesOut) {
  const JournalGroup stored = MakeGroup(7);
  {
    auto journal = Journal::Create(path(), "run-1");
    ASSERT_TRUE(journal.ok()) << journal.status();
    ASSERT_TRUE((*journal)->AppendGroup(stored).ok());
    JournalGroup evaluation = MakeGroup(kEvaluationGroup | 1);
    evaluation.phase = Phase::kEvaluateAfter;
    ASSERT_TRUE((*journal)->AppendGroup(evaluation).ok());
    ASSERT_TRUE((*journal)
                    ->AppendStep({0, 1, "fp", "{}", {7}}, {{7, 1, 0.5, -1.25}, {7, 0, {}, 0}},
                                 absl::UnixEpoch())
                    .ok());
  }
  auto journal = Journal::Open(path());
  ASSERT_TRUE(journal.ok()) << journal.status();
  auto groups = (*journal)->ReadGroups();
  ASSERT_EQ(groups->size(), 2u);
  EXPECT_EQ((*groups)[0].request.SerializeAsString(), stored.request.SerializeAsString());
  EXPECT_EQ((*groups)[0].prompt_id, "prompt-7");
  EXPECT_EQ((*groups)[0].member, "actor-0");
  EXPECT_EQ((*groups)[0].step, 0);
  const auto of_step = (*journal)->ReadGroupsOfStep(0);
  ASSERT_EQ(of_step->size(), 1u);
  EXPECT_EQ((*of_step)[0].request.SerializeAsString(), stored.request.SerializeAsString());
  EXPECT_TRUE((*journal)->ReadGroupsOfStep(1)->empty());
  const auto steps = (*journal)->ReadSteps();
  ASSERT_EQ(steps->size(), 1u);
  EXPECT_EQ((*steps)[0].fingerprint, "fp");
  EXPECT_EQ((*steps)[0].group_ids, (std::vector<uint64_t>{7}));
  const auto trained = (*journal)->ReadTrained(0);
  ASSERT_EQ(trained->size(), 2u);
  EXPECT_FALSE((*trained)[0].reward.has_value()) << "an unscored completion has no reward";
  EXPECT_EQ((*trained)[1].reward, 0.5);
  EXPECT_EQ((*trained)[1].advantage, -1.25);
  EXPECT_EQ((*journal)->Resume().value(), 1);
  EXPECT_EQ((*journal)->Resume().value(), 2);
  EXPECT_EQ((*groups)[0].accepted_at, stored.accepted_at);
  EXPECT_EQ((*groups)[1].phase, Phase::kEvaluateAfter);
  EXPECT_EQ((*groups)[1].request.group_id(), kEvaluationGroup | 1);
  EXPECT_EQ((*groups)[1].step, -1);
  EXPECT_EQ((*journal)->NumSteps().value(), 1);
}

TEST_F(JournalTest, AMissingScoreIsNoZero) {
  auto journal = Journal::Create(path(), "run-1");
  ASSERT_TRUE((*journal)->AppendGroup(MakeGroup(1)).ok());
  const auto groups = (*journal)->ReadGroups();
  const proto::SubmitGroupRequest& request = (*groups)[0].request;
  EXPECT_TRUE(request.completion(0).score(0).has_value());
  EXPECT_EQ(request.completion(0).score(0).value(), 0.0);
  EXPECT_FALSE(request.completion(1).score(0).has_value());
  EXPECT_EQ(request.completion(1).score(0).status(), proto::TIMED_OUT);
}

TEST_F(JournalTest, TheSameGroupTwiceIsRefusedAndTheJournalGoesOn) {
  auto journal = Journal::Create(path(), "run-1");
  ASSERT_TRUE((*journal)->AppendGroup(MakeGroup(1)).ok());
  EXPECT_EQ((*journal)->AppendGroup(MakeGroup(1)).code(), absl::StatusCode::kAlreadyExists);
  JournalGroup retry = MakeGroup(1);
  retry.attempt = 1;
  EXPECT_TRUE((*journal)->AppendGroup(retry).ok());
  EXPECT_TRUE((*journal)->AppendGroup(MakeGroup(2)).ok());
  EXPECT_EQ((*journal)->ReadGroups()->size(), 3u);
}

TEST_F(JournalTest, NoExistingJournalIsOverwrittenAndNoForeignFileIsTaken) {
  { ASSERT_TRUE(Journal::Create(path(), "run-1").ok()); }
  EXPECT_EQ(Journal::Create(path(), "run-2").status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_FALSE(Journal::Open(dir_.Join("absent.db")).ok());
}

TEST_F(JournalTest, AllThatWasConfirmedIsThereAfterKill9) {
  int pipe_fds[2];
  ASSERT_EQ(::pipe(pipe_fds), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    auto journal = Journal::Create(path(), "run-1");
    if (!journal.ok()) ::_exit(1);
    for (uint64_t id = 0;; ++id) {
      if (!(*journal)->AppendGroup(MakeGroup(id, 200)).ok()) ::_exit(2);
      if (::write(pipe_fds[1], &id, sizeof(id)) != sizeof(id)) ::_exit(3);
    }
  }
  ::close(pipe_fds[1]);
  uint64_t confirmed = 0;
  while (confirmed < 50 &&
         ::read(pipe_fds[0], &confirmed, sizeof(confirmed)) == sizeof(confirmed)) {
  }
  ::kill(child, SIGKILL);
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  while (::read(pipe_fds[0], &confirmed, sizeof(confirmed)) == sizeof(confirmed)) {
  }
  ::close(pipe_fds[0]);
  ASSERT_GE(confirmed, 50u);
  const std::set<uint64_t> ids = StoredIds();
  for (uint64_t id = 0; id <= confirmed; ++id)
    EXPECT_TRUE(ids.contains(id)) << "confirmed group " << id << " is lost";
  EXPECT_LE(ids.size(), confirmed + 2);
}

// A file-size limit stands for a full disk: it needs no root and fails in the middle of a write
// just so.
TEST_F(JournalTest, OnAFullDiskAGroupIsNotConfirmedAndNothingIsHalfWritten) {
  int pipe_fds[2];
  ASSERT_EQ(::pipe(pipe_fds), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    auto journal = Journal::Create(path(), "run-1");
    const rlimit limit = {600 * 1024, 600 * 1024};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    for (uint64_t id = 0; id < 10000; ++id) {
      const absl::Status status = (*journal)->AppendGroup(MakeGroup(id, 1000));
      if (!status.ok()) {
        const bool stays_refused = (*journal)->AppendGroup(MakeGroup(id + 1)) == status;
        const bool says_so =
            std::string(status.message())
                    .find(absl::StrCat("group ", id, " could not be stored")) == 0 &&
            std::string(status.message()).find("run.db") != std::string::npos;
        ::_exit(stays_refused && says_so ? 0 : 4);
      }
      if (::write(pipe_fds[1], &id, sizeof(id)) != sizeof(id)) ::_exit(3);
    }
    ::_exit(5);
  }
  ::close(pipe_fds[1]);
  std::set<uint64_t> confirmed;
  uint64_t id = 0;
  while (::read(pipe_fds[0], &id, sizeof(id)) == sizeof(id)) confirmed.insert(id);
  ::close(pipe_fds[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_GE(confirmed.size(), 5u);
  EXPECT_EQ(StoredIds(), confirmed);
}

// Ids of 1,000,000 + 1,000 `id` and up: bytes that nothing else in the file has.
JournalGroup MakeMarkedGroup(uint64_t id) {
  JournalGroup group = MakeGroup(id, 0);
  group.request.clear_prompt_token_id();
  int32_t token = static_cast<int32_t>(1'000'000 + 1'000 * (id & 0xffffff));
  for (int t = 0; t < 20; ++t) group.request.add_prompt_token_id(token++);
  for (proto::Completion& completion : *group.request.mutable_completion()) {
    for (int t = 0; t < 20 + 200 * static_cast<int>(id % 3); ++t) {
      completion.add_token_id(token++);
      completion.add_logprob(-0.5f);
    }
  }
  return group;
}

class ErasedJournalTest : public JournalTest {
 protected:
  // Whether any three token ids in a row of the group are in the file or its log.
  bool IsInFiles(const JournalGroup& group) {
    const std::string bytes =
        ReadFile(path()).value_or("") + ReadFile(path() + "-wal").value_or("");
    const auto has = [&](const auto& ids) {
      for (int i = 0; i + 3 <= ids.size(); i += 3) {
        const std::string part(reinterpret_cast<const char*>(ids.data() + i), 12);
        if (bytes.find(part) != std::string::npos) return true;
      }
      return false;
    };
    bool found = has(group.request.prompt_token_id());
    for (const proto::Completion& completion : group.request.completion())
      found |= has(completion.token_id());
    return found;
  }
};

TEST_F(ErasedJournalTest, TokensThatNobodyNeedsAreInNoFileAndTheOthersAreWhole) {
  auto journal = Journal::Create(path(), "run-1");
  // Far from the order of their keys, so that rows move between pages.
  std::vector<JournalGroup> groups;
  for (uint64_t i = 0; i < 400; ++i) groups.push_back(MakeMarkedGroup(i * 147 % 400));
  for (JournalGroup& group : groups) {
    const uint64_t id = group.request.group_id();
    if (id % 50 == 7) group.disposition = Disposition::kRetry;
    ASSERT_TRUE((*journal)->AppendGroup(group).ok());
  }
  JournalGroup evaluation = MakeMarkedGroup(kEvaluationGroup | 500);
  evaluation.phase = Phase::kEvaluateBefore;
  ASSERT_TRUE((*journal)->AppendGroup(evaluation).ok());
  ASSERT_TRUE(
      (*journal)->AppendStep({1, 1, "a", "{}", {0, 1, 2, 3, 4}}, {}, absl::UnixEpoch()).ok());
  ASSERT_TRUE((*journal)->AppendStep({2, 2, "b", "{}", {5, 6}}, {}, absl::UnixEpoch()).ok());
  ASSERT_TRUE((*journal)->ChangeDisposition(Phase::kTrain, 8, Disposition::kDrop).ok());
  ASSERT_TRUE((*journal)->EraseTokens(1).ok());
  const std::set<uint64_t> erased = {0, 1, 2, 3, 4, 8};
  for (const JournalGroup& group : groups) {
    const uint64_t id = group.request.group_id();
    EXPECT_EQ(IsInFiles(group), !erased.contains(id) && id % 50 != 7) << id;
  }
  EXPECT_TRUE(IsInFiles(evaluation));
  ASSERT_TRUE((*journal)->EraseTokens(1, Phase::kEvaluateBefore, {kEvaluationGroup | 500}).ok());
  EXPECT_FALSE(IsInFiles(evaluation));

  auto stored = (*journal)->ReadGroupsOfStep(1);
  ASSERT_EQ(stored->size(), 5u);
  const JournalGroup& gone = (*stored)[2];
  EXPECT_TRUE(gone.erased);
  EXPECT_EQ(gone.request.completion(1).token_id_size(), 420) << "how many there were is known";
  EXPECT_EQ(gone.request.completion(1).token_id(419), 0);
  EXPECT_EQ(gone.request.completion(1).logprob_size(), 0);
  EXPECT_EQ(gone.request.completion(0).score(0).value(), 0.0);
  stored = (*journal)->ReadGroupsOfStep(2);
  EXPECT_FALSE((*stored)[0].erased);
  EXPECT_EQ((*stored)[0].request.SerializeAsString(),
            MakeMarkedGroup(5).request.SerializeAsString());
}

TEST_F(ErasedJournalTest, AtTheEndNothingIsLeftAndWhatWasNotUsedIsAnsweredAgain) {
  auto journal = Journal::Create(path(), "run-1");
  for (uint64_t id = 0; id < 30; ++id)
    ASSERT_TRUE((*journal)->AppendGroup(MakeMarkedGroup(id)).ok());
  JournalGroup evaluation = MakeMarkedGroup(kEvaluationGroup | 500);
  evaluation.phase = Phase::kEvaluateBefore;
  ASSERT_TRUE((*journal)->AppendGroup(evaluation).ok());
  ASSERT_TRUE((*journal)->EraseTokens(0, Phase::kEvaluateBefore, {kEvaluationGroup | 500}).ok());
  ASSERT_TRUE((*journal)->AppendStep({1, 1, "a", "{}", {0, 1}}, {}, absl::UnixEpoch()).ok());
  ASSERT_TRUE((*journal)->EraseAllTokens().ok());
  EXPECT_EQ((*journal)->AppendGroup(MakeMarkedGroup(31)).code(), absl::StatusCode::kUnavailable)
      << "a member that is late";
  for (uint64_t id = 0; id < 30; ++id) EXPECT_FALSE(IsInFiles(MakeMarkedGroup(id))) << id;
  const auto stored = (*journal)->ReadGroups();
  ASSERT_EQ(stored->size(), 31u);
  for (const JournalGroup& group : *stored) {
    const bool used = group.step == 1 || group.phase == Phase::kEvaluateBefore;
    EXPECT_EQ(group.disposition, used ? Disposition::kUse : Disposition::kRetry);
    EXPECT_TRUE(group.erased);
  }
}

}  // namespace
}  // namespace wideberth::learner
