// SPDX-License-Identifier: Apache-2.0
#include "actor/scoring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "tests/testing/fake_wire.h"
#include "transport/message_limits.h"

namespace wideberth::actor {
namespace {

using ::testing::ElementsAre;
using testing::FakeScorerClient;

std::vector<proto::ScoreItem> Items(int n) {
  std::vector<proto::ScoreItem> items(n);
  for (int i = 0; i < n; ++i) items[i].set_completion(std::to_string(i));
  return items;
}

proto::Score Missing(proto::ScoreStatus status) {
  proto::Score score;
  score.set_status(status);
  return score;
}

ScoringOptions Options() {
  ScoringOptions options;
  options.reward.set_max_retries(2);
  return options;
}

TEST(ScoreItemsTest, EveryScorerAnswersEveryItemInOrder) {
  FakeScorerClient safety([](const proto::ScoreItem& item) {
    return FakeScorerClient::Scored("?", std::stod(item.completion()));
  });
  FakeScorerClient help([](const proto::ScoreItem& item) {
    return FakeScorerClient::Scored("?", -std::stod(item.completion()));
  });
  const auto scores =
      ScoreItems({{"safety", &safety}, {"helpfulness", &help}}, Items(3), Options());
  ASSERT_EQ(scores.size(), 2u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(scores[0][i].scorer_name(), "safety");
    EXPECT_EQ(scores[0][i].value(), i);
    EXPECT_EQ(scores[1][i].scorer_name(), "helpfulness");
    EXPECT_EQ(scores[1][i].value(), -i);
  }
}

TEST(ScoreItemsTest, RetriesOnlyWhatTheRuleSaysAndOnlyTheItemsConcerned) {
  std::map<std::string, int> asked;
  FakeScorerClient scorer([&](const proto::ScoreItem& item) {
    const int before = asked[item.completion()]++;
    if (item.completion() == "1" && before == 0)
      return Missing(proto::OVERLOADED);  // RETRY by default.
    if (item.completion() == "2")
      return Missing(proto::REFUSED_INPUT);  // DROP_COMPLETION by default.
    if (item.completion() == "3") return Missing(proto::TIMED_OUT);
    return FakeScorerClient::Scored("s", 0.5);
  });
  const auto scores = ScoreItems({{"s", &scorer}}, Items(4), Options());
  EXPECT_EQ(scores[0][0].status(), proto::SCORED);
  EXPECT_EQ(scores[0][1].status(), proto::SCORED);
  EXPECT_EQ(scores[0][2].status(), proto::REFUSED_INPUT);
  EXPECT_EQ(scores[0][3].status(), proto::TIMED_OUT);
  EXPECT_EQ(asked["0"], 1);
  EXPECT_EQ(asked["1"], 2);
  EXPECT_EQ(asked["2"], 1);
  EXPECT_EQ(asked["3"], 3);
}

TEST(ScoreItemsTest, AMissingScoreIsNeverAValue) {
  FakeScorerClient scorer([](const proto::ScoreItem& item) {
    proto::Score score;  // SCORED by default, without a value.
    if (item.completion() == "1") {
      score.set_status(proto::MODEL_ERROR);
      score.set_value(0);
    }
    return score;
  });
  const auto scores = ScoreItems({{"s", &scorer}}, Items(2), Options());
  EXPECT_EQ(scores[0][0].status(), proto::MALFORMED_OUTPUT);
  EXPECT_FALSE(scores[0][0].has_value());
  EXPECT_EQ(scores[0][1].status(), proto::MODEL_ERROR);
  EXPECT_FALSE(scores[0][1].has_value());
}

TEST(ScoreItemsTest, WhatIsNoNumberIsNoScoreAndRemarksAreKeptShort) {
  FakeScorerClient scorer([](const proto::ScoreItem& item) {
    proto::Score score = FakeScorerClient::Scored(
        "s", item.completion() == "0" ? std::nan("") : std::numeric_limits<double>::infinity());
    if (item.completion() == "2") score = FakeScorerClient::Scored("s", 0.5);
    if (item.completion() == "3") score.clear_status();  // As a status this program does not know.
    if (item.completion() == "2") score.set_message(std::string(1 << 20, 'x'));
    return score;
  });
  const auto scores = ScoreItems({{"s", &scorer}}, Items(4), Options());
  for (const int i : {0, 1, 3}) {
    EXPECT_EQ(scores[0][i].status(), proto::MALFORMED_OUTPUT) << i;
    EXPECT_FALSE(scores[0][i].has_value()) << i;
  }
  EXPECT_EQ(scores[0][2].status(), proto::SCORED);
  EXPECT_EQ(scores[0][2].message().size(), transport::kMaxSentenceBytes);
}

TEST(ScoreItemsTest, WaitsLongerBetweenAttemptsAndStopsWhenToldTo) {
  FakeScorerClient scorer([](const proto::ScoreItem&) { return Missing(proto::MODEL_ERROR); });
  std::vector<absl::Duration> waits;
  ScoringOptions options = Options();
  options.reward.set_max_retries(9);
  options.first_backoff = absl::Seconds(3);
  options.wait = [&](absl::Duration how_long) {
    waits.push_back(how_long);
    return waits.size() < 4;
  };
  ScoreItems({{"s", &scorer}}, Items(1), options);
  EXPECT_THAT(
      waits, ElementsAre(absl::Seconds(3), absl::Seconds(6), absl::Seconds(10), absl::Seconds(10)));
}

TEST(ScoreItemsTest, DoesNotRetryPastTheLease) {
  int asked = 0;
  FakeScorerClient scorer([&](const proto::ScoreItem&) {
    ++asked;
    return Missing(proto::MODEL_ERROR);
  });
  ScoringOptions options = Options();
  options.retry_until = absl::InfinitePast();
  ScoreItems({{"s", &scorer}}, Items(1), options);
  EXPECT_EQ(asked, 1);
}

TEST(ScoreItemsTest, NoItemsNeedNoScorer) {
  FakeScorerClient scorer([](const proto::ScoreItem&) -> proto::Score {
    ADD_FAILURE();
    return {};
  });
  EXPECT_TRUE(ScoreItems({{"s", &scorer}}, {}, Options())[0].empty());
}

}  // namespace
}  // namespace wideberth::actor
