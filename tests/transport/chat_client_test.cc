// SPDX-License-Identifier: Apache-2.0
// The chat client against a server that misbehaves: what is tried again, how long it waits, what is
// given up at once, and what a failure says.
#include "transport/chat_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/text_proto.h"
#include "tests/testing/paths.h"
#include "tests/transport/chat_server.h"

namespace wideberth::transport {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using wideberth::testing::ChatServer;
using wideberth::testing::Completion;

constexpr char kKey[] = "sk-secret-42";

class ChatClientTest : public ::testing::Test {
 protected:
  ChatClientTest() { ::setenv("WIDEBERTH_TEST_KEY", kKey, 1); }

  void Serve(ChatServer::Reply last) { Serve({}, std::move(last)); }
  void Serve(std::vector<ChatServer::Reply> replies, ChatServer::Reply last) {
    client_.reset();
    server_ = std::make_unique<ChatServer>(std::move(replies), std::move(last));
  }
  // Sleeps move the clock; the jitter is its longest but a hair.
  void Connect(const std::string& url, const std::string& fields = "") {
    proto::HttpConfig config;
    config.set_base_url(url);
    const absl::Status merged = MergeTextProto(
        "model: 'judge-1' key_env: 'WIDEBERTH_TEST_KEY' max_retries: 3", "test", &config);
    ASSERT_TRUE(merged.ok()) << merged;
    ASSERT_TRUE(MergeTextProto(fields, "test", &config).ok());
    ChatWaiting waiting;
    waiting.clock = &clock_;
    waiting.sleep = [this](absl::Duration by) {
      waits_.push_back(absl::ToDoubleSeconds(by));
      clock_.Advance(by);
    };
    waiting.jitter = [] { return 1.0; };
    auto client = ChatClient::Create(config, waiting);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }
  absl::StatusOr<ChatAnswer> Ask(absl::Duration patience = absl::Seconds(600)) {
    return client_->Ask({"How \"bad\" is it?", 0.5, 77}, clock_.Now() + patience);
  }
  // The message of a failure of this kind.
  std::string Failure(absl::StatusCode code, absl::Duration patience = absl::Seconds(600)) {
    const absl::StatusOr<ChatAnswer> answer = Ask(patience);
    EXPECT_EQ(answer.status().code(), code) << answer.status();
    EXPECT_THAT(std::string(answer.status().message()), Not(HasSubstr(kKey)));
    return std::string(answer.status().message());
  }

  FakeClock clock_;
  std::vector<double> waits_;
  std::unique_ptr<ChatServer> server_;
  std::unique_ptr<ChatClient> client_;
};

TEST_F(ChatClientTest, AsksAndCounts) {
  Serve(ChatServer::Says(Completion("Grade: 2", "length")));
  Connect(server_->url() + "/",
          "dollars_per_million_prompt_tokens: 2 dollars_per_million_completion_tokens: 8");
  const auto answer = Ask();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->text, "Grade: 2");
  EXPECT_TRUE(answer->truncated);
  EXPECT_EQ(answer->prompt_tokens, 1000);
  const httplib::Request request = server_->requests().at(0);
  EXPECT_EQ(request.get_header_value("Authorization"), std::string("Bearer ") + kKey);
  EXPECT_EQ(request.get_header_value("Content-Type"), "application/json");
  EXPECT_EQ(nlohmann::json::parse(request.body),
            nlohmann::json({{"model", "judge-1"},
                            {"messages", {{{"role", "user"}, {"content", "How \"bad\" is it?"}}}},
                            {"temperature", 0.5},
                            {"max_tokens", 77}}));
  EXPECT_DOUBLE_EQ(client_->stats().dollars, (1000 * 2 + 100 * 8) / 1e6);
  EXPECT_EQ(client_->stats().num_requests, 1);
  EXPECT_TRUE(waits_.empty());
}

TEST_F(ChatClientTest, BacksOffFrom429AndHonoursRetryAfter) {
  Serve({ChatServer::Says("{}", 429), ChatServer::RetryAfter("7"),
         ChatServer::RetryAfter("Thu, 01 Jan 1970 00:01:00 GMT")},
        ChatServer::Says(Completion("fine")));
  Connect(server_->url());
  const auto answer = Ask();
  ASSERT_TRUE(answer.ok()) << answer.status();
  // 0.5 s by itself, then what the server says; the date is 60 s after the clock's beginning.
  EXPECT_THAT(waits_, ElementsAre(0.5, 7, 60 - 7.5));
  EXPECT_EQ(client_->stats().num_retries, 3);
}

