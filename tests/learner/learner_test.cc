// SPDX-License-Identifier: Apache-2.0
// A whole run in one process: the learner, and an actor that speaks its handler directly, on a tiny
// model.
#include "learner/learner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/text_proto.h"
#include "model/runtime.h"
#include "tests/learner/learner_fixture.h"
#include "tests/learner/test_actor.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::learner {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST_F(LearnerTest, ARunFromTheFirstLeaseToTheSummary) {
  const std::string run_dir = RunDir();
  auto learner = Make();
  TestActor actor(learner->handler(), "actor-0", dir_.Join("model"));
  const absl::Status status = RunWith(*learner, {&actor});
  ASSERT_TRUE(status.ok()) << status;

  const std::vector<json> metrics = Metrics(run_dir);
  ASSERT_EQ(metrics.size(), 3u);
  for (size_t i = 0; i < metrics.size(); ++i) {
    EXPECT_EQ(metrics[i]["step"], i + 1);
    EXPECT_EQ(metrics[i]["version"], i + 1);
    EXPECT_EQ(metrics[i]["groups"], 2);
    EXPECT_EQ(metrics[i]["completions"], 8);
    EXPECT_EQ(metrics[i]["staleness_max"], 0);
    EXPECT_LE(metrics[i]["logprob_difference_max"].get<double>(), 1e-4);
    EXPECT_TRUE(metrics[i]["t_mean"].is_number());
    EXPECT_GT(metrics[i]["grad_norm"].get<double>(), 0.0);
    EXPECT_LE(metrics[i]["ratio_deviation_max"].get<double>(), 1.1e-4);
    EXPECT_EQ(metrics[i]["clip_ratio/region_mean"], 0.0);
    EXPECT_TRUE(metrics[i]["reward"].is_number());
    const double before = i == 0 ? 0 : metrics[i - 1]["num_tokens"].get<double>();
    EXPECT_GT(metrics[i]["num_tokens"].get<double>(),
              before + metrics[i]["completion_tokens"].get<double>());
  }
  const std::filesystem::directory_iterator events(run_dir + "/tensorboard");
  ASSERT_NE(events, std::filesystem::directory_iterator());
  EXPECT_THAT(events->path().filename().string(), HasSubstr("events.out.tfevents."));
  EXPECT_THAT(ReadFile(events->path().string()).value_or(""), HasSubstr("rewards/safety/mean"));
  EXPECT_TRUE(metrics[0]["sync_seconds"].is_null());
  EXPECT_GE(metrics[1]["sync_seconds"].get<double>(), 0.0);
  EXPECT_EQ(metrics[0]["kl"], 0.0) << "the first step's policy is the base";
  EXPECT_GT(metrics[2]["kl"].get<double>(), 0.0);

  const json summary = SummaryOf(run_dir);
  EXPECT_EQ(summary["ended"], "completed");
  EXPECT_EQ(summary["policy_version"], 3);
  EXPECT_EQ(summary["totals"]["groups_accepted"], 2 + 3 * 2 + 2);
  EXPECT_EQ(summary["totals"]["first_step_kl"], 0.0);
  const json& comparison = summary["evaluation"]["comparison"];
  EXPECT_EQ(comparison["kl_to_base"]["before"], 0.0);
  EXPECT_GT(comparison["kl_to_base"]["after"].get<double>(), 0.0);
  EXPECT_EQ(comparison["u_mean"]["difference"]["num_prompts"], 2);
  EXPECT_THAT(ReadFile(run_dir + "/summary.txt").value_or(""), HasSubstr("mean t (guard)"));

  // The adapter on disk is the one that was published last.
  proto::ModelConfig model;
  model.set_path(dir_.Join("model"));
  const auto base = model::CausalLm::Load(model);
  const auto adapter =
      model::Adapter::Load(run_dir + "/adapter", (*base)->spec(), at::kFloat, at::kCPU);
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  proto::AdapterManifest manifest;
  (*adapter)->Pack(at::kFloat, &manifest);
  EXPECT_EQ(manifest.fingerprint(), summary["adapter"]["fingerprint"]);
  EXPECT_EQ(manifest.fingerprint(), metrics[2]["fingerprint"]);

  // The journal holds every group, and which step learned from it.
  learner.reset();
  auto journal = Journal::Open(run_dir + "/run.db");
  const auto groups = (*journal)->ReadGroups();
  ASSERT_EQ(groups->size(), 10u);
  EXPECT_EQ((*journal)->NumSteps().value(), 3);
  int trained = 0;
  for (const JournalGroup& group : *groups) trained += group.step > 0;
  EXPECT_EQ(trained, 6);
}

