// SPDX-License-Identifier: Apache-2.0
#include "transport/message_limits.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/excerpt.h"
#include "transport/rpc.h"

namespace wideberth::transport {
namespace {

constexpr double kMaxSeconds = 1e9;
constexpr int64_t kMaxRank = 1 << 16;
constexpr int64_t kMaxChunks = 1 << 24;

// The fields of one message, the first fault wins.
class Check {
 public:
  explicit Check(absl::string_view call) : call_(call) {}

  // Visible characters only: ids stand in logs, on pages and in file names. May be empty.
  Check& Id(absl::string_view value, absl::string_view field) {
    Length(value, kMaxIdBytes, field);
    const bool plain = std::none_of(value.begin(), value.end(), [](char c) {
      return absl::ascii_iscntrl(static_cast<unsigned char>(c));
    });
    return Expect(plain, field, "is ", Excerpt(value), "must not hold control characters");
  }
  Check& Sentence(absl::string_view value, absl::string_view field) {
    return Length(value, kMaxSentenceBytes, field);
  }
  Check& Text(absl::string_view value, absl::string_view field) {
    return Length(value, kMaxTextBytes, field);
  }
  // "host:port", or empty.
  Check& Address(const std::string& value, absl::string_view field) {
    Id(value, field);
    std::string host;
    int port = 0;
    const bool fits = value.empty() || (SplitAddress(value, &host, &port).ok() && port > 0);
    return Expect(fits, field, "is ", Excerpt(value), "must be host:port");
  }
  Check& Count(int64_t value, int64_t max, absl::string_view field) {
    return Expect(value <= max, field, "has ", value, absl::StrCat("must have at most ", max));
  }
  Check& Within(int64_t value, int64_t min, int64_t max, absl::string_view field) {
    return Expect(value >= min && value <= max, field, "is ", value,
                  absl::StrCat("must be from ", min, " to ", max));
  }
  Check& Within(double value, double min, double max, absl::string_view field) {
    // NaN is not at least anything.
    return Expect(value >= min && value <= max, field, "is ", value,
                  absl::StrCat("must be from ", min, " to ", max));
  }
  Check& Conversation(const google::protobuf::RepeatedPtrField<proto::ChatMessage>& messages,
                      absl::string_view field) {
    Count(messages.size(), kMaxChatMessages, field);
    for (const proto::ChatMessage& message : messages) {
      if (!status_.ok()) break;
      Id(message.role(), absl::StrCat(field, ".role"));
      Text(message.content(), absl::StrCat(field, ".content"));
    }
    return *this;
  }
  template <typename Value>
  Check& Expect(bool holds, absl::string_view field, absl::string_view verb, const Value& found,
                absl::string_view expected) {
    if (!holds && status_.ok()) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat(call_, ": ", field, " ", verb, found, ", ", expected));
    }
    return *this;
  }
  bool ok() const { return status_.ok(); }
  absl::Status status() const { return status_; }

 private:
  Check& Length(absl::string_view value, size_t max, absl::string_view field) {
    return Expect(value.size() <= max, field, "has ", absl::StrCat(value.size(), " bytes"),
                  absl::StrCat("must have at most ", max));
  }

  const absl::string_view call_;
  absl::Status status_;
};

void CheckLease(const proto::GroupLease& lease, Check* check) {
  check->Id(lease.lease_id(), "lease.lease_id")
      .Within(int64_t{lease.num_completions()}, 1, kMaxCompletions, "lease.num_completions")
      .Within(lease.timeout(), 0.0, kMaxSeconds, "lease.timeout")
      .Text(lease.text(), "lease.text")
      .Text(lease.prompt().id(), "lease.prompt.id")
      .Text(lease.prompt().category(), "lease.prompt.category")
      .Text(lease.prompt().source(), "lease.prompt.source")
      .Conversation(lease.prompt().message(), "lease.prompt.message");
}

}  // namespace

absl::Status CheckMessage(const proto::RegisterRequest& request) {
  return Check("Register")
      .Expect(request.has_role(), "role", "is ", "not set or unknown", "must be ACTOR or SCORER")
      .Expect(request.role() != proto::LEARNER, "role", "is ", "LEARNER", "must be ACTOR or SCORER")
      .Id(request.name(), "name")
      .Id(request.host(), "host")
      .Within(int64_t{request.pid()}, 0, INT32_MAX, "pid")
      .Address(request.address(), "address")
      .Id(request.scorer_name(), "scorer_name")
      .Id(request.base_fingerprint(), "base_fingerprint")
      .Address(request.health_address(), "health_address")
      .Address(request.adapter_address(), "adapter_address")
      .status();
}

absl::Status CheckMessage(const proto::HeartbeatRequest& request) {
  const proto::MemberStatus& status = request.status();
  return Check("Heartbeat")
      .Id(request.member_id(), "member_id")
      .Id(status.state(), "status.state")
      .Within(status.tokens_per_second(), 0.0, 1e15, "status.tokens_per_second")
      .Within(status.swap_seconds(), 0.0, kMaxSeconds, "status.swap_seconds")
      .Sentence(status.last_error(), "status.last_error")
      .Address(request.failed_adapter_address(), "failed_adapter_address")
      .status();
}