TEST_F(ChatClientTest, BackoffDoublesAndIsJittered) {
  Serve({ChatServer::Says("oops", 500), ChatServer::Says("oops", 503)},
        ChatServer::Says(Completion("fine")));
  Connect(server_->url());
  ASSERT_TRUE(Ask().ok());
  EXPECT_THAT(waits_, ElementsAre(0.5, 1));
}

TEST_F(ChatClientTest, GivesUpAfterMaxRetries) {
  Serve(ChatServer::Says("{\"error\": \"no room for sk-secret-42\"}", 503));
  Connect(server_->url());
  EXPECT_EQ(Failure(absl::StatusCode::kUnavailable),
            absl::StrCat(server_->url(),
                         ", asked 4 times: answered with status 503: "
                         "\"{\"error\": \"no room for ***\"}\""));
  EXPECT_EQ(server_->requests().size(), 4u);
}

TEST_F(ChatClientTest, TriesABrokenConnectionAgain) {
  Serve({ChatServer::HangsUp()}, ChatServer::Says(Completion("fine")));
  Connect(server_->url());
  const auto answer = Ask();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->text, "fine");
  EXPECT_EQ(server_->requests().size(), 2u);
  Connect("http://127.0.0.1:1/v1");
  EXPECT_THAT(Failure(absl::StatusCode::kUnavailable),
              HasSubstr("asked 4 times: the connection failed"));
}

TEST_F(ChatClientTest, AServerThatStallsTimesOut) {
  Serve(ChatServer::Stalls());
  Connect(server_->url(), "request_timeout: 0.05 max_retries: 1");
  EXPECT_EQ(Failure(absl::StatusCode::kDeadlineExceeded),
            absl::StrCat(server_->url(), ", asked 2 times: no whole answer within 50ms"));
}

TEST_F(ChatClientTest, WhatWouldFailAgainIsNotTriedAgain) {
  for (const int status : {400, 401, 403, 404}) {
    Serve(ChatServer::Says("your key is sk-secret-42", status));
    Connect(server_->url());
    EXPECT_THAT(Failure(absl::StatusCode::kFailedPrecondition),
                HasSubstr(absl::StrCat("answered with status ", status)));
    EXPECT_EQ(server_->requests().size(), 1u) << status;
  }
}

TEST_F(ChatClientTest, ARedirectIsNotFollowed) {
  ChatServer elsewhere(ChatServer::Says(Completion("stolen")));
  Serve([&](ChatServer&, httplib::Response& response) {
    response.set_redirect(elsewhere.url() + "/chat/completions", 307);
  });
  Connect(server_->url());
  EXPECT_THAT(Failure(absl::StatusCode::kFailedPrecondition),
              HasSubstr("status 307, a redirect, expected http.base_url to be the last address"));
  EXPECT_TRUE(elsewhere.requests().empty());
}

TEST_F(ChatClientTest, AnAnswerThatIsNoChatCompletionIsSaid) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"<html>busy</html>",
       "answered something that is no JSON, expected a chat completion: "
       "\"<html>busy</html>\""},
      {"{\"choices\": [{\"message\": {\"content\": \"\xC3\"}}]}", "is no JSON"},
      {"{\"choices\": [{\"message\": {\"content\": \"\\ud83d\"}}]}", "is no JSON"},
      {absl::StrCat("{\"choices\": [", std::string(500'000, '['), std::string(500'000, ']'), "]}"),
       "is no JSON"},
      {"[1]", "JSON without choices[0].message.content: \"[1]\""},
      {"{\"choices\": []}", "JSON without choices[0].message.content"},
      {"{\"choices\": [[]]}", "JSON without choices[0].message.content"},
      {"{\"choices\": \"0\"}", "JSON without choices[0].message.content"},
      {"{\"error\": {\"message\": \"sk-secret-42 is over\"}}", "*** is over"},
      {"{\"choices\": [{\"message\": {\"content\": 3}}]}", "without choices[0].message.content"},
      {std::string((1 << 20) + 1, ' '), "answered more than 1 MiB, expected a chat completion"}};
  for (const auto& [body, expected] : cases) {
    Serve(ChatServer::Says(body));
    Connect(server_->url());
    EXPECT_THAT(Failure(absl::StatusCode::kInternal), HasSubstr(expected));
    EXPECT_EQ(server_->requests().size(), 1u) << expected;
  }
}