TEST_F(LearnerTest, TheSameSeedGivesTheSameRunWhateverTheNumberOfActors) {
  const std::string one = RunDir("one");
  auto first = Make();
  TestActor alone(first->handler(), "actor-0", dir_.Join("model"));
  ASSERT_TRUE(RunWith(*first, {&alone}).ok());
  const std::string two = RunDir("two");
  auto second = Make();
  TestActor a(second->handler(), "actor-0", dir_.Join("model")),
      b(second->handler(), "actor-1", dir_.Join("model"));
  a.twice = b.twice = true;  // Either may be the one that hands in all groups.
  ASSERT_TRUE(RunWith(*second, {&a, &b}).ok());
  EXPECT_EQ(SummaryOf(one)["adapter"]["fingerprint"], SummaryOf(two)["adapter"]["fingerprint"]);
  EXPECT_GT(SummaryOf(two)["totals"]["groups_duplicate"].get<int>(), 0);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(Metrics(one)[i]["loss"], Metrics(two)[i]["loss"]);
}

TEST_F(LearnerTest, AnActorThatDiesCostsNothingButTime) {
  config_.mutable_learner()->set_lease_timeout(0.2);
  const std::string run_dir = RunDir();
  auto learner = Make();
  TestActor dies(learner->handler(), "actor-0", dir_.Join("model")),
      lives(learner->handler(), "actor-1", dir_.Join("model"));
  dies.leave_after = 1;
  const absl::Status status = RunWith(*learner, {&dies, &lives});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Metrics(run_dir).size(), 3u);
}

TEST_F(LearnerTest, GroupsOfAnUnknownAdapterAreRefusedAndNeverTrainedOn) {
  config_.mutable_evaluation()->set_num_prompts(0);
  config_.mutable_learner()->set_max_steps(1);
  const std::string run_dir = RunDir();
  auto learner = Make();
  TestActor actor(learner->handler(), "actor-0", dir_.Join("model"));
  int num = 0;
  actor.tamper = [&](proto::SubmitGroupRequest& request) {
    if (++num == 1) request.set_adapter_fingerprint("someone else's");
    if (num == 2) request.set_policy_version(7);
    if (num == 3) request.mutable_completion(1)->mutable_token_id()->Set(0, 999999);
  };
  ASSERT_TRUE(RunWith(*learner, {&actor}).ok());
  ASSERT_GE(actor.responses.size(), 5u);
  EXPECT_THAT(actor.responses[0].message(), HasSubstr("was sampled with adapter someone else's"));
  EXPECT_THAT(actor.responses[1].message(), HasSubstr("version 7, which was never published"));
  EXPECT_THAT(actor.responses[2].message(), HasSubstr("completion 1 has token 999999"));
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(actor.responses[i].outcome(), proto::SubmitGroupResponse::REFUSED);
  EXPECT_EQ(SummaryOf(run_dir)["totals"]["groups_refused"], 3);
  EXPECT_EQ(SummaryOf(run_dir)["totals"]["groups_accepted"], 2);
}

TEST_F(LearnerTest, ALogProbThatIsNotThePolicysEndsTheRunAndNamesTheActor) {
  config_.mutable_evaluation()->set_num_prompts(0);
  const std::string run_dir = RunDir();
  auto learner = Make();
  TestActor actor(learner->handler(), "actor-7", dir_.Join("model"));
  actor.tamper = [](proto::SubmitGroupRequest& request) {
    if (request.group_id() == 3)
      request.mutable_completion(2)->set_logprob(0, request.completion(2).logprob(0) - 0.5f);
  };
  const absl::Status status = RunWith(*learner, {&actor});
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("actor-7"));
  EXPECT_EQ(Metrics(run_dir).size(), 1u);
  const json summary = SummaryOf(run_dir);
  EXPECT_EQ(summary["ended"], "failed");
  EXPECT_EQ(summary["policy_version"], 1);
  EXPECT_TRUE(std::filesystem::exists(run_dir + "/adapter/adapter_model.safetensors"));
}

