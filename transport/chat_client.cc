// SPDX-License-Identifier: Apache-2.0
#include "transport/chat_client.h"

#include <httplib.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "base/excerpt.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mutex.h"
#include "base/status.h"

namespace wideberth::transport {
namespace {

using nlohmann::json;

constexpr size_t kMaxBodyBytes = 1 << 20;
constexpr absl::Duration kFirstBackoff = absl::Milliseconds(500);
constexpr absl::Duration kLongestBackoff = absl::Seconds(30);

struct BaseUrl {
  std::string origin;  // "https://host:port"
  std::string path;    // "/v1", without a slash at its end.
};

BaseUrl Split(absl::string_view url) {
  const size_t host = url.find("://") + 3;
  const size_t slash = std::min(url.find('/', host), url.size());
  BaseUrl split{std::string(url.substr(0, slash)), std::string(url.substr(slash))};
  while (!split.path.empty() && split.path.back() == '/') split.path.pop_back();
  return split;
}

absl::StatusOr<std::string> ReadKey(const proto::HttpConfig& config) {
  std::string key, origin;
  if (config.has_key_env()) {
    origin = absl::StrCat("http.key_env names the environment variable ", config.key_env());
    const char* const value = std::getenv(config.key_env().c_str());
    if (value == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(origin, ", which is not set, expected a key"));
    }
    key = value;
  } else if (config.has_key_path()) {
    origin = absl::StrCat("http.key_path names the file ", config.key_path());
    absl::StatusOr<std::string> text = ReadFile(config.key_path());
    if (!text.ok()) return Annotate(text.status(), "http.key_path");
    key = *std::move(text);
  } else {
    return key;
  }
  absl::StripAsciiWhitespace(&key);
  const bool plain =
      std::all_of(key.begin(), key.end(), [](unsigned char c) { return absl::ascii_isgraph(c); });
  if (key.empty() || !plain) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ", which holds ", key.empty() ? "nothing" : "blanks or other bytes",
                     ", expected one key of printable characters"));
  }
  return key;
}

// Seconds or an HTTP date.
absl::Duration RetryAfter(const httplib::Response& response, absl::Time now) {
  const std::string text = response.get_header_value("Retry-After");
  double seconds = 0;
  if (absl::SimpleAtod(text, &seconds))
    return std::isfinite(seconds) && seconds > 0 ? absl::Seconds(seconds) : absl::ZeroDuration();
  absl::Time date;
  if (!absl::ParseTime("%a, %d %b %Y %H:%M:%S GMT", text, &date, nullptr))
    return absl::ZeroDuration();
  return std::max(date - now, absl::ZeroDuration());
}

// Null where `json` is no object or has no such field.
const json& Field(const json& object, const char* name) {
  static const auto& null = *new json();
  const auto found = object.find(name);
  return object.is_object() && found != object.end() ? *found : null;
}

int64_t Count(const json& tokens, size_t bytes) {
  const bool counted = tokens.is_number() && tokens >= 0 && tokens < 1e9;
  return counted ? tokens.get<int64_t>() : static_cast<int64_t>(bytes / 4);
}

absl::StatusOr<ChatAnswer> ParseAnswer(const ChatQuestion& question, const std::string& body,
                                       absl::string_view shown) {
  const json answer = CheckJsonNesting(body, "answer").ok()
                          ? json::parse(body, nullptr, /*allow_exceptions=*/false)
                          : json(json::value_t::discarded);
  if (answer.is_discarded()) {
    return absl::InternalError(
        absl::StrCat("answered something that is no JSON, expected a chat completion: ", shown));
  }
  const json& choices = Field(answer, "choices");
  const json choice = choices.is_array() && !choices.empty() ? choices[0] : json();
  const json& message = Field(choice, "message");
  const json& content = Field(message, "content");
  if (!message.is_object() || !(content.is_string() || content.is_null())) {
    return absl::InternalError(
        absl::StrCat("answered JSON without choices[0].message.content: ", shown));
  }
  ChatAnswer parsed;
  if (content.is_string()) parsed.text = content.get<std::string>();
  parsed.truncated = Field(choice, "finish_reason") == "length";
  const json& usage = Field(answer, "usage");
  parsed.prompt_tokens = Count(Field(usage, "prompt_tokens"), question.text.size());
  parsed.completion_tokens = Count(Field(usage, "completion_tokens"), parsed.text.size());
  return parsed;
}

class HttpChatClient final : public ChatClient {
 public:
  HttpChatClient(const proto::HttpConfig& config, std::string key, ChatWaiting waiting)
      : config_(config),
        url_(Split(config.base_url())),
        key_(std::move(key)),
        waiting_(std::move(waiting)) {}