absl::Status CheckMessage(const proto::LeasePromptsRequest& request) {
  Check check("LeasePrompts");
  check.Id(request.member_id(), "member_id");
  if (request.has_max_groups())
    check.Within(int64_t{request.max_groups()}, 1, kMaxLeases, "max_groups");
  return check.status();
}

absl::Status CheckMessage(const proto::SubmitGroupRequest& request) {
  return Check("SubmitGroup")
      .Id(request.member_id(), "member_id")
      .Id(request.lease_id(), "lease_id")
      .Id(request.adapter_fingerprint(), "adapter_fingerprint")
      .status();
}

absl::Status CheckMessage(const proto::AcknowledgeAdapterRequest& request) {
  return Check("AcknowledgeAdapter")
      .Id(request.member_id(), "member_id")
      .Id(request.fingerprint(), "fingerprint")
      .status();
}

absl::Status CheckMessage(const proto::FetchAdapterRequest& request) {
  return Check("FetchAdapter")
      .Id(request.member_id(), "member_id")
      .Id(request.resume_fingerprint(), "resume_fingerprint")
      .Within(int64_t{request.wait_ms()}, 0, INT32_MAX, "wait_ms")
      .Expect(request.resume_bytes() <= kMaxAdapterBytes, "resume_bytes", "is ",
              request.resume_bytes(), absl::StrCat("must be at most ", kMaxAdapterBytes))
      .status();
}

absl::Status CheckMessage(const proto::ScoreRequest& request) {
  Check check("Score");
  check.Count(request.item_size(), kMaxScoreItems, "item");
  for (const proto::ScoreItem& item : request.item()) {
    if (!check.ok()) break;
    check.Text(item.id(), "item.id")
        .Conversation(item.prompt(), "item.prompt")
        .Text(item.completion(), "item.completion");
  }
  return check.status();
}

absl::Status CheckMessage(const proto::JoinRankRequest& request) {
  return Check("JoinRank")
      .Within(int64_t{request.rank()}, 0, kMaxRank, "rank")
      .Within(int64_t{request.world_size()}, 0, kMaxRank, "world_size")
      .Id(request.host(), "host")
      .Within(int64_t{request.pid()}, 0, INT32_MAX, "pid")
      .Id(request.base_fingerprint(), "base_fingerprint")
      .Address(request.health_address(), "health_address")
      .status();
}

absl::Status CheckMessage(const proto::AttendRequest& request) {
  return Check("Attend").Id(request.run_id(), "run_id").Id(request.state(), "state").status();
}

absl::Status CheckMessage(const proto::FetchStepRequest& request) {
  return Check("FetchStep").Id(request.run_id(), "run_id").status();
}

absl::Status CheckMessage(const proto::CombineRequest& request) {
  return Check("Combine")
      .Id(request.run_id(), "run_id")
      .Id(request.operation(), "operation")
      .Within(request.sequence(), 0, INT64_MAX, "sequence")
      .Within(int64_t{request.num_chunks()}, 0, kMaxChunks, "num_chunks")
      .Within(int64_t{request.chunk()}, 0, std::max(0, request.num_chunks() - 1), "chunk")
      .status();
}

absl::Status CheckMessage(const proto::LeaveRankRequest& request) {
  return Check("LeaveRank")
      .Id(request.run_id(), "run_id")
      .Sentence(request.reason(), "reason")
      .status();
}

absl::Status CheckMessage(const proto::RegisterResponse& response) {
  return Check("answer to Register")
      .Id(response.member_id(), "member_id")
      .Id(response.run_id(), "run_id")
      .status();
}

absl::Status CheckMessage(const proto::HeartbeatResponse& response) {
  Check check("answer to Heartbeat");
  check.Count(response.scorer_size(), kMaxEndpoints, "scorer")
      .Address(response.adapter_address(), "adapter_address")
      .Id(response.adapter_name(), "adapter_name")
      .Id(response.newest_fingerprint(), "newest_fingerprint");
  for (const proto::ScorerEndpoint& endpoint : response.scorer()) {
    check.Id(endpoint.scorer_name(), "scorer.scorer_name")
        .Id(endpoint.name(), "scorer.name")
        .Address(endpoint.address(), "scorer.address");
    if (!check.ok()) break;
  }
  if (response.has_weight_group()) {
    const proto::WeightGroup& group = response.weight_group();
    check
        .Count(static_cast<int64_t>(group.unique_id().size()), kMaxIdBytes,
               "weight_group.unique_id")
        .Within(int64_t{group.size()}, 1, kMaxRank, "weight_group.size")
        .Within(int64_t{group.rank()}, 0, int64_t{group.size()} - 1, "weight_group.rank");
  }
  return check.status();
}

absl::Status CheckMessage(const proto::LeasePromptsResponse& response) {
  Check check("answer to LeasePrompts");
  check.Count(response.lease_size(), kMaxLeases, "lease")
      .Within(int64_t{response.retry_after_ms()}, 0, 3'600'000, "retry_after_ms");
  for (const proto::GroupLease& lease : response.lease()) {
    if (check.ok()) CheckLease(lease, &check);
  }
  return check.status();
}

absl::Status CheckMessage(const proto::SubmitGroupResponse& response) {
  return Check("answer to SubmitGroup").Sentence(response.message(), "message").status();
}

absl::Status CheckMessage(const proto::AcknowledgeAdapterResponse&) { return absl::OkStatus(); }

}  // namespace wideberth::transport