TEST_F(LearnerTest, MissingScoresFollowTheRules) {
  config_.mutable_evaluation()->set_num_prompts(0);
  config_.mutable_learner()->set_max_steps(1);
  config_.mutable_reward()->set_on_refused_input(proto::RewardConfig::DROP_GROUP);
  const std::string run_dir = RunDir();
  auto learner = Make();
  TestActor actor(learner->handler(), "actor-0", dir_.Join("model"));
  std::map<uint64_t, int> attempts;
  actor.tamper = [&](proto::SubmitGroupRequest& request) {
    const int attempt = attempts[request.group_id()]++;
    proto::Score* score = request.mutable_completion(0)->mutable_score(0);
    const auto lose = [&](proto::ScoreStatus status) {
      score->set_status(status);
      score->clear_value();
    };
    if (request.group_id() == 0 && attempt == 0) lose(proto::TIMED_OUT);  // Leased again.
    if (request.group_id() == 1) lose(proto::REFUSED_INPUT);              // The group is dropped.
    if (request.group_id() == 2) lose(proto::MALFORMED_OUTPUT);  // Without this completion.
  };
  ASSERT_TRUE(RunWith(*learner, {&actor}).ok());
  EXPECT_EQ(attempts[0], 2);
  const json totals = SummaryOf(run_dir)["totals"];
  EXPECT_EQ(totals["groups_retried"], 1);
  EXPECT_EQ(totals["groups_dropped"], 1);
  EXPECT_EQ(totals["missing_TIMED_OUT"], 1);
  EXPECT_EQ(totals["missing_REFUSED_INPUT"], 1);
  EXPECT_EQ(totals["missing_MALFORMED_OUTPUT"], 1);
  const json step = Metrics(run_dir)[0];
  EXPECT_EQ(step["completions"], 8);
  EXPECT_EQ(step["unscored"], 1);
  learner.reset();
  auto journal = Journal::Open(run_dir + "/run.db");
  const auto groups = (*journal)->ReadGroups();
  for (const JournalGroup& group : *groups) {
    EXPECT_EQ(group.step > 0, group.disposition == Disposition::kUse) << group.request.group_id();
  }
}

TEST_F(LearnerTest, StopWritesAdapterAndPartialSummary) {
  config_.mutable_learner()->set_max_steps(1000);
  const std::string run_dir = RunDir();
  auto learner = Make();
  TestActor actor(learner->handler(), "actor-0", dir_.Join("model"));
  actor.tamper = [&](proto::SubmitGroupRequest& request) {
    if (request.policy_version() == 2) learner->Stop("stopped by the test");
  };
  const absl::Status status = RunWith(*learner, {&actor});
  EXPECT_TRUE(status.ok()) << status;
  const json summary = SummaryOf(run_dir);
  EXPECT_EQ(summary["ended"], "stopped");
  EXPECT_EQ(summary["message"], "stopped by the test");
  EXPECT_EQ(summary["policy_version"], 2);
  EXPECT_EQ(summary["evaluation"]["prompts"][0]["after"].size(), 0u);
  EXPECT_TRUE(std::filesystem::exists(run_dir + "/adapter/adapter_config.json"));
  EXPECT_EQ(learner->Status().state, "ended");
}

TEST_F(LearnerTest, WithoutActorsTheRunEndsWithWhatItWaitedFor) {
  config_.mutable_learner()->set_step_timeout(0.3);
  const std::string run_dir = RunDir();
  auto learner = Make();
  const absl::Status status = learner->Run();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("no group was accepted for 300ms; 0 of 2 groups are here"),
                    HasSubstr("actors alive: 0"), HasSubstr("scorers absent: safety, helpful"),
                    HasSubstr("learner.step_timeout")));
  EXPECT_EQ(SummaryOf(run_dir)["ended"], "failed");
}

TEST_F(LearnerTest, AFullDiskEndsTheRunWithoutLosingWhatWasConfirmed) {
  config_.mutable_learner()->set_max_steps(1000);
  config_.mutable_evaluation()->set_num_prompts(0);
  const std::string run_dir = RunDir();
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    auto learner = Make();
    const rlimit limit = {300 * 1024, 300 * 1024};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    TestActor actor(learner->handler(), "actor-0", dir_.Join("model"));
    std::thread thread([&] { (void)actor.Run(); });
    const absl::Status status = learner->Run();
    thread.join();
    uint64_t accepted = 0;
    for (const auto& response : actor.responses)
      accepted += response.outcome() == proto::SubmitGroupResponse::ACCEPTED;
    std::ofstream(dir_.Join("told")) << accepted << " " << status.message();
    ::_exit(status.ok() ? 1 : 0);
  }
  int exit_status = 0;
  ::waitpid(child, &exit_status, 0);
  ASSERT_TRUE(WIFEXITED(exit_status));
  EXPECT_EQ(WEXITSTATUS(exit_status), 0);
  std::ifstream told(dir_.Join("told"));
  uint64_t accepted = 0;
  std::string sentence;
  told >> accepted;
  std::getline(told, sentence);
  EXPECT_THAT(sentence, AllOf(HasSubstr("run.db"), HasSubstr("could not be stored")));
  auto journal = Journal::Open(run_dir + "/run.db");
  ASSERT_TRUE(journal.ok()) << journal.status();
  EXPECT_EQ((*journal)->ReadGroups()->size(), accepted);
  EXPECT_FALSE(std::filesystem::exists(run_dir + "/summary.json.partial"));
}

