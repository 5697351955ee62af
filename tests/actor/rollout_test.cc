// SPDX-License-Identifier: Apache-2.0
// The loop with everything around it in memory: a policy that echoes, a learner of functions,
// scorers of functions.
#include "actor/rollout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/hash.h"
#include "tests/testing/fake_wire.h"

namespace wideberth::actor {
namespace {

using ::testing::ElementsAre;
using testing::FakeScorerClient;
using ::testing::HasSubstr;

// Token ids are the bytes of the prompt; completion i of a group repeats its first byte i + 1
// times. Log-probs are -version.
class EchoPolicy final : public Policy {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(const proto::Prompt& prompt) const override {
    const std::string& text = prompt.message(0).content();
    return std::vector<int32_t>(text.begin(), text.end());
  }
  std::vector<int32_t> EncodeText(const std::string& text) const override {
    return {text.begin(), text.end()};
  }
  std::string Decode(const std::vector<int32_t>& tokens) const override {
    return {tokens.begin(), tokens.end()};
  }
  int64_t context_tokens() const override { return 16; }
  absl::Status Use(const transport::AdapterBlob& blob) override {
    if (blob.manifest.version() == refused_version)
      return absl::InvalidArgumentError("the adapter does not fit");
    version = blob.manifest.version();
    return absl::OkStatus();
  }
  absl::StatusOr<size_t> Add(const std::vector<model::PromptGroup>& groups,
                             bool adapter_off) override {
    const size_t first = next_;
    off_ = adapter_off;
    for (const model::PromptGroup& group : groups) {
      running_[next_] = {group, std::vector<model::Sampled>(group.num_completions)};
      Sample(running_[next_++], 0);
    }
    most_together = std::max(most_together, num_running());
    return first;
  }
  absl::Status Step() override {
    if (before_step) before_step();
    for (auto& [index, group] : running_) {
      for (int c = 1; c < group.prompt.num_completions; ++c) {
        if (static_cast<int>(group.completions[c].tokens.size()) < c + 1) Sample(group, c);
      }
    }
    return absl::OkStatus();
  }
  std::vector<model::Generator::Finished> TakeFinished() override {
    std::vector<model::Generator::Finished> finished;
    for (auto& [index, group] : running_) {
      const int last = group.prompt.num_completions - 1;
      if (static_cast<int>(group.completions[last].tokens.size()) == last + 1)
        finished.push_back({index, group.completions});
    }
    for (const auto& one : finished) running_.erase(one.index);
    return finished;
  }
  int num_running() const override { return static_cast<int>(running_.size()); }
  int64_t num_sampled() const override { return num_sampled_; }
  void Clear() override {
    running_.clear();
    num_sampled_ = 0;
  }

  uint64_t version = 0;
  uint64_t refused_version = 999;
  int most_together = 0;
  std::function<void()> before_step;