TEST_F(ChatClientTest, AnotherContentTypeAndMissingUsageDoNotMatter) {
  Serve(
      ChatServer::Says("{\"choices\": [{\"message\": {\"content\": \"12345678\"}}], \"usage\": []}",
                       200, "text/html"));
  Connect(server_->url());
  const auto answer = Ask();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->text, "12345678");
  EXPECT_EQ(answer->completion_tokens, 2);
  Serve(ChatServer::Says("{\"choices\": [{\"message\": {\"content\": null}}]}"));
  Connect(server_->url());
  EXPECT_EQ(Ask()->text, "");
}

TEST_F(ChatClientTest, NoTryBeginsBehindTheDeadline) {
  Serve(ChatServer::RetryAfter("60"));
  Connect(server_->url());
  EXPECT_THAT(Failure(absl::StatusCode::kUnavailable, absl::Seconds(30)),
              HasSubstr("no time for another try before the deadline: answered with status 429"));
  EXPECT_EQ(server_->requests().size(), 1u);
  EXPECT_TRUE(waits_.empty());
  // The wish holds for the next question as well.
  EXPECT_THAT(Failure(absl::StatusCode::kDeadlineExceeded, absl::Seconds(30)),
              HasSubstr("no turn to ask before the deadline"));
  EXPECT_EQ(server_->requests().size(), 1u);
}

TEST_F(ChatClientTest, KeepsThePaceAndTheBudget) {
  Serve(ChatServer::Says(Completion("fine")));
  Connect(server_->url(),
          "requests_per_minute: 20 max_dollars: 0.005 dollars_per_million_prompt_tokens: 2");
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Ask().ok());
  EXPECT_THAT(waits_, ElementsAre(3, 3));
  EXPECT_EQ(Failure(absl::StatusCode::kResourceExhausted),
            "http.max_dollars is 0.005 and spent, nothing more is asked");
  EXPECT_EQ(server_->requests().size(), 3u);
}

TEST_F(ChatClientTest, KeysComeFromTheEnvironmentOrAFile) {
  wideberth::testing::TempDir folder;
  const auto message = [](const std::string& fields) {
    proto::HttpConfig config;
    EXPECT_TRUE(MergeTextProto(fields, "test", &config).ok());
    return std::string(ChatClient::Create(config).status().message());
  };
  EXPECT_EQ(message("key_env: 'WIDEBERTH_NO_SUCH_KEY'"),
            "http.key_env names the environment variable WIDEBERTH_NO_SUCH_KEY, which is not set, "
            "expected a key");
  EXPECT_THAT(message(absl::StrCat("key_path: '", folder.Join("none"), "'")),
              HasSubstr("http.key_path: "));
  ASSERT_TRUE(WriteFileAtomically(folder.Join("key"), "sk-1\nX-Evil: 1\n").ok());
  const std::string two_lines = message(absl::StrCat("key_path: '", folder.Join("key"), "'"));
  EXPECT_THAT(two_lines, HasSubstr("blanks or other bytes, expected one key"));
  EXPECT_THAT(two_lines, Not(HasSubstr("sk-1")));
  ASSERT_TRUE(WriteFileAtomically(folder.Join("key"), "sk-from-file\n").ok());
  Serve(ChatServer::Says(Completion("fine")));
  proto::HttpConfig config;
  config.set_base_url(server_->url());
  config.set_key_path(folder.Join("key"));
  ASSERT_TRUE((*ChatClient::Create(config))->Ask({"?"}, absl::InfiniteFuture()).ok());
  EXPECT_EQ(server_->requests().at(0).get_header_value("Authorization"), "Bearer sk-from-file");
}

TEST_F(ChatClientTest, CancelEndsAPauseAndARequestUnderWay) {
  for (const bool stalls : {false, true}) {
    Serve(stalls ? ChatServer::Stalls() : ChatServer::RetryAfter("3600"));
    proto::HttpConfig config;
    config.set_base_url(server_->url());
    config.set_request_timeout(3600);
    client_ = *ChatClient::Create(config);  // Its pauses are real.
    absl::Status status;
    std::thread asking([&] {
      status = client_->Ask({"How bad is it?", 0, 7}, absl::InfiniteFuture()).status();
    });
    while (server_->requests().empty()) std::this_thread::yield();
    client_->Cancel();
    asking.join();
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
    EXPECT_EQ(client_->Ask({"And now?", 0, 7}, absl::InfiniteFuture()).status().code(),
              absl::StatusCode::kCancelled);
    EXPECT_EQ(server_->requests().size(), 1);
  }
}

}  // namespace
}  // namespace wideberth::transport
