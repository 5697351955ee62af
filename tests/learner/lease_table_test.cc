// SPDX-License-Identifier: Apache-2.0
// Leases under a clock that moves only when told: every group is counted once, none is lost, none
// is sampled too early.
#include "learner/lease_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"

namespace wideberth::learner {
namespace {

using Outcome = proto::SubmitGroupResponse;

class LeaseTableTest : public ::testing::Test {
 protected:
  LeaseTable Table(int groups_per_step, int max_staleness, uint64_t max_steps = 100) {
    LeaseTable::Options options;
    options.groups_per_step = groups_per_step;
    options.group_size = 4;
    options.max_staleness = max_staleness;
    options.max_steps = max_steps;
    options.lease_timeout = absl::Seconds(100);
    return LeaseTable(options, &clock_, [this](Phase, uint64_t id) -> const proto::Prompt& {
      prompts_[id].set_id(absl::StrCat("prompt-", id & ~kEvaluationGroup));
      return prompts_[id];
    });
  }
  static proto::SubmitGroupRequest Result(const proto::GroupLease& lease) {
    proto::SubmitGroupRequest request;
    request.set_lease_id(lease.lease_id());
    request.set_group_id(lease.group_id());
    request.set_policy_version(lease.policy_version());
    request.set_purpose(lease.purpose());
    return request;
  }
  static Outcome::Outcome Submit(LeaseTable& table, const proto::SubmitGroupRequest& request,
                                 Disposition disposition = Disposition::kUse,
                                 std::string* message = nullptr) {
    std::string text;
    Phase phase;
    int attempt;
    const Outcome::Outcome outcome = table.Begin(request, &text, &phase, &attempt);
    if (message != nullptr) *message = text;
    if (outcome == Outcome::ACCEPTED) table.Finish(phase, request.group_id(), disposition);
    return outcome;
  }
  static std::vector<uint64_t> Ids(const std::vector<proto::GroupLease>& leases) {
    std::vector<uint64_t> ids;
    for (const auto& lease : leases) ids.push_back(lease.group_id());
    return ids;
  }
  FakeClock clock_;
  std::map<uint64_t, proto::Prompt> prompts_;
};

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(LeaseTableTest, ALeaseSaysAllAnActorNeeds) {
  LeaseTable table = Table(2, 0);
  table.BeginTraining();
  const auto leases = table.Take("a", 1);
  ASSERT_EQ(leases.size(), 1u);
  EXPECT_EQ(leases[0].group_id(), 0u);
  EXPECT_EQ(leases[0].prompt().id(), "prompt-0");
  EXPECT_EQ(leases[0].num_completions(), 4);
  EXPECT_EQ(leases[0].policy_version(), 0u);
  EXPECT_EQ(leases[0].purpose(), proto::GroupLease::TRAIN);
  EXPECT_EQ(leases[0].timeout(), 100);
  EXPECT_FALSE(leases[0].adapter_off());
}

TEST_F(LeaseTableTest, SynchronousRunsLeaseTheNextStepOnlyAfterTheStep) {
  LeaseTable table = Table(3, 0);
  table.BeginTraining();
  const auto leases = table.Take("a", 10);
  EXPECT_THAT(Ids(leases), ElementsAre(0, 1, 2));
  for (const auto& lease : leases) EXPECT_EQ(Submit(table, Result(lease)), Outcome::ACCEPTED);
  EXPECT_THAT(table.Take("a", 10), IsEmpty());
  table.StepDone(1, {0, 1, 2});
  const auto next = table.Take("a", 10);
  EXPECT_THAT(Ids(next), ElementsAre(3, 4, 5));
  for (const auto& lease : next) EXPECT_EQ(lease.policy_version(), 1u);
}

TEST_F(LeaseTableTest, AsynchronousRunsLeaseAheadByTheStaleness) {
  LeaseTable table = Table(2, 2);
  table.BeginTraining();
  EXPECT_THAT(Ids(table.Take("a", 10)), ElementsAre(0, 1, 2, 3, 4, 5));
  table.StepDone(1, {0, 1});
  EXPECT_THAT(Ids(table.Take("a", 10)), ElementsAre(6, 7));
}

TEST_F(LeaseTableTest, NothingIsLeasedPastTheLastStep) {
  LeaseTable table = Table(2, 5, /*max_steps=*/2);
  table.BeginTraining();
  EXPECT_THAT(Ids(table.Take("a", 10)), ElementsAre(0, 1, 2, 3));
  table.StepDone(1, {0, 1});
  EXPECT_THAT(table.Take("a", 10), IsEmpty());
  table.StepDone(2, {2, 3});
  EXPECT_THAT(table.Take("a", 10), IsEmpty());
}

TEST_F(LeaseTableTest, AnExpiredLeaseGoesToSomebodyElseWithTheSameSeeds) {
  LeaseTable table = Table(1, 0);
  table.BeginTraining();
  const auto first = table.Take("a", 1);
  clock_.Advance(absl::Seconds(99));
  EXPECT_THAT(table.Take("b", 1), IsEmpty());
  clock_.Advance(absl::Seconds(1));
  const auto second = table.Take("b", 1);
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(second[0].group_id(), first[0].group_id());
  EXPECT_EQ(second[0].policy_version(), first[0].policy_version());
  EXPECT_NE(second[0].lease_id(), first[0].lease_id());
  EXPECT_EQ(table.counters().expired, 1u);
}

TEST_F(LeaseTableTest, AGroupIsCountedOnceHoweverOftenItIsSubmitted) {
  LeaseTable table = Table(2, 0);
  table.BeginTraining();
  const auto late = table.Take("a", 1);
  clock_.Advance(absl::Seconds(100));
  const auto again = table.Take("b", 1);
  EXPECT_EQ(Submit(table, Result(late[0])), Outcome::ACCEPTED);  // Late, but the first to arrive.
  EXPECT_EQ(Submit(table, Result(again[0])), Outcome::DUPLICATE);
  EXPECT_EQ(Submit(table, Result(late[0])), Outcome::DUPLICATE);
  const auto other = table.Take("b", 1);
  EXPECT_EQ(Submit(table, Result(other[0])), Outcome::ACCEPTED);
  table.StepDone(1, {0, 1});
  EXPECT_EQ(Submit(table, Result(again[0])), Outcome::DUPLICATE);  // Also after it was trained on.
  EXPECT_EQ(table.counters().accepted, 2u);
  EXPECT_EQ(table.counters().duplicate, 3u);
}

TEST_F(LeaseTableTest, WhileAGroupIsBeingStoredASecondCopyIsADuplicate) {
  LeaseTable table = Table(1, 0);
  table.BeginTraining();
  const auto lease = table.Take("a", 1);
  std::string message;
  Phase phase;
  int attempt;
  EXPECT_EQ(table.Begin(Result(lease[0]), &message, &phase, &attempt), Outcome::ACCEPTED);
  EXPECT_EQ(table.Begin(Result(lease[0]), &message, &phase, &attempt), Outcome::DUPLICATE);
  table.Abandon(Phase::kTrain, 0);  // It could not be stored: it was not counted.
  EXPECT_EQ(table.counters().accepted, 0u);
  EXPECT_THAT(Ids(table.Take("b", 1)), ElementsAre(0));
}

TEST_F(LeaseTableTest, StaleGroupsAreDroppedCountedAndLeasedAgain) {
  LeaseTable table = Table(1, 1);
  table.BeginTraining();
  const auto slow = table.Take("a", 1);  // Group 0 at version 0.
  for (uint64_t v = 1; v <= 2; ++v) {
    const auto fast = table.Take("b", 1);
    ASSERT_EQ(Submit(table, Result(fast[0])), Outcome::ACCEPTED);
    table.StepDone(v, {fast[0].group_id()});
  }
  std::string message;
  EXPECT_EQ(Submit(table, Result(slow[0]), Disposition::kUse, &message), Outcome::STALE);
  EXPECT_THAT(message, HasSubstr("sampled with version 0, the policy is at 2"));
  EXPECT_EQ(table.counters().stale, 1u);
  const auto again = table.Take("a", 1);
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].group_id(), 0u);
  EXPECT_EQ(again[0].policy_version(), 2u);
  EXPECT_EQ(Submit(table, Result(again[0])), Outcome::ACCEPTED);
}

