// SPDX-License-Identifier: Apache-2.0
// What an actor hands in: malformed groups are refused with a sentence, missing scores follow the
// run's rules and are never a zero.
#include "learner/screening.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "transport/message_limits.h"

namespace wideberth::learner {
namespace {

using ::testing::HasSubstr;

class ScreeningTest : public ::testing::Test {
 protected:
  ScreeningTest() {
    reward_.add_guard("safety");
    reward_.set_utility("helpful");
    group_.set_group_id(4);
    group_.add_prompt_token_id(5);
    for (int c = 0; c < 3; ++c) {
      proto::Completion* completion = group_.add_completion();
      completion->add_token_id(c);
      completion->add_logprob(-1.0f);
      for (const char* name : {"safety", "helpful"}) {
        proto::Score* score = completion->add_score();
        score->set_scorer_name(name);
        score->set_status(proto::SCORED);
        score->set_value(0.5);
      }
    }
  }
  void Lose(int completion, proto::ScoreStatus status) {
    proto::Score* score = group_.mutable_completion(completion)->mutable_score(0);
    score->set_status(status);
    score->clear_value();
  }
  Screening Look(int attempt = 0, Phase phase = Phase::kTrain) {
    return Screen(group_, reward_, phase, attempt);
  }
  proto::RewardConfig reward_;
  proto::SubmitGroupRequest group_;
};

TEST_F(ScreeningTest, MalformedGroupsGetOneSentence) {
  const std::pair<std::function<void(proto::SubmitGroupRequest&)>, const char*> cases[] = {
      {[](auto& g) { g.mutable_completion()->RemoveLast(); }, "it has 2 completions, expected 3"},
      {[](auto& g) { g.clear_prompt_token_id(); }, "its prompt has no tokens"},
      {[](auto& g) { g.set_prompt_token_id(0, 10); }, "its prompt has token 10, must be below 10"},
      {[](auto& g) { g.mutable_completion(1)->add_token_id(1); },
       "completion 1 has 1 log-probs for 2"},
      {[](auto& g) { g.mutable_completion(2)->set_token_id(0, -1); }, "completion 2 has token -1"},
      {[](auto& g) { g.mutable_completion(0)->set_logprob(0, 0.5f); }, "has log-prob 0.5"},
      {[](auto& g) {
         g.mutable_completion(0)->set_logprob(0, std::numeric_limits<float>::quiet_NaN());
       },
       "has log-prob nan"},
      {[](auto& g) { g.mutable_completion(1)->mutable_score(0)->clear_value(); },
       "completion 1: score of safety is SCORED without a value"},
      {[](auto& g) { g.mutable_completion(1)->mutable_score(1)->set_status(proto::TIMED_OUT); },
       "score of helpful is TIMED_OUT with value 0.5"},
      {[](auto& g) { g.mutable_completion(1)->clear_token_id(); }, "completion 1 has no tokens"},
      {[](auto& g) { g.mutable_completion(1)->mutable_score(0)->clear_status(); },
       "score of safety has no known status"},
      {[](auto& g) {
         g.mutable_completion(1)->mutable_score(0)->set_latency_ms(
             std::numeric_limits<double>::infinity());
       },
       "a latency of inf"},
      {[](auto& g) {
         g.mutable_completion(1)->mutable_score(0)->set_scorer_name(
             std::string(transport::kMaxIdBytes + 1, 'x'));
       },
       "a name or fingerprint of 257 bytes"},
      {[](auto& g) {
         for (int i = 0; i < transport::kMaxScores; ++i)
           *g.mutable_completion(1)->add_score() = g.completion(0).score(0);
       },
       "completion 1 has 258 scores"},
      {[](auto& g) { g.set_generate_seconds(std::numeric_limits<double>::quiet_NaN()); },
       "it took nan s"},
      {[](auto& g) { g.set_score_seconds(-1); }, "it took -1 s"},
  };
  EXPECT_TRUE(CheckWellFormed(group_, 3, 10).ok());
  for (const auto& [spoil, sentence] : cases) {
    proto::SubmitGroupRequest bad = group_;
    spoil(bad);
    EXPECT_THAT(std::string(CheckWellFormed(bad, 3, 10).message()), HasSubstr(sentence));
  }
}

TEST_F(ScreeningTest, SegmentsCoverTheTokensAndTheirVersionsGrow) {
  group_.set_policy_version(4);
  proto::Completion* const completion = group_.mutable_completion(1);
  for (int i = 0; i < 4; ++i) {
    completion->add_token_id(i);
    completion->add_logprob(-1.0f);
  }
  const auto refusal = [&](const std::vector<std::pair<uint64_t, int>>& segments) {
    completion->clear_segment();
    for (const auto& [version, num_tokens] : segments) {
      proto::Segment* const segment = completion->add_segment();
      segment->set_policy_version(version);
      segment->set_num_tokens(num_tokens);
    }
    return std::string(CheckWellFormed(group_, 3, 10).message());
  };
  EXPECT_EQ(refusal({{4, 5}}), "");
  EXPECT_EQ(refusal({{4, 2}, {5, 2}, {9, 1}}), "");
  EXPECT_THAT(refusal({{4, 2}, {5, 2}}), HasSubstr("has segments of 4 tokens, expected 5"));
  EXPECT_THAT(refusal({{4, 2}, {5, 4}}), HasSubstr("has segments of 6 tokens, expected 5"));
  EXPECT_THAT(refusal({{4, 5}, {5, 0}}), HasSubstr("a segment of 0 tokens"));
  EXPECT_THAT(refusal({{4, 7}, {5, -2}}), HasSubstr("a segment of -2 tokens"));
  EXPECT_THAT(refusal({{5, 2}, {5, 3}}), HasSubstr("by version 5 after version 5"));
  EXPECT_THAT(refusal({{5, 2}, {4, 3}}), HasSubstr("by version 4 after version 5"));
  EXPECT_THAT(refusal({{3, 5}}), HasSubstr("versions must grow from 4"));
}

TEST_F(ScreeningTest, APromptThatWasRefusedIsNoMalformedGroupButDropped) {
  group_.clear_prompt_token_id();
  for (proto::Completion& completion : *group_.mutable_completion()) {
    completion.clear_token_id();
    completion.clear_logprob();
    for (proto::Score& score : *completion.mutable_score()) {
      score.set_status(proto::REFUSED_INPUT);
      score.clear_value();
    }
  }
  EXPECT_TRUE(CheckWellFormed(group_, 3, 10).ok());
  EXPECT_EQ(Look().disposition, Disposition::kDrop);
  EXPECT_EQ(Look(0, Phase::kEvaluateAfter).disposition, Disposition::kUse);
}

TEST_F(ScreeningTest, CompleteGroupsAreUsed) {
  EXPECT_EQ(Look().disposition, Disposition::kUse);
  EXPECT_EQ(Look().num_usable, 3);
  EXPECT_EQ(Look().reason, "");
}

TEST_F(ScreeningTest, RetryUntilTheLastAttemptThenWithoutTheCompletion) {
  Lose(1, proto::TIMED_OUT);
  reward_.set_max_retries(2);
  EXPECT_EQ(Look(0).disposition, Disposition::kRetry);
  EXPECT_EQ(Look(1).disposition, Disposition::kRetry);
  EXPECT_THAT(Look(1).reason, HasSubstr("scorer safety answered TIMED_OUT for completion 1"));
  EXPECT_EQ(Look(2).disposition, Disposition::kUse);
  EXPECT_EQ(Look(2).num_usable, 2);
  EXPECT_EQ(Look(2).missing[proto::TIMED_OUT], 1);
  Lose(0, proto::TIMED_OUT);  // One completion alone has no advantage.
  EXPECT_EQ(Look(2).disposition, Disposition::kDrop);
}

TEST_F(ScreeningTest, EachTypeHasItsRule) {
  reward_.set_on_overloaded(proto::RewardConfig::DROP_GROUP);
  reward_.set_on_model_error(proto::RewardConfig::DROP_COMPLETION);
  Lose(0, proto::MODEL_ERROR);
  EXPECT_EQ(Look().disposition, Disposition::kUse);
  Lose(1, proto::TIMED_OUT);
  EXPECT_EQ(Look().disposition, Disposition::kRetry);
  Lose(2, proto::OVERLOADED);  // Dropping outweighs trying again.
  EXPECT_EQ(Look().disposition, Disposition::kDrop);
  EXPECT_THAT(Look().reason, HasSubstr("OVERLOADED for completion 2"));
}

TEST_F(ScreeningTest, AScoreThatWasNotSentIsMissingToo) {
  group_.mutable_completion(0)->mutable_score()->RemoveLast();
  EXPECT_EQ(Look().missing[proto::MODEL_ERROR], 1);
  EXPECT_EQ(Look().disposition, Disposition::kRetry);
}

TEST_F(ScreeningTest, OnlyScoresTheRewardNeedsDecide) {
  Lose(0, proto::TIMED_OUT);
  reward_.set_form(proto::RewardConfig::U_ONLY);
  EXPECT_EQ(Look().disposition, Disposition::kUse);
}

}  // namespace
}  // namespace wideberth::learner
