// SPDX-License-Identifier: Apache-2.0
// Every field of every message that has a limit, one step beyond it.
#include "transport/message_limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "tests/transport/blobs.h"
#include "transport/adapter_blob.h"

namespace wideberth::transport {
namespace {

using ::testing::HasSubstr;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
const std::string kLongId(kMaxIdBytes + 1, 'x');

template <typename Message>
using Cases = std::vector<std::pair<std::function<void(Message&)>, const char*>>;

// `good` passes; each case spoils a copy of it and is told why.
template <typename Message>
void ExpectRefused(const Message& good, const Cases<Message>& cases) {
  EXPECT_TRUE(CheckMessage(good).ok()) << CheckMessage(good);
  for (const auto& [spoil, sentence] : cases) {
    Message bad = good;
    spoil(bad);
    const absl::Status status = CheckMessage(bad);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << sentence;
    EXPECT_THAT(std::string(status.message()), HasSubstr(sentence));
  }
}

TEST(MessageLimitsTest, Registrations) {
  proto::RegisterRequest good;
  good.set_role(proto::SCORER);
  good.set_name("scorer-safety-0");
  good.set_host("node7");
  good.set_address("node7:4000");
  good.set_health_address("[::1]:80");
  ExpectRefused<proto::RegisterRequest>(
      good, {{[](auto& m) { m.clear_role(); }, "role is not set or unknown"},
             {[](auto& m) { m.set_role(proto::LEARNER); }, "role is LEARNER"},
             {[](auto& m) { m.set_name(kLongId); }, "name has 257 bytes"},
             {[](auto& m) { m.set_name("two\nlines"); }, "must not hold control characters"},
             {[](auto& m) { m.set_host(kLongId); }, "host has 257 bytes"},
             {[](auto& m) { m.set_pid(-1); }, "pid is -1"},
             {[](auto& m) { m.set_address("node7"); }, "address is \"node7\", must be host:port"},
             {[](auto& m) { m.set_address("node7:0"); }, "must be host:port"},
             {[](auto& m) { m.set_address("node7:65536"); }, "must be host:port"},
             {[](auto& m) { m.set_scorer_name(kLongId); }, "scorer_name"},
             {[](auto& m) { m.set_base_fingerprint(kLongId); }, "base_fingerprint"},
             {[](auto& m) { m.set_health_address(":80"); }, "health_address"},
             {[](auto& m) { m.set_adapter_address("x"); }, "adapter_address"}});
}

TEST(MessageLimitsTest, AnUnknownRoleOfTheWireIsNoRole) {
  proto::RegisterRequest request;
  ASSERT_TRUE(request.ParseFromString(std::string("\x08\x09", 2)));
  EXPECT_THAT(std::string(CheckMessage(request).message()), HasSubstr("not set or unknown"));
}

TEST(MessageLimitsTest, Heartbeats) {
  proto::HeartbeatRequest good;
  good.set_member_id("actor-0#1");
  good.mutable_status()->set_tokens_per_second(80);
  ExpectRefused<proto::HeartbeatRequest>(
      good, {{[](auto& m) { m.set_member_id(kLongId); }, "member_id"},
             {[](auto& m) { m.mutable_status()->set_state(kLongId); }, "status.state"},
             {[](auto& m) { m.mutable_status()->set_tokens_per_second(kNan); }, "is nan"},
             {[](auto& m) { m.mutable_status()->set_tokens_per_second(kInfinity); }, "is inf"},
             {[](auto& m) { m.mutable_status()->set_tokens_per_second(-1); }, "is -1"},
             {[](auto& m) { m.mutable_status()->set_swap_seconds(kNan); }, "status.swap_seconds"},
             {[](auto& m) {
                m.mutable_status()->set_last_error(std::string(kMaxSentenceBytes + 1, 'x'));
              },
              "status.last_error"}});
  proto::HeartbeatResponse answer;
  answer.add_scorer()->set_address("127.0.0.1:4000");
  answer.mutable_weight_group()->set_size(2);
  ExpectRefused<proto::HeartbeatResponse>(
      answer,
      {{[](auto& m) { m.mutable_scorer(0)->set_address("/etc/passwd"); }, "scorer.address"},
       {[](auto& m) { m.mutable_scorer(0)->set_scorer_name(kLongId); }, "scorer.scorer_name"},
       {[](auto& m) { m.mutable_scorer(0)->set_name(kLongId); }, "scorer.name"},
       {[](auto& m) { m.set_adapter_address("nowhere"); }, "adapter_address"},
       {[](auto& m) { m.set_adapter_name(kLongId); }, "adapter_name"},
       {[](auto& m) { m.mutable_weight_group()->set_rank(2); }, "weight_group.rank is 2"},
       {[](auto& m) { m.mutable_weight_group()->set_size(0); }, "weight_group.size is 0"}});
}

TEST(MessageLimitsTest, Leases) {
  proto::LeasePromptsRequest ask;
  ask.set_max_groups(kMaxLeases);
  ExpectRefused<proto::LeasePromptsRequest>(
      ask, {{[](auto& m) { m.set_max_groups(kMaxLeases + 1); }, "max_groups is 1025"},
            {[](auto& m) { m.set_max_groups(0); }, "max_groups is 0"},
            {[](auto& m) { m.set_max_groups(-5); }, "max_groups is -5"}});
  proto::LeasePromptsResponse good;
  good.add_lease()->set_num_completions(8);
  good.mutable_lease(0)->set_timeout(60);
  good.mutable_lease(0)->mutable_prompt()->add_message()->set_content("hello");
  ExpectRefused<proto::LeasePromptsResponse>(
      good, {{[](auto& m) { m.mutable_lease(0)->set_num_completions(0); }, "num_completions is 0"},
             {[](auto& m) { m.mutable_lease(0)->set_num_completions(kMaxCompletions + 1); },
              "num_completions is 65537"},
             {[](auto& m) { m.mutable_lease(0)->set_timeout(kNan); }, "lease.timeout is nan"},
             {[](auto& m) { m.mutable_lease(0)->set_timeout(-1); }, "lease.timeout is -1"},
             {[](auto& m) { m.mutable_lease(0)->set_lease_id(kLongId); }, "lease.lease_id"},
             {[](auto& m) { m.set_retry_after_ms(-1); }, "retry_after_ms is -1"},
             {[](auto& m) {
                m.mutable_lease(0)->mutable_prompt()->mutable_message(0)->set_content(
                    std::string(kMaxTextBytes + 1, 'x'));
              },
              "lease.prompt.message.content"},
             {[](auto& m) {
                for (int i = 0; i < kMaxChatMessages; ++i)
                  m.mutable_lease(0)->mutable_prompt()->add_message();
              },
              "lease.prompt.message has 4097"},
             {[](auto& m) {
                for (int i = 0; i < kMaxLeases; ++i) m.add_lease()->set_num_completions(1);
              },
              "lease has 1025"}});
}

TEST(MessageLimitsTest, GroupsAcknowledgementsAndFetches) {
  ExpectRefused<proto::SubmitGroupRequest>(
      {}, {{[](auto& m) { m.set_member_id(kLongId); }, "SubmitGroup: member_id"},
           {[](auto& m) { m.set_lease_id(kLongId); }, "SubmitGroup: lease_id"},
           {[](auto& m) { m.set_adapter_fingerprint(kLongId); }, "adapter_fingerprint"}});
  ExpectRefused<proto::AcknowledgeAdapterRequest>(
      {}, {{[](auto& m) { m.set_member_id(kLongId); }, "AcknowledgeAdapter: member_id"},
           {[](auto& m) { m.set_fingerprint(kLongId); }, "AcknowledgeAdapter: fingerprint"}});
  ExpectRefused<proto::FetchAdapterRequest>(
      {}, {{[](auto& m) { m.set_member_id(kLongId); }, "FetchAdapter: member_id"},
           {[](auto& m) { m.set_resume_fingerprint(kLongId); }, "resume_fingerprint"},
           {[](auto& m) { m.set_resume_bytes(kMaxAdapterBytes + 1); }, "resume_bytes"}});
}

TEST(MessageLimitsTest, ScoreCalls) {
  proto::ScoreRequest good;
  good.add_item()->set_completion("fine");
  ExpectRefused<proto::ScoreRequest>(
      good,
      {{[](auto& m) { m.mutable_item(0)->set_completion(std::string(kMaxTextBytes + 1, 'x')); },
        "item.completion"},
       {[](auto& m) { m.mutable_item(0)->add_prompt()->set_role(kLongId); }, "item.prompt.role"},
       {[](auto& m) {
          for (int i = 0; i < kMaxScoreItems; ++i) m.add_item();
        },
        "item has 4097"}});
}

TEST(MessageLimitsTest, Ranks) {
  ExpectRefused<proto::JoinRankRequest>(
      {}, {{[](auto& m) { m.set_rank(-1); }, "JoinRank: rank is -1"},
           {[](auto& m) { m.set_host(kLongId); }, "JoinRank: host"},
           {[](auto& m) { m.set_health_address("x"); }, "JoinRank: health_address"}});
  proto::CombineRequest part;
  part.set_num_chunks(3);
  part.set_chunk(2);
  ExpectRefused<proto::CombineRequest>(
      part, {{[](auto& m) { m.set_chunk(3); }, "Combine: chunk is 3"},
             {[](auto& m) { m.set_chunk(-1); }, "Combine: chunk is -1"},
             {[](auto& m) { m.set_num_chunks(-1); }, "Combine: num_chunks is -1"},
             {[](auto& m) { m.set_sequence(-1); }, "Combine: sequence is -1"},
             {[](auto& m) { m.set_operation(kLongId); }, "Combine: operation"}});
  ExpectRefused<proto::AttendRequest>({},
                                      {{[](auto& m) { m.set_state(kLongId); }, "Attend: state"}});
}

TEST(MessageLimitsTest, ManifestsBeforeAnythingIsAllocated) {
  const proto::AdapterManifest good = wideberth::testing::MakeBlob(1)->manifest;
  const Cases<proto::AdapterManifest> cases = {
      {[](auto& m) {
         m.mutable_tensor(1)->set_shape(0, int64_t{1} << 40);
         m.set_num_bytes((uint64_t{1} << 42) + 4);
       },
       "must be at most 8589934592"},
      {[](auto& m) { m.mutable_tensor(0)->set_name(kLongId); }, "a name of 257 bytes"},
      {[](auto& m) {
         for (int i = 0; i < 8; ++i) m.mutable_tensor(0)->add_shape(1);
       },
       "9 dimensions"},
      {[](auto& m) {
         for (int i = 0; i < kMaxAdapterTensors; ++i) m.add_tensor();
       },
       "lists 131074 tensors"},
      {[](auto& m) { m.set_fingerprint(std::string(32, 'g')); }, "32 hexadecimal digits"},
      {[](auto& m) { m.set_run_id(kLongId); }, "run_id and base_fingerprint"},
  };
  EXPECT_TRUE(VerifyAdapterManifest(good).ok());
  for (const auto& [spoil, sentence] : cases) {
    proto::AdapterManifest bad = good;
    spoil(bad);
    EXPECT_THAT(std::string(VerifyAdapterManifest(bad).message()), HasSubstr(sentence));
  }
}

}  // namespace
}  // namespace wideberth::transport