TEST_F(LeaseTableTest, ALostMembersLeasesReturnAtOnce) {
  LeaseTable table = Table(4, 0);
  table.BeginTraining();
  table.Take("a", 2);
  const auto kept = table.Take("b", 1);
  EXPECT_EQ(table.outstanding().leased, 3);
  EXPECT_THAT(table.outstanding().member_ids, ElementsAre("a", "b"));
  EXPECT_EQ(table.ReturnLeasesOf("a"), 2);
  EXPECT_EQ(table.outstanding().leased, 1);
  EXPECT_THAT(Ids(table.Take("c", 10)), ElementsAre(0, 1, 3));
  EXPECT_EQ(table.counters().returned, 2u);
}

TEST_F(LeaseTableTest, AGroupThatWasNeverLeasedIsRefused) {
  LeaseTable table = Table(2, 0);
  table.BeginTraining();
  const auto lease = table.Take("a", 1);
  proto::SubmitGroupRequest request = Result(lease[0]);
  request.set_group_id(1);  // Open, but with nobody.
  EXPECT_EQ(Submit(table, request), Outcome::REFUSED);
  request.set_group_id(99);
  EXPECT_EQ(Submit(table, request), Outcome::REFUSED);
  EXPECT_EQ(table.counters().refused, 2u);
}