TEST_F(LearnerTest, AnActorOnOtherWeightsIsRefused) {
  config_.mutable_learner()->set_step_timeout(0.3);
  RunDir();
  auto learner = Make();
  TestActor actor(learner->handler(), "actor-0", dir_.Join("model"));
  actor.base_fingerprint = "other";
  EXPECT_THAT(std::string(actor.Run().message()),
              HasSubstr("actor-0 has base weights with fingerprint other"));
}

TEST_F(LearnerTest, BadInputIsFoundBeforeTheFolderIsTouched) {
  const std::string run_dir = RunDir();
  const proto::RunConfig good = config_;
  const auto sentence = [&] {
    const std::string text(Learner::Create(config_, &Clock::Real()).status().message());
    EXPECT_FALSE(std::filesystem::exists(run_dir)) << text;
    config_ = good;
    return text;
  };
  config_.mutable_generation()->set_max_new_tokens(100000);
  EXPECT_THAT(sentence(), AllOf(HasSubstr("prompts.jsonl:1: prompt has"),
                                HasSubstr("tokens, must have at most")));
  config_.mutable_learner()->set_group_size(1);
  EXPECT_EQ(sentence(), "learner.group_size is 1, must be at least 2");
  config_.mutable_policy()->mutable_model()->set_path(dir_.Join("absent"));
  EXPECT_THAT(sentence(), HasSubstr("absent"));
  config_.mutable_reward()->set_form(proto::RewardConfig::PROMPT_AWARE);
  EXPECT_THAT(sentence(), HasSubstr("prompts.jsonl:1: has no \"unsafe\" label"));
}

TEST_F(LearnerTest, AStaleGroupIsNeverTrainedOnAndAFreshOneBehindByKIs) {
  config_.mutable_evaluation()->set_num_prompts(0);
  config_.mutable_learner()->set_max_staleness(1);
  config_.mutable_learner()->set_max_steps(4);
  const std::string run_dir = RunDir();
  auto learner = Make();
  TestActor actor(learner->handler(), "actor-0", dir_.Join("model"));
  ASSERT_TRUE(RunWith(*learner, {&actor}).ok());
  int64_t most = 0;
  for (const json& step : Metrics(run_dir)) most = std::max<int64_t>(most, step["staleness_max"]);
  EXPECT_LE(most, 1);
  EXPECT_EQ(Metrics(run_dir).size(), 4u);
}

TEST_F(LearnerTest, ThePageListsMembersAndProgress) {
  const std::string run_dir = RunDir();
  auto learner = Make();
  TestActor actor(learner->handler(), "actor-0", dir_.Join("model"));
  ASSERT_TRUE(RunWith(*learner, {&actor}).ok());
  const transport::RoleStatus status = learner->Status();
  EXPECT_EQ(status.policy_version, 3u);
  EXPECT_EQ(status.progress, 1.0);
  ASSERT_EQ(status.members.size(), 1u);
  EXPECT_EQ(status.members[0].name, "actor-0");
  EXPECT_EQ(status.members[0].policy_version, 3u);
  EXPECT_THAT(status.facts, ::testing::Contains(::testing::Pair("step", "3 of 3")));
  EXPECT_THAT(status.facts, ::testing::Contains(::testing::Pair("reward", HasSubstr("█"))));
  EXPECT_THAT(learner->metrics().Text(),
              AllOf(HasSubstr("wideberth_policy_version 3"), HasSubstr("outcome=\"accepted\"")));
}

TEST(SparklineTest, SpansItsOwnRangeAndShowsGaps) {
  EXPECT_EQ(Sparkline({0.0, 0.5, 1.0}, 10), "▁▅█");
  EXPECT_EQ(Sparkline({1.0, absl::nullopt, 3.0}, 10), "▁ █");
  EXPECT_EQ(Sparkline({0.0, 2.0, 4.0, 6.0}, 2), "▁█");
  EXPECT_EQ(Sparkline({}, 5), "");
}

}  // namespace
}  // namespace wideberth::learner