 private:
  struct Group {
    model::PromptGroup prompt;
    std::vector<model::Sampled> completions;
  };
  // One token for completion `first` and those after it.
  void Sample(Group& group, int first) {
    for (int c = first; c < group.prompt.num_completions; ++c) {
      model::Sampled& sampled = group.completions[c];
      sampled.tokens.push_back(group.prompt.prompt[0]);
      sampled.logprobs.push_back(off_ ? 0.0f : -static_cast<float>(version));
      if (sampled.versions.empty() || sampled.versions.back().version != version)
        sampled.versions.push_back({version, 0});
      ++sampled.versions.back().num_tokens;
      ++num_sampled_;
      if (first > 0) break;
    }
  }
  std::map<size_t, Group> running_;
  size_t next_ = 0;
  int64_t num_sampled_ = 0;
  bool off_ = false;
};

std::shared_ptr<const transport::AdapterBlob> Blob(uint64_t version) {
  auto blob = std::make_shared<transport::AdapterBlob>();
  blob->bytes = std::string(4, static_cast<char>(version));
  blob->manifest.set_version(version);
  blob->manifest.mutable_lora()->set_rank(1);
  blob->manifest.set_dtype(proto::FLOAT32);
  proto::TensorSpec* const tensor = blob->manifest.add_tensor();
  tensor->set_name("a");
  tensor->add_shape(1);
  tensor->set_offset_bytes(0);
  blob->manifest.set_num_bytes(4);
  blob->manifest.set_fingerprint(Fingerprint(blob->bytes));
  return blob;
}

proto::GroupLease Lease(uint64_t group, const std::string& prompt, uint64_t version,
                        bool adapter_off = false) {
  proto::GroupLease lease;
  lease.set_lease_id(absl::StrCat("lease-", group));
  lease.set_group_id(group);
  lease.mutable_prompt()->set_id(absl::StrCat("p", group));
  lease.mutable_prompt()->add_message()->set_content(prompt);
  lease.set_num_completions(2);
  lease.set_policy_version(version);
  lease.set_timeout(300);
  lease.set_adapter_off(adapter_off);
  return lease;
}

class RolloutTest : public ::testing::Test {
 protected:
  RolloutTest()
      : client_(&learner_),
        source_(&client_, [] { return std::string("actor-0#1"); }),
        safety_([](const proto::ScoreItem& item) {
          return FakeScorerClient::Scored("", item.completion().size());
        }),
        help_([](const proto::ScoreItem& item) { return FakeScorerClient::Scored("", 7); }) {
    config_.mutable_generation()->set_max_new_tokens(4);
    config_.mutable_actor()->set_groups_per_lease(3);
    learner_.on_lease = [this](const proto::LeasePromptsRequest& request)
        -> absl::StatusOr<proto::LeasePromptsResponse> {
      MutexLock lock(mutex_);
      proto::LeasePromptsResponse response;
      if (next_ < rounds_.size()) {
        for (const proto::GroupLease& lease : rounds_[next_]) *response.add_lease() = lease;
        ++next_;
      } else if (submitted_.size() >= expected_ && acknowledged_.size() >= acknowledgements_) {
        response.set_drain(true);
      } else {
        response.set_retry_after_ms(1);
      }
      return response;
    };
    learner_.on_submit = [this](const proto::SubmitGroupRequest& request)
        -> absl::StatusOr<proto::SubmitGroupResponse> {
      MutexLock lock(mutex_);
      if (num_failures_ > 0) {
        --num_failures_;
        return absl::UnavailableError("away");
      }
      submitted_[request.group_id()] = request;
      return proto::SubmitGroupResponse();
    };
    learner_.on_fetch = [this](const proto::FetchAdapterRequest& request)
        -> absl::StatusOr<std::shared_ptr<const transport::AdapterBlob>> {
      if (request.have_any() && request.have_version() >= published_)
        return std::shared_ptr<const transport::AdapterBlob>();
      return Blob(published_);
    };
    learner_.on_acknowledge = [this](const proto::AcknowledgeAdapterRequest& request)
        -> absl::StatusOr<proto::AcknowledgeAdapterResponse> {
      MutexLock lock(mutex_);
      acknowledged_.push_back(request.version());
      acknowledged_changed_.SignalAll();
      return proto::AcknowledgeAdapterResponse();
    };
    learner_.on_register =
        [](const proto::RegisterRequest&) -> absl::StatusOr<proto::RegisterResponse> {
      proto::RegisterResponse response;
      response.set_member_id("actor-0#1");
      return response;
    };
  }

  absl::Status Run(std::vector<std::vector<proto::GroupLease>> rounds, size_t expected) {
    rounds_ = std::move(rounds);
    expected_ = expected;
    proto::RegisterRequest registration;
    registration.set_name("actor-0");
    Membership::Callbacks callbacks;
    callbacks.status = [this] { return progress_.Snapshot(); };
    callbacks.scorers = [](const proto::HeartbeatResponse&) {};
    callbacks.ended = [](const absl::Status&) {};
    Membership membership(&client_, registration, absl::Seconds(60), callbacks, clock_);
    EXPECT_TRUE(membership.Register().ok());
    transport::AdapterReceiver adapters(
        &source_, &client_, [] { return std::string("actor-0#1"); }, absl::Milliseconds(1));
    Rollout rollout({&config_, &policy_, &client_, &adapters, &membership, scorers_, &progress_,
                     absl::ZeroDuration()});
    rollout_ = &rollout;
    adapters_ = &adapters;
    const absl::Status status = rollout.Run();
    rollout_ = nullptr;
    adapters.Stop();
    return status;
  }