TEST_F(LeaseTableTest, AGroupWithMissingScoresIsLeasedAgainAndItsFormerLeaseIsUsedUp) {
  LeaseTable table = Table(1, 0);
  table.BeginTraining();
  const auto first = table.Take("a", 1);
  EXPECT_EQ(Submit(table, Result(first[0]), Disposition::kRetry), Outcome::ACCEPTED);
  EXPECT_EQ(Submit(table, Result(first[0])), Outcome::DUPLICATE);
  const auto second = table.Take("a", 1);
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(second[0].group_id(), 0u);
  std::string message;
  Phase phase;
  int attempt = -1;
  EXPECT_EQ(table.Begin(Result(second[0]), &message, &phase, &attempt), Outcome::ACCEPTED);
  EXPECT_EQ(attempt, 1);
  table.Finish(phase, 0, Disposition::kUse);
  EXPECT_EQ(table.counters().retried, 1u);
}

TEST_F(LeaseTableTest, ADroppedGroupIsReplacedByAnother) {
  LeaseTable table = Table(2, 0);
  table.BeginTraining();
  const auto leases = table.Take("a", 2);
  EXPECT_EQ(Submit(table, Result(leases[0]), Disposition::kDrop), Outcome::ACCEPTED);
  EXPECT_THAT(Ids(table.Take("a", 2)), ElementsAre(2));
  EXPECT_EQ(Submit(table, Result(leases[0])), Outcome::DUPLICATE);
  EXPECT_EQ(table.counters().dropped, 1u);
}

