// SPDX-License-Identifier: Apache-2.0
// What any message from the wire must satisfy before anybody looks at it, whatever the run: known
// roles, ids and texts of sane length, counts and numbers in range. The services ask before their
// handler, the clients before their caller sees an answer; what depends on the run (the vocabulary,
// the number of completions) is checked by the role that knows it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/ranks.pb.h"
#include "proto/wire.pb.h"

namespace wideberth::transport {

// Whole messages, refused by the RPC library before they are read.
inline constexpr size_t kMaxLearnerCallBytes = size_t{64} << 20;  // A group handed in.
inline constexpr size_t kMaxScoreCallBytes = size_t{64} << 20;    // Items, texts and all.
inline constexpr size_t kMaxLearnerAnswerBytes = size_t{64}
                                                 << 20;  // Leases; a chunk of an adapter.
inline constexpr size_t kMaxScoreAnswerBytes = size_t{16} << 20;
inline constexpr size_t kMaxRankAnswerBytes = size_t{1} << 30;  // The groups of a whole step.

// What they hold.
inline constexpr size_t kMaxIdBytes = 256;  // Names, ids, hosts, addresses, fingerprints.
inline constexpr size_t kMaxSentenceBytes = size_t{16} << 10;  // Errors, remarks.
inline constexpr size_t kMaxTextBytes = size_t{16} << 20;      // A prompt's message, a completion.
inline constexpr int kMaxChatMessages = 4096;
inline constexpr int kMaxLeases = 1024;  // Of one call.
inline constexpr int kMaxCompletions = 1 << 16;
inline constexpr int kMaxTokens = 1 << 22;  // Of a prompt or a completion.
inline constexpr int kMaxScores = 256;      // Of a completion.
inline constexpr int kMaxScoreItems = 4096;
inline constexpr int kMaxEndpoints = 4096;
inline constexpr int kMaxAdapterTensors = 1 << 17;
inline constexpr uint64_t kMaxAdapterBytes = uint64_t{8} << 30;

// Each is InvalidArgument with one sentence that names the call and the field.
absl::Status CheckMessage(const proto::RegisterRequest& request);
absl::Status CheckMessage(const proto::HeartbeatRequest& request);
absl::Status CheckMessage(const proto::LeasePromptsRequest& request);
// Only what the learner needs to find the lease; screening.h looks at the group.
absl::Status CheckMessage(const proto::SubmitGroupRequest& request);
absl::Status CheckMessage(const proto::AcknowledgeAdapterRequest& request);
absl::Status CheckMessage(const proto::FetchAdapterRequest& request);
absl::Status CheckMessage(const proto::ScoreRequest& request);
absl::Status CheckMessage(const proto::JoinRankRequest& request);
absl::Status CheckMessage(const proto::AttendRequest& request);
absl::Status CheckMessage(const proto::FetchStepRequest& request);
absl::Status CheckMessage(const proto::CombineRequest& request);
absl::Status CheckMessage(const proto::LeaveRankRequest& request);

absl::Status CheckMessage(const proto::RegisterResponse& response);
absl::Status CheckMessage(const proto::HeartbeatResponse& response);
absl::Status CheckMessage(const proto::LeasePromptsResponse& response);
absl::Status CheckMessage(const proto::SubmitGroupResponse& response);
absl::Status CheckMessage(const proto::AcknowledgeAdapterResponse& response);

}  // namespace wideberth::transport