  // A version that the next one overtakes before its acknowledgement went out has none.
  void PublishOnceAcknowledged(uint64_t version) {
    const auto acknowledged = [&] {
      return !acknowledged_.empty() && acknowledged_.back() == version - 1;
    };
    const absl::Time deadline = absl::Now() + absl::Minutes(1);
    MutexLock lock(mutex_);
    while (!acknowledged() && absl::Now() < deadline)
      acknowledged_changed_.WaitFor(mutex_, deadline - absl::Now());
    EXPECT_TRUE(acknowledged());
    published_ = version;
  }

  Mutex mutex_;
  CondVar acknowledged_changed_;
  testing::FakeLearner learner_;
  testing::InMemoryLearnerClient client_;
  transport::GrpcAdapterSource source_;
  FakeScorerClient safety_;
  FakeScorerClient help_;
  std::vector<NamedScorer> scorers_ = {{"safety", &safety_}, {"help", &help_}};
  proto::RunConfig config_;
  EchoPolicy policy_;
  Progress progress_;
  FakeClock clock_;
  std::atomic<uint64_t> published_{0};
  std::vector<std::vector<proto::GroupLease>> rounds_;
  size_t next_ = 0, expected_ = 0, acknowledgements_ = 0;
  int num_failures_ = 0;
  std::map<uint64_t, proto::SubmitGroupRequest> submitted_;
  std::vector<uint64_t> acknowledged_;
  Rollout* rollout_ = nullptr;
  transport::AdapterReceiver* adapters_ = nullptr;
};

TEST_F(RolloutTest, GroupsOfALeaseAreOneBatchAndComeBackScored) {
  ASSERT_TRUE(Run({{Lease(1, "abc", 0), Lease(2, "xyz", 0)}}, 2).ok());
  EXPECT_EQ(policy_.most_together, 2);
  const proto::SubmitGroupRequest& group = submitted_.at(2);
  EXPECT_EQ(group.member_id(), "actor-0#1");
  EXPECT_EQ(group.lease_id(), "lease-2");
  EXPECT_EQ(group.policy_version(), 0u);
  EXPECT_EQ(group.adapter_fingerprint(), Blob(0)->manifest.fingerprint());
  EXPECT_THAT(group.prompt_token_id(), ElementsAre('x', 'y', 'z'));
  ASSERT_EQ(group.completion_size(), 2);
  EXPECT_EQ(group.completion(1).text(), "xx");
  EXPECT_EQ(group.completion(1).logprob_size(), 2);
  ASSERT_EQ(group.completion(1).score_size(), 2);
  EXPECT_EQ(group.completion(1).score(0).scorer_name(), "safety");
  EXPECT_EQ(group.completion(1).score(0).value(), 2);
  EXPECT_EQ(group.completion(1).score(1).value(), 7);
}

TEST_F(RolloutTest, ScorersForEvaluationOnlySeeNothingThatIsTrainedOn) {
  FakeScorerClient oracle([](const proto::ScoreItem& item) {
    return FakeScorerClient::Scored("", item.finish_reason() == proto::LENGTH ? 1 : 3);
  });
  scorers_.push_back({"oracle", &oracle, absl::Seconds(120), /*evaluation_only=*/true});
  proto::GroupLease evaluated = Lease(2, "xyz", 0), refused = Lease(3, "", 0),
                    trained = Lease(4, "", 0);
  evaluated.set_purpose(proto::GroupLease::EVALUATE);
  refused.set_purpose(proto::GroupLease::EVALUATE);
  ASSERT_TRUE(Run({{Lease(1, "abc", 0), evaluated, refused}, {trained}}, 4).ok());
  EXPECT_EQ(policy_.most_together, 2) << "one batch for both purposes";
  const auto names = [this](uint64_t group) {
    std::vector<std::string> found;
    for (const proto::Score& score : submitted_.at(group).completion(1).score())
      found.push_back(score.scorer_name());
    return found;
  };
  EXPECT_THAT(names(1), ElementsAre("safety", "help"));
  EXPECT_THAT(names(2), ElementsAre("safety", "help", "oracle"));
  EXPECT_THAT(names(3), ElementsAre("safety", "help", "oracle"));
  EXPECT_THAT(names(4), ElementsAre("safety", "help"));
  EXPECT_EQ(submitted_.at(2).completion(1).score(2).value(), 1) << "the oracle knows how it ended";
  EXPECT_EQ(submitted_.at(1).completion(1).score(0).value(), 2);
}

TEST_F(RolloutTest, WaitsForTheVersionOfTheLeaseAndAcknowledgesItOnce) {
  config_.mutable_actor()->set_groups_per_lease(1);
  acknowledgements_ = 2;
  const auto lease = learner_.on_lease;
  learner_.on_lease = [this, lease](const proto::LeasePromptsRequest& request) {
    const auto response = lease(request);
    // Published when it is leased, as the learner does at the latest.
    if (next_ == 2 && published_ == 0) PublishOnceAcknowledged(1);
    return response;
  };
  ASSERT_TRUE(Run({{Lease(1, "a", 0)}, {Lease(2, "b", 1)}, {Lease(3, "c", 1)}}, 3).ok());
  EXPECT_EQ(submitted_.at(1).policy_version(), 0u);
  EXPECT_EQ(submitted_.at(2).policy_version(), 1u);
  EXPECT_EQ(submitted_.at(2).adapter_fingerprint(), Blob(1)->manifest.fingerprint());
  EXPECT_EQ(submitted_.at(2).completion(0).logprob(0), -1.0f);
  EXPECT_THAT(acknowledged_, ElementsAre(0, 1));
}

TEST_F(RolloutTest, AVersionThatComesInTheMiddleIsSwappedInAndEveryTokenIsToldApart) {
  // After the first token of both completions; the second completion has one more.
  bool first = true;
  policy_.before_step = [&] {
    if (!std::exchange(first, false)) return;
    PublishOnceAcknowledged(1);
    EXPECT_TRUE(adapters_->WaitFor(1, absl::Now() + absl::Minutes(1)).ok());
  };
  proto::GroupLease lease = Lease(1, "abc", 0);
  lease.set_num_completions(3);
  acknowledgements_ = 2;
  ASSERT_TRUE(Run({{lease}}, 1).ok());
  const proto::SubmitGroupRequest& group = submitted_.at(1);
  EXPECT_EQ(group.policy_version(), 0u);
  EXPECT_EQ(group.adapter_fingerprint(), Blob(0)->manifest.fingerprint());
  EXPECT_EQ(group.completion(0).segment_size(), 0) << "all by the group's version";
  const proto::Completion& last = group.completion(2);
  ASSERT_EQ(last.token_id_size(), 3);
  ASSERT_EQ(last.segment_size(), 2);
  EXPECT_EQ(last.segment(0).policy_version(), 0u);
  EXPECT_EQ(last.segment(0).num_tokens(), 2);
  EXPECT_EQ(last.segment(1).policy_version(), 1u);
  EXPECT_EQ(last.segment(1).num_tokens(), 1);
  EXPECT_EQ(last.segment(1).adapter_fingerprint(), Blob(1)->manifest.fingerprint());
  EXPECT_EQ(last.logprob(2), -1.0f);
}

TEST_F(RolloutTest, BaseAndAdapterAreDifferentBatches) {
  published_ = 3;
  ASSERT_TRUE(Run({{Lease(1, "a", 3), Lease(2, "b", 3, /*adapter_off=*/true)}}, 2).ok());
  EXPECT_EQ(policy_.most_together, 1);
  EXPECT_EQ(submitted_.at(1).completion(0).logprob(0), -3.0f);
  EXPECT_EQ(submitted_.at(2).completion(0).logprob(0), 0.0f);
  EXPECT_FALSE(submitted_.at(2).has_adapter_fingerprint());
}

TEST_F(RolloutTest, APromptLongerThanTheContextIsATypedRefusalBesideTheOthers) {
  ASSERT_TRUE(Run({{Lease(1, "0123456789abcdef", 0), Lease(2, "ok", 0), Lease(3, "", 0)}}, 3).ok());
  const proto::SubmitGroupRequest& refused = submitted_.at(1);
  ASSERT_EQ(refused.completion_size(), 2);
  EXPECT_EQ(refused.completion(0).token_id_size(), 0);
  ASSERT_EQ(refused.completion(0).score_size(), 2);
  EXPECT_EQ(refused.completion(0).score(0).status(), proto::REFUSED_INPUT);
  EXPECT_FALSE(refused.completion(0).score(0).has_value());
  EXPECT_EQ(
      refused.completion(0).score(0).message(),
      "prompt p1 has 16 tokens, at most 12 fit (context 16 less generation.max_new_tokens 4)");
  EXPECT_EQ(submitted_.at(2).completion(0).score(0).status(), proto::SCORED);
  EXPECT_THAT(submitted_.at(3).completion(0).score(0).message(), HasSubstr("has no tokens"));
}

TEST_F(RolloutTest, AGroupIsSentAgainUntilTheLearnerAnswers) {
  num_failures_ = 2;
  ASSERT_TRUE(Run({{Lease(1, "a", 0)}}, 1).ok());
  EXPECT_EQ(submitted_.size(), 1u);
  EXPECT_EQ(num_failures_, 0);
}

TEST_F(RolloutTest, AnAdapterThatDoesNotFitEndsTheWorkWithItsSentence) {
  policy_.refused_version = 0;
  const absl::Status status = Run({{Lease(1, "a", 0)}}, 1);
  EXPECT_EQ(status.message(), "the adapter does not fit");
  EXPECT_EQ(progress_.Snapshot().last_error(), "the adapter does not fit");
}

TEST_F(RolloutTest, StopDuringAScoreHandsInNothing) {
  FakeScorerClient stopping([this](const proto::ScoreItem&) {
    rollout_->Stop();
    return proto::Score();
  });
  safety_.SetEndpoints({});
  config_.mutable_reward()->set_max_retries(0);
  proto::RegisterRequest registration;
  rounds_ = {{Lease(1, "a", 0)}};
  expected_ = 1;
  Membership membership(&client_, registration, absl::Seconds(60), {}, clock_);
  ASSERT_TRUE(membership.Register().ok());
  transport::AdapterReceiver adapters(
      &source_, &client_, [] { return std::string("actor-0#1"); }, absl::Milliseconds(1));
  Rollout rollout({&config_,
                   &policy_,
                   &client_,
                   &adapters,
                   &membership,
                   {{"safety", &stopping}},
                   &progress_,
                   absl::ZeroDuration()});
  rollout_ = &rollout;
  EXPECT_TRUE(rollout.Run().ok());
  EXPECT_TRUE(submitted_.empty());
}

TEST_F(RolloutTest, ProgressCountsTokensAndGroups) {
  ASSERT_TRUE(Run({{Lease(1, "abc", 0)}, {Lease(2, "xyz", 0)}}, 2).ok());
  const proto::MemberStatus status = progress_.Snapshot();
  EXPECT_EQ(status.num_tokens(), 6u);
  EXPECT_EQ(status.num_items(), 2u);
  EXPECT_EQ(status.policy_version(), 0u);
}

}  // namespace
}  // namespace wideberth::actor