TEST_F(LeaseTableTest, EvaluationUsesTheSameIdsBeforeAndAfterAndNoneOfTraining) {
  LeaseTable table = Table(1, 0, /*max_steps=*/1);
  table.BeginEvaluation({Phase::kEvaluateBefore, 2, 3, /*adapter_off=*/true});
  const auto before = table.Take("a", 10);
  ASSERT_EQ(before.size(), 2u);
  EXPECT_EQ(before[0].purpose(), proto::GroupLease::EVALUATE);
  EXPECT_EQ(before[0].num_completions(), 3);
  EXPECT_TRUE(before[0].adapter_off());
  EXPECT_EQ(before[0].group_id(), kEvaluationGroup);
  EXPECT_EQ(Submit(table, Result(before[0])), Outcome::ACCEPTED);
  EXPECT_EQ(table.NumOpen(), 1);
  EXPECT_EQ(Submit(table, Result(before[1])), Outcome::ACCEPTED);
  EXPECT_EQ(table.NumOpen(), 0);

  table.BeginTraining();
  const auto train = table.Take("a", 10);
  EXPECT_THAT(Ids(train), ElementsAre(0));
  EXPECT_EQ(Submit(table, Result(before[0])), Outcome::STALE);  // Of an earlier part of the run.
  EXPECT_EQ(Submit(table, Result(train[0])), Outcome::ACCEPTED);
  table.StepDone(1, {0});

  table.BeginEvaluation({Phase::kEvaluateAfter, 2, 3, /*adapter_off=*/false, /*version=*/1});
  const auto after = table.Take("a", 10);
  EXPECT_EQ(Ids(after), Ids(before));
  EXPECT_FALSE(after[0].adapter_off());
  EXPECT_EQ(after[0].policy_version(), 1u);
  EXPECT_EQ(Submit(table, Result(before[0])), Outcome::STALE);
  EXPECT_EQ(Submit(table, Result(after[0])), Outcome::ACCEPTED);
}

TEST_F(LeaseTableTest, ArmsShareTheirIdsAndSeedsAndNobodyElsesLeases) {
  LeaseTable table = Table(1, 0, /*max_steps=*/1);
  table.BeginEvaluation({PhaseOfArm(1), 2, 1, /*adapter_off=*/false, /*version=*/1});
  const auto first = table.Take("a", 10);
  EXPECT_EQ(first[0].policy_version(), 1u);
  EXPECT_FALSE(first[0].has_text());
  table.BeginEvaluation({PhaseOfArm(11), 2, 1, /*adapter_off=*/true, /*version=*/11, "no"});
  const auto second = table.Take("a", 10);
  EXPECT_EQ(Ids(second), Ids(first));
  EXPECT_EQ(second[0].text(), "no");
  EXPECT_EQ(second[0].policy_version(), 11u);
  EXPECT_EQ(Submit(table, Result(first[0])), Outcome::STALE) << "arm 1 is no prefix of arm 11";
  EXPECT_EQ(Submit(table, Result(second[0])), Outcome::ACCEPTED);
  EXPECT_EQ(ArmOf(PhaseOfArm(11)), 11);
  EXPECT_LT(ArmOf(Phase::kTrain), 0);
}

TEST_F(LeaseTableTest, AfterCloseNothingIsLeased) {
  LeaseTable table = Table(2, 0);
  table.BeginTraining();
  table.Close();
  EXPECT_THAT(table.Take("a", 2), IsEmpty());
}

TEST_F(LeaseTableTest, ManyActorsAtOnceCountEveryGroupExactlyOnce) {
  constexpr int kSteps = 50, kGroups = 4;
  LeaseTable table = Table(kGroups, 0, kSteps);
  table.BeginTraining();
  std::atomic<int> accepted{0};
  std::atomic<bool> stop{false};
  Mutex mutex;
  std::set<uint64_t> pool;
  std::vector<std::thread> actors;
  for (int a = 0; a < 4; ++a) {
    actors.emplace_back([&, a] {
      while (!stop) {
        for (const auto& lease : table.Take(absl::StrCat("actor-", a), 2)) {
          for (int copy = 0; copy < 2; ++copy) {
            if (Submit(table, Result(lease)) != Outcome::ACCEPTED) continue;
            ++accepted;
            MutexLock lock(mutex);
            EXPECT_TRUE(pool.insert(lease.group_id()).second);
          }
        }
        std::this_thread::yield();
      }
    });
  }
  uint64_t version = 0;
  std::set<uint64_t> trained;
  while (version < kSteps) {
    std::vector<uint64_t> step;
    {
      MutexLock lock(mutex);
      if (pool.size() >= kGroups) {
        step.assign(pool.begin(), pool.end());
        pool.clear();
      }
    }
    if (step.empty()) {
      std::this_thread::yield();
      continue;
    }
    EXPECT_EQ(step.size(), static_cast<size_t>(kGroups));
    trained.insert(step.begin(), step.end());
    table.StepDone(++version, step);
  }
  stop = true;
  for (std::thread& actor : actors) actor.join();
  EXPECT_EQ(accepted, kSteps * kGroups);
  EXPECT_EQ(trained.size(), static_cast<size_t>(kSteps * kGroups));
}

