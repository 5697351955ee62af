// SPDX-License-Identifier: Apache-2.0
// A chat-completions server on loopback that answers by a script, and misbehaves where told to.
#pragma once

#include <gtest/gtest.h>
#include <httplib.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace wideberth::testing {

inline std::string Completion(const std::string& text, const std::string& finish = "stop") {
  return nlohmann::json({{"choices",
                          {{{"message", {{"role", "assistant"}, {"content", text}}},
                            {"finish_reason", finish}}}},
                         {"usage", {{"prompt_tokens", 1000}, {"completion_tokens", 100}}}})
      .dump();
}

// Ends in no time once its clients are gone; a connection that one keeps holds it for seconds.
class ChatServer {
 public:
  using Reply = std::function<void(ChatServer&, httplib::Response&)>;

  static Reply Says(const std::string& body, int status = 200,
                    const std::string& type = "application/json") {
    return [=](ChatServer&, httplib::Response& response) {
      response.status = status;
      response.set_content(body, type);
    };
  }
  static Reply RetryAfter(const std::string& value, int status = 429) {
    return [=](ChatServer&, httplib::Response& response) {
      response.status = status;
      response.set_header("Retry-After", value);
      response.set_content("{\"error\": \"slow down\"}", "application/json");
    };
  }
  // Promises more bytes than it sends.
  static Reply HangsUp() {
    return [](ChatServer&, httplib::Response& response) {
      response.set_content_provider(1000, "application/json",
                                    [](size_t, size_t, httplib::DataSink& sink) {
                                      sink.write("{\"choices\"", 10);
                                      return false;
                                    });
    };
  }
  // Holds the request until the server ends.
  static Reply Stalls() {
    return [](ChatServer& server, httplib::Response&) {
      std::unique_lock lock(server.mutex_);
      server.changed_.wait(lock, [&] { return server.over_; });
    };
  }

  // Replies in order; `last` answers whatever comes behind them.
  ChatServer(std::vector<Reply> replies, Reply last)
      : replies_(replies.begin(), replies.end()), last_(std::move(last)) {
    server_.new_task_queue = [] { return new httplib::ThreadPool(8); };
    server_.set_tcp_nodelay(true);
    server_.Post("/v1/chat/completions",
                 [this](const httplib::Request& request, httplib::Response& response) {
                   Answer(request, response);
                 });
    port_ = server_.bind_to_any_port("127.0.0.1");
    EXPECT_GT(port_, 0);
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::yield();
  }
  explicit ChatServer(Reply last) : ChatServer({}, std::move(last)) {}
  ~ChatServer() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
      changed_.notify_all();
    }
    server_.stop();
    thread_.join();
  }

  std::string url() const { return absl::StrCat("http://127.0.0.1:", port_, "/v1"); }
  std::vector<httplib::Request> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  int most_at_once() const {
    const std::lock_guard lock(mutex_);
    return most_at_once_;
  }

 private:
  void Answer(const httplib::Request& request, httplib::Response& response) {
    Reply reply = last_;
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
      most_at_once_ = std::max(most_at_once_, ++at_once_);
      if (!replies_.empty()) {
        reply = replies_.front();
        replies_.pop_front();
      }
    }
    reply(*this, response);
    const std::lock_guard lock(mutex_);
    --at_once_;
  }

  httplib::Server server_;
  int port_ = 0;
  std::thread thread_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  int at_once_ = 0, most_at_once_ = 0;
  std::deque<Reply> replies_;
  const Reply last_;
  std::vector<httplib::Request> requests_;
};

}  // namespace wideberth::testing