  absl::StatusOr<ChatAnswer> Ask(const ChatQuestion& question, absl::Time deadline) override {
    const std::string body =
        json({{"model", config_.model()},
              {"messages", json::array({{{"role", "user"}, {"content", question.text}}})},
              {"temperature", question.temperature},
              {"max_tokens", question.max_tokens}})
            .dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
    for (int64_t retry = 0;; ++retry) {
      WB_RETURN_IF_ERROR(TakeTurn(deadline, retry > 0));
      const Try outcome = Send(body, deadline);
      if (outcome.status.ok()) return Account(ParseAnswer(question, outcome.body, Shown(outcome)));
      const absl::Duration wait = std::max(Backoff(retry), outcome.retry_after);
      const bool too_late = waiting_.clock->Now() + wait >= deadline;
      if (!outcome.again || retry >= config_.max_retries() || too_late) {
        return Annotate(
            outcome.status,
            absl::StrCat(
                url_.origin, url_.path, retry > 0 ? ", asked " : "",
                retry > 0 ? absl::StrCat(retry + 1, " times") : "",
                outcome.again && too_late ? ", no time for another try before the deadline" : ""));
      }
      Pause(wait);
    }
  }

  void Cancel() override {
    MutexLock lock(mutex_);
    cancelled_ = true;
    cancelled_changed_.SignalAll();
    for (httplib::Client* client : asking_) client->stop();
  }

  ChatStats stats() const override {
    MutexLock lock(mutex_);
    return stats_;
  }

 private:
  // What became of one request: a body where `status` is OK.
  struct Try {
    absl::Status status;
    std::string body;
    bool again = false;
    absl::Duration retry_after;
  };

  std::string Shown(const Try& outcome) const {
    return Excerpt(key_.empty() ? outcome.body : absl::StrReplaceAll(outcome.body, {{key_, "***"}}),
                   160);
  }

  absl::Duration Backoff(int64_t retry) const {
    const absl::Duration longest =
        std::min(kFirstBackoff * std::exp2(static_cast<double>(std::min<int64_t>(retry, 10))),
                 kLongestBackoff);
    return longest * (0.5 + 0.5 * waiting_.jitter());
  }

  // Waits until the pace allows a request and counts it.
  absl::Status TakeTurn(absl::Time deadline, bool is_retry) {
    const absl::Time now = waiting_.clock->Now();
    absl::Duration wait;
    {
      MutexLock lock(mutex_);
      if (cancelled_) return Cancelled();
      if (config_.max_dollars() > 0 && stats_.dollars >= config_.max_dollars()) {
        return absl::ResourceExhaustedError(absl::StrCat(
            "http.max_dollars is ", config_.max_dollars(), " and spent, nothing more is asked"));
      }
      const absl::Time start = std::max(now, next_start_);
      if (start >= deadline) {
        return absl::DeadlineExceededError(
            absl::StrCat(url_.origin, url_.path, ": no turn to ask before the deadline",
                         start > now ? ", by http.requests_per_minute or the server's wish" : ""));
      }
      next_start_ = start;
      if (config_.requests_per_minute() > 0)
        next_start_ += absl::Minutes(1) / config_.requests_per_minute();
      wait = start - now;
      ++stats_.num_requests;
      stats_.num_retries += is_retry;
    }
    if (wait > absl::ZeroDuration()) Pause(wait);
    return absl::OkStatus();
  }

  absl::Status Cancelled() const {
    return absl::CancelledError(absl::StrCat(url_.origin, url_.path, ": cancelled here"));
  }

  // At most so long: Cancel ends it.
  void Pause(absl::Duration wait) {
    if (waiting_.sleep) return waiting_.sleep(wait);
    const absl::Time until = absl::Now() + wait;
    MutexLock lock(mutex_);
    for (absl::Duration left = wait; !cancelled_ && left > absl::ZeroDuration();
         left = until - absl::Now())
      cancelled_changed_.WaitFor(mutex_, left);
  }

  absl::StatusOr<ChatAnswer> Account(absl::StatusOr<ChatAnswer> answer) {
    if (!answer.ok()) return Annotate(answer.status(), absl::StrCat(url_.origin, url_.path));
    MutexLock lock(mutex_);
    stats_.prompt_tokens += answer->prompt_tokens;
    stats_.completion_tokens += answer->completion_tokens;
    stats_.dollars +=
        (static_cast<double>(answer->prompt_tokens) * config_.dollars_per_million_prompt_tokens() +
         static_cast<double>(answer->completion_tokens) *
             config_.dollars_per_million_completion_tokens()) /
        1e6;
    return answer;
  }

  // A connection is used by one request at a time and kept for the next.
  std::unique_ptr<httplib::Client> TakeConnection() {
    {
      MutexLock lock(mutex_);
      if (!idle_.empty()) {
        auto client = std::move(idle_.back());
        idle_.pop_back();
        return client;
      }
    }
    auto client = std::make_unique<httplib::Client>(url_.origin);
    client->set_keep_alive(true);
    client->set_tcp_nodelay(true);  // Header and body are written apart.
    client->set_follow_location(false);
    return client;
  }