TEST_F(LeaseTableTest, ATableThatIsTakenUpAgainLeasesWhatIsOpenAndNothingTwice) {
  LeaseTable table = Table(3, 0);
  RestoredPhase restored;
  restored.incarnation = 2;
  restored.done = {0, 1, 2, 4};
  restored.groups[3].accepted = true;
  restored.groups[5].attempt = 1;
  restored.groups[5].stored_leases = {"train-5-0"};
  table.BeginTraining(7, restored);
  const auto leases = table.Take("a", 10);
  EXPECT_THAT(Ids(leases), ElementsAre(5, 6)) << "3 is accepted, 4 was dropped";
  EXPECT_EQ(leases[0].policy_version(), 7u);
  EXPECT_EQ(leases[0].lease_id(), "train-5-2.0") << "no lease id of an earlier process again";
  EXPECT_EQ(table.next_group(), 7u);
  // The holder of a lease of the earlier process hands in; nobody else's result counts then.
  proto::SubmitGroupRequest late = Result(leases[1]);
  late.set_lease_id("train-6-0");
  EXPECT_EQ(Submit(table, late), Outcome::ACCEPTED);
  EXPECT_EQ(Submit(table, Result(leases[1])), Outcome::DUPLICATE);
  // A stored attempt of the earlier process is not stored twice.
  proto::SubmitGroupRequest again = Result(leases[0]);
  again.set_lease_id("train-5-0");
  EXPECT_EQ(Submit(table, again), Outcome::DUPLICATE);
  for (const uint64_t done : {0u, 4u}) {
    proto::SubmitGroupRequest old = Result(leases[0]);
    old.set_group_id(done);
    EXPECT_EQ(Submit(table, old), Outcome::DUPLICATE);
  }
  table.StepDone(8, {3, 5, 6});
  EXPECT_THAT(Ids(table.Take("a", 10)), ElementsAre(7, 8, 9));
}

TEST_F(LeaseTableTest, AnEvaluationThatIsTakenUpAgainAsksOnlyForWhatIsMissing) {
  LeaseTable table = Table(3, 0);
  RestoredPhase restored;
  restored.incarnation = 1;
  restored.groups[kEvaluationGroup | 0].accepted = true;
  table.BeginEvaluation({Phase::kEvaluateBefore, 2, 3, /*adapter_off=*/true}, restored);
  EXPECT_THAT(Ids(table.Take("a", 10)), ElementsAre(kEvaluationGroup | 1));
  EXPECT_EQ(table.NumOpen(), 1);
}

TEST_F(LeaseTableTest, ACheckpointSeesWhatIsOpen) {
  LeaseTable table = Table(2, 0);
  table.BeginTraining();
  const auto leases = table.Take("a", 2);
  Submit(table, Result(leases[0]));
  Submit(table, Result(leases[1]), Disposition::kRetry);
  const auto open = table.OpenGroups();
  ASSERT_EQ(open.size(), 2u);
  EXPECT_TRUE(open[0].accepted());
  EXPECT_FALSE(open[1].accepted());
  EXPECT_EQ(open[1].attempt(), 1);
  EXPECT_EQ(table.next_group(), 2u);
}

}  // namespace
}  // namespace wideberth::learner
