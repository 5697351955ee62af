// SPDX-License-Identifier: Apache-2.0
// Questions to an OpenAI-compatible chat-completions server: a pace, retries with back-off, a
// budget. Used by the scorer kind HTTP_JUDGE.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "proto/config.pb.h"

namespace wideberth::transport {

struct ChatQuestion {
  std::string text;  // One user message.
  double temperature = 0;
  int64_t max_tokens = 256;
};

struct ChatAnswer {
  std::string text;        // Empty where the server's message has no content.
  bool truncated = false;  // Ended by max_tokens.
  // As the server counts them; where it does not, a quarter of the bytes.
  int64_t prompt_tokens = 0, completion_tokens = 0;
};

// Counted since the start.
struct ChatStats {
  int64_t num_requests = 0;  // Retries included.
  int64_t num_retries = 0;
  int64_t prompt_tokens = 0, completion_tokens = 0;
  double dollars = 0;
};

// What a client waits by; tests replace it.
struct ChatWaiting {
  const Clock* clock = &Clock::Real();
  std::function<void(absl::Duration)> sleep;  // Unset: sleeps, until Cancel.
  std::function<double()> jitter;             // In [0, 1), thread-safe. Unset: random.
};

// Thread-safe. The key is sent to base_url alone (redirects are not followed) and stands in no
// message.
class ChatClient {
 public:
  // Reads the key. InvalidArgument or NotFound names the field, found and expected; nothing is
  // asked yet. `config` is validated.
  static absl::StatusOr<std::unique_ptr<ChatClient>> Create(const proto::HttpConfig& config,
                                                            ChatWaiting waiting = {});
  virtual ~ChatClient() = default;

  // Blocks, at most until `deadline` and one request's time-out. Answers 429 (Retry-After is
  // honoured) and 5xx, broken connections and time-outs are tried again up to max_retries times, as
  // long as the next try begins before the deadline. One sentence:
  //   Unavailable        429, 5xx or a broken connection, in the end
  //   DeadlineExceeded   no answer within request_timeout, in the end, or no turn by the deadline
  //   ResourceExhausted  max_dollars is spent; requests already under way go on
  //   FailedPrecondition any other status, redirects among them; never tried again
  //   Internal           an answer that is no chat completion, or one above 1 MiB
  //   Cancelled          Cancel came first
  virtual absl::StatusOr<ChatAnswer> Ask(const ChatQuestion& question, absl::Time deadline) = 0;

  // Ends every Ask that is running or comes later, in a pause or with a request under way, at once;
  // one that is still connecting ends by its time-out. Any thread; idempotent.
  virtual void Cancel() = 0;

  virtual ChatStats stats() const = 0;
};

}  // namespace wideberth::transport