  Try Send(const std::string& body, absl::Time deadline) {
    const absl::Duration timeout = std::max(
        absl::Milliseconds(1),
        std::min(absl::Seconds(config_.request_timeout()), deadline - waiting_.clock->Now()));
    std::unique_ptr<httplib::Client> client = TakeConnection();
    const auto limit = absl::ToChronoMicroseconds(timeout);
    client->set_connection_timeout(limit);
    client->set_read_timeout(limit);
    client->set_write_timeout(limit);
    // Each read has a time-out of its own: an answer that trickles in is cut off here.
    const absl::Time start = absl::Now();
    const auto late = [&] { return absl::Now() - start >= timeout; };
    Try outcome;
    bool huge = false;
    httplib::Request request;
    request.method = "POST";
    request.path = absl::StrCat(url_.path, "/chat/completions");
    request.set_header("Content-Type", "application/json");
    request.set_header("Accept", "application/json");
    if (!key_.empty()) request.set_header("Authorization", absl::StrCat("Bearer ", key_));
    request.body = body;
    request.content_receiver = [&](const char* data, size_t size, uint64_t, uint64_t) {
      huge = outcome.body.size() + size > kMaxBodyBytes;
      if (!huge) outcome.body.append(data, size);
      return !huge && !late();
    };
    {
      MutexLock lock(mutex_);
      if (cancelled_) {
        outcome.status = Cancelled();
        return outcome;
      }
      asking_.insert(client.get());
    }
    const httplib::Result result = client->send(request);
    bool cancelled = false;
    {
      MutexLock lock(mutex_);
      asking_.erase(client.get());
      cancelled = cancelled_;
    }
    if (cancelled && !result) {
      outcome.status = Cancelled();
    } else if (huge) {
      outcome.status = absl::InternalError("answered more than 1 MiB, expected a chat completion");
    } else if (!result) {
      Broken(result.error(), late(), timeout, &outcome);
    } else {
      Judge(*result, &outcome);
      MutexLock lock(mutex_);
      idle_.push_back(std::move(client));
    }
    return outcome;
  }

  void Broken(httplib::Error error, bool late, absl::Duration timeout, Try* outcome) const {
    outcome->again = true;
    if (late || error == httplib::Error::ConnectionTimeout) {
      outcome->status = absl::DeadlineExceededError(
          absl::StrCat("no whole answer within ", absl::FormatDuration(timeout)));
    } else if (error == httplib::Error::SSLServerVerification ||
               error == httplib::Error::SSLLoadingCerts) {
      outcome->again = false;
      outcome->status =
          absl::FailedPreconditionError("the server's certificate cannot be verified");
    } else {
      outcome->status = absl::UnavailableError(
          absl::StrCat("the connection failed (", httplib::to_string(error), ")"));
    }
  }

  void Judge(const httplib::Response& response, Try* outcome) {
    const int status = response.status;
    if (status == 200) return;
    outcome->again = status == 429 || status >= 500;
    if (outcome->again) {
      const absl::Time now = waiting_.clock->Now();
      outcome->retry_after = RetryAfter(response, now);
      // The wish is for all of us.
      MutexLock lock(mutex_);
      next_start_ = std::max(next_start_, now + outcome->retry_after);
    }
    std::string what = absl::StrCat("answered with status ", status);
    if (status == 401 || status == 403) {
      // Its body may quote the key.
      absl::StrAppend(&what, ", it does not accept the key");
    } else if (status >= 300 && status < 400) {
      absl::StrAppend(&what, ", a redirect, expected http.base_url to be the last address");
    } else {
      absl::StrAppend(&what, ": ", Shown(*outcome));
    }
    outcome->status =
        outcome->again ? absl::UnavailableError(what) : absl::FailedPreconditionError(what);
  }

  const proto::HttpConfig config_;
  const BaseUrl url_;
  const std::string key_;
  const ChatWaiting waiting_;

  mutable Mutex mutex_;
  ChatStats stats_ ABSL_GUARDED_BY(mutex_);
  absl::Time next_start_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  std::vector<std::unique_ptr<httplib::Client>> idle_ ABSL_GUARDED_BY(mutex_);
  std::set<httplib::Client*> asking_ ABSL_GUARDED_BY(mutex_);
  CondVar cancelled_changed_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatClient>> ChatClient::Create(const proto::HttpConfig& config,
                                                               ChatWaiting waiting) {
  WB_ASSIGN_OR_RETURN(std::string key, ReadKey(config));
  if (!waiting.jitter) {
    waiting.jitter = [] { return std::ldexp(static_cast<double>(std::random_device{}()), -32); };
  }
  return std::make_unique<HttpChatClient>(config, std::move(key), std::move(waiting));
}

}  // namespace wideberth::transport
