// SPDX-License-Identifier: Apache-2.0
// A judge behind HTTP from conversations to typed scores: grades, failures of every kind, several
// samples, the memory that outlives it.
#include "scorer/http_judge_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "base/file.h"
#include "base/text_proto.h"
#include "tests/scorer/fake_scoring_model.h"
#include "tests/testing/paths.h"
#include "tests/transport/chat_server.h"

namespace wideberth::scorer {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using wideberth::testing::ChatServer;
using wideberth::testing::Completion;

class HttpJudgeModelTest : public ::testing::Test {
 protected:
  void Serve(ChatServer::Reply last) { Serve({}, std::move(last)); }
  void Serve(std::vector<ChatServer::Reply> replies, ChatServer::Reply last) {
    model_.reset();
    server_ = std::make_unique<ChatServer>(std::move(replies), std::move(last));
  }
  void Make(const std::string& fields = "", const std::string& more = "") {
    proto::ScorerConfig config;
    config.mutable_http()->set_base_url(server_->url());
    for (const std::string& part :
         {std::string("name: 'gpt' kind: HTTP_JUDGE http { model: 'gpt-4.1' max_retries: 2 } "
                      "judge { rubric: 'Q: {prompt}\\nA: {completion}\\nEnd with Grade: N.' }"),
          fields, more}) {
      const absl::Status merged = MergeTextProto(part, "test", &config);
      ASSERT_TRUE(merged.ok()) << merged;
    }
    transport::ChatWaiting waiting;
    waiting.clock = &clock_;
    waiting.sleep = [this](absl::Duration by) { clock_.Advance(by); };
    auto model = HttpJudgeModel::Create(config, options_, waiting);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
  }
  std::vector<proto::Score> Score(const std::vector<std::string>& completions) {
    std::vector<PreparedItem> items;
    for (const std::string& completion : completions)
      items.push_back(model_->Prepare(MakeItem("How?", completion)));
    return model_->ScoreBatch(items);
  }
  proto::Score ScoreOf(const std::string& completion) { return Score({completion}).at(0); }
  // A failure is never a value.
  void ExpectFailure(proto::ScoreStatus status, const std::string& message) {
    const proto::Score score = ScoreOf("So.");
    EXPECT_EQ(score.status(), status) << score.message();
    EXPECT_FALSE(score.has_value());
    EXPECT_THAT(score.message(), HasSubstr(message));
  }

