// SPDX-License-Identifier: Apache-2.0
// Scorers that do what a test says, and what every item's result must look like.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "transport/scorer_client.h"
#include "transport/scorer_service.h"

namespace wideberth::transport {

// Each item's score is the length of its completion.
inline proto::ScoreResponse LengthsOf(const proto::ScoreRequest& request) {
  proto::ScoreResponse response;
  for (const proto::ScoreItem& item : request.item()) {
    proto::Score* score = response.add_score();
    score->set_status(proto::SCORED);
    score->set_value(static_cast<double>(item.completion().size()));
  }
  return response;
}

class FunctionScorer final : public ScoreHandler {
 public:
  using Function = std::function<void(const proto::ScoreRequest&, Done)>;
  explicit FunctionScorer(Function function) : function_(std::move(function)) {}
  void Score(proto::ScoreRequest request, Done done, Gone) override {
    function_(request, std::move(done));
  }

 private:
  const Function function_;
};

inline void AnswerLengths(const proto::ScoreRequest& request, FunctionScorer::Done done) {
  done(LengthsOf(request));
}

inline std::unique_ptr<ScorerServer> Serve(ScoreHandler* handler) {
  auto server = ScorerServer::Start("127.0.0.1:0", handler);
  EXPECT_TRUE(server.ok()) << server.status();
  return *std::move(server);
}

inline std::vector<proto::ScoreItem> Items(int count) {
  std::vector<proto::ScoreItem> items(count);
  for (int i = 0; i < count; ++i) items[i].set_completion(std::string(i, 'x'));
  return items;
}

inline ScorerClient::Options Quick() {
  ScorerClient::Options options;
  options.first_backoff = absl::Milliseconds(1);
  options.max_backoff = absl::Milliseconds(10);
  return options;
}

inline void ExpectLengths(const std::vector<proto::Score>& scores, size_t count) {
  ASSERT_EQ(scores.size(), count);
  for (size_t i = 0; i < count; ++i) {
    ASSERT_EQ(scores[i].status(), proto::SCORED) << scores[i].message();
    EXPECT_EQ(scores[i].value(), static_cast<double>(i));
    EXPECT_EQ(scores[i].scorer_name(), "safety");
  }
}

inline void ExpectAll(const std::vector<proto::Score>& scores, size_t count,
                      proto::ScoreStatus status, const std::string& sentence) {
  ASSERT_EQ(scores.size(), count);
  for (const proto::Score& score : scores) {
    EXPECT_EQ(score.status(), status) << score.message();
    EXPECT_FALSE(score.has_value());
    EXPECT_EQ(score.scorer_name(), "safety");
    EXPECT_THAT(score.message(), ::testing::AllOf(::testing::HasSubstr("scorer safety"),
                                                  ::testing::HasSubstr(sentence)));
  }
}

}  // namespace wideberth::transport