  FakeClock clock_;
  ScoringOptions options_;
  std::unique_ptr<ChatServer> server_;
  std::unique_ptr<HttpJudgeModel> model_;
};

TEST_F(HttpJudgeModelTest, PutsTheRubricAndReadsTheGrade) {
  Serve(ChatServer::Says(Completion("It explains much.\n**Grade: 3**")));
  Make("http { dollars_per_million_prompt_tokens: 2 dollars_per_million_completion_tokens: 8 }");
  const proto::Score score = ScoreOf("So {prompt}.");
  ASSERT_EQ(score.status(), proto::SCORED) << score.message();
  EXPECT_EQ(score.value(), 3);
  EXPECT_EQ(score.scorer_name(), "gpt");
  const auto body = nlohmann::json::parse(server_->requests().at(0).body);
  EXPECT_EQ(body["messages"][0]["content"], "Q: How?\nA: So {prompt}.\nEnd with Grade: N.");
  EXPECT_EQ(body["max_tokens"], 256);
  EXPECT_EQ(model_->generation().num_answers, 1);
  EXPECT_EQ(model_->generation().num_tokens, 100);
  EXPECT_NEAR(model_->generation().dollars, 0.0028, 1e-12);
}

TEST_F(HttpJudgeModelTest, AnAnswerWithoutAGradeIsMalformed) {
  const std::string expected = "expected \"Grade:\" and a whole number from 0 to 3";
  for (const char* text : {"", "I would rather not say.", "Grade: 4", "Grade: -1", "Grade: 2.5"}) {
    Serve(ChatServer::Says(Completion(text)));
    Make();
    ExpectFailure(proto::MALFORMED_OUTPUT, text);
    ExpectFailure(proto::MALFORMED_OUTPUT, expected);
    EXPECT_EQ(model_->generation().num_unreadable, 2) << "failures are not remembered";
    EXPECT_EQ(server_->requests().size(), 2u);
  }
  Serve(ChatServer::Says(Completion("As for the Grade: 1", "length")));
  Make();
  ExpectFailure(proto::MALFORMED_OUTPUT, "where max_new_tokens cut it off");
}

TEST_F(HttpJudgeModelTest, EveryOtherFailureHasItsType) {
  const auto expect = [&](ChatServer::Reply reply, proto::ScoreStatus status,
                          const std::string& message, size_t num_requests) {
    Serve(std::move(reply));
    Make("http { request_timeout: 0.05 }");
    ExpectFailure(status, message);
    EXPECT_EQ(server_->requests().size(), num_requests) << message;
  };
  expect(ChatServer::Says("", 429), proto::OVERLOADED, "status 429", 3);
  expect(ChatServer::Says("", 502), proto::OVERLOADED, "status 502", 3);
  expect(ChatServer::HangsUp(), proto::OVERLOADED, "the connection failed", 3);
  expect(ChatServer::Stalls(), proto::TIMED_OUT, "no whole answer within 50ms", 3);
  expect(ChatServer::Says("", 400), proto::MODEL_ERROR, "status 400", 1);
  expect(ChatServer::Says("", 401), proto::MODEL_ERROR, "it does not accept the key", 1);
  expect(ChatServer::Says("hello"), proto::MODEL_ERROR, "no JSON", 1);
}

TEST_F(HttpJudgeModelTest, TheScoreIsTheMeanOfTheGradesThatCouldBeRead) {
  Serve({ChatServer::Says(Completion("Grade: 1")), ChatServer::Says(Completion("Hm."))},
        ChatServer::Says(Completion("Grade: 2")));
  Make("judge { num_samples: 4 temperature: 1 } http { max_concurrent: 1 }");
  EXPECT_NEAR(ScoreOf("So.").value(), 5.0 / 3, 1e-12);
  // The grades are known now, the answer without one is asked for again.
  EXPECT_DOUBLE_EQ(ScoreOf("So.").value(), 7.0 / 4);
  EXPECT_EQ(server_->requests().size(), 5u);
  EXPECT_EQ(model_->generation().num_remembered, 3);
  Serve(ChatServer::Says(Completion("Hm.")));
  Make("judge { num_samples: 2 temperature: 1 }");
  ExpectFailure(proto::MALFORMED_OUTPUT, "none of 2 answers can be read; the first one: ");
}

TEST_F(HttpJudgeModelTest, OneFailureHarmsNoOtherItem) {
  Serve({ChatServer::Says(Completion("Grade: 1")), ChatServer::Says("", 400)},
        ChatServer::Says(Completion("Grade: 0")));
  Make("http { max_concurrent: 1 }");
  const auto scores = Score({"a", "b", "c"});
  EXPECT_EQ(scores[0].value(), 1);
  EXPECT_EQ(scores[1].status(), proto::MODEL_ERROR);
  EXPECT_EQ(scores[2].value(), 0);
}

TEST_F(HttpJudgeModelTest, AsksNoMoreThanMaxConcurrentAtOnce) {
  Serve(ChatServer::Says(Completion("Grade: 1")));
  Make("http { max_concurrent: 3 }");
  std::vector<std::string> completions;
  for (int i = 0; i < 40; ++i) completions.push_back(absl::StrCat("answer ", i));
  for (const proto::Score& score : Score(completions)) EXPECT_EQ(score.value(), 1);
  EXPECT_EQ(server_->requests().size(), 40u);
  EXPECT_LE(server_->most_at_once(), 3);
}

TEST_F(HttpJudgeModelTest, AnInterruptedBatchEndsAndItsItemsMayGoElsewhere) {
  Serve(ChatServer::Stalls());
  Make("http { request_timeout: 3600 max_concurrent: 2 }");
  std::vector<proto::Score> scores;
  std::thread device([&] { scores = Score({"a", "b", "c"}); });
  while (server_->requests().size() < 2) std::this_thread::yield();
  model_->Interrupt();
  device.join();
  ASSERT_EQ(scores.size(), 3);
  for (const proto::Score& score : scores) EXPECT_EQ(score.status(), proto::OVERLOADED);
  EXPECT_EQ(server_->requests().size(), 2);
}

TEST_F(HttpJudgeModelTest, ASpentBudgetIsSaid) {
  Serve(ChatServer::Says(Completion("Grade: 1")));
  Make("http { max_dollars: 0.001 dollars_per_million_prompt_tokens: 2 }");
  EXPECT_EQ(ScoreOf("a").value(), 1);
  ExpectFailure(proto::MODEL_ERROR, "http.max_dollars is 0.001 and spent");
  EXPECT_EQ(ScoreOf("a").value(), 1) << "what is known costs nothing";
  EXPECT_EQ(server_->requests().size(), 1u);
}

TEST_F(HttpJudgeModelTest, AnEmptyAnswerIsGradedAndAnEmptyPromptRefused) {
  Serve(ChatServer::Says(Completion("Grade: 0")));
  Make();
  EXPECT_EQ(ScoreOf(" ").value(), 0);
  EXPECT_THAT(server_->requests().at(0).body, HasSubstr("A: (The assistant said nothing.)"));
  const PreparedItem empty = model_->Prepare(MakeItem(" ", "c"));
  EXPECT_EQ(empty.refusal, "the prompt is empty");
  EXPECT_EQ(model_->ScoreBatch({empty})[0].status(), proto::REFUSED_INPUT);
}

TEST_F(HttpJudgeModelTest, AnswersOutliveTheProcessAndABrokenLineDoesNot) {
  testing::TempDir folder;
  const std::string path = folder.Join("cache/answers.jsonl");
  const std::string cache = absl::StrCat("http { cache_path: '", path, "' key_env: 'NO_KEY' } ");
  ::setenv("NO_KEY", "sk-secret", 1);
  Serve(ChatServer::Says(Completion("Grade: 2")));
  Make(cache);
  EXPECT_EQ(ScoreOf("a").value(), 2);
  EXPECT_EQ(ScoreOf("b").value(), 2);
  std::string text = *ReadFile(path);
  EXPECT_THAT(text, Not(HasSubstr("sk-secret")));
  // A crash leaves the second line cut off.
  ASSERT_TRUE(WriteFileAtomically(path, absl::string_view(text).substr(0, text.size() - 5)).ok());
  Make(cache);
  EXPECT_EQ(ScoreOf("a").value(), 2);
  EXPECT_EQ(server_->requests().size(), 2u);
  EXPECT_EQ(model_->generation().num_remembered, 1);
  EXPECT_EQ(ScoreOf("b").value(), 2);
  EXPECT_EQ(server_->requests().size(), 3u);
  // What was added behind the broken line is found, under these settings alone.
  Make(cache);
  EXPECT_EQ(ScoreOf("b").value(), 2);
  EXPECT_EQ(server_->requests().size(), 3u);
  for (const char* other : {"judge { max_new_tokens: 9 }", "http { model: 'gpt-5' }",
                            "judge { rubric: '{completion}?' }"}) {
    Make(cache, other);
    const size_t before = server_->requests().size();
    EXPECT_EQ(ScoreOf("b").value(), 2);
    EXPECT_EQ(server_->requests().size(), before + 1) << other;
  }
}

TEST_F(HttpJudgeModelTest, WhereTextsAreRedactedGradesAloneAreRemembered) {
  testing::TempDir folder;
  const std::string path = folder.Join("answers.jsonl");
  const std::string cache = absl::StrCat("http { cache_path: '", path, "' }");
  options_.redact_text = true;
  Serve(ChatServer::Says(Completion("You wrote \"burn it\", so Grade: 2, I think.")));
  Make(cache);
  EXPECT_EQ(ScoreOf("burn it").value(), 2);
  EXPECT_THAT(*ReadFile(path), HasSubstr("\"Grade: 2\""));
  EXPECT_THAT(*ReadFile(path), Not(HasSubstr("burn")));
  Make(cache);
  EXPECT_EQ(ScoreOf("burn it").value(), 2);
  EXPECT_EQ(server_->requests().size(), 1u);
}

TEST_F(HttpJudgeModelTest, TheIdentityCoversWhomItAsksAndHowItReads) {
  Serve(ChatServer::Says(Completion("Grade: 2")));
  Make();
  const ScorerIdentity first = model_->identity();
  Make("http { model: 'gpt-5' }");
  EXPECT_NE(model_->identity().model_fingerprint, first.model_fingerprint);
  EXPECT_EQ(model_->identity().template_hash, first.template_hash);
  for (const char* other :
       {"judge { high: 4 }", "judge { label: 'Mark:' }", "judge { rubric: '{completion}' }"}) {
    Make(other);
    EXPECT_NE(model_->identity().template_hash, first.template_hash) << other;
  }
}

}  // namespace
}  // namespace wideberth::scorer
