// SPDX-License-Identifier: Apache-2.0
// An actor in one thread that speaks a learner's handler directly, on its own copy of the weights.
// Its scores are a function of each completion's first token.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/adapter.h"
#include "model/causal_lm.h"
#include "model/conversation.h"
#include "model/generate.h"
#include "tests/testing/fake_wire.h"
#include "transport/adapter_blob.h"

namespace wideberth::learner {

// Does what an actor does, on its own copy of the weights, until it is told to leave or
// `leave_after` groups were handed in.
class TestActor {
 public:
  TestActor(transport::LearnerHandler* learner, std::string name, const std::string& model_folder)
      : client_(learner), name_(std::move(name)), folder_(model_folder) {}

  std::function<void(proto::SubmitGroupRequest&)> tamper = [](proto::SubmitGroupRequest&) {};
  std::string base_fingerprint;  // Empty: the model's own.
  std::string sampled_folder;    // Another base than the one it says it has.
  std::string tokenizer_folder;  // Another tokenizer.
  // What it samples with in place of a version it was sent.
  std::function<std::shared_ptr<model::Adapter>(const model::CausalLm&,
                                                std::shared_ptr<model::Adapter>)>
      substitute =
          [](const model::CausalLm&, std::shared_ptr<model::Adapter> sent) { return sent; };
  int leave_after = -1;
  bool twice = false;               // Hands every group in twice.
  bool last_first = false;          // Hands the groups of a lease in in the other order.
  std::string utility = "helpful";  // The scorer beside "safety".
  std::vector<proto::SubmitGroupResponse> responses;
  std::vector<proto::SubmitGroupRequest> submitted;

  absl::Status Run() {
    proto::ModelConfig config;
    config.set_path(folder_);
    WB_ASSIGN_OR_RETURN(model_, model::CausalLm::Load(config));
    const std::string texts = tokenizer_folder.empty() ? folder_ : tokenizer_folder;
    WB_ASSIGN_OR_RETURN(tokenizer_, model::Tokenizer::FromFolder(texts));
    WB_ASSIGN_OR_RETURN(chat_template_, model::ChatTemplateOf(texts));
    proto::RegisterRequest request;
    request.set_role(proto::ACTOR);
    request.set_name(name_);
    request.set_base_fingerprint(base_fingerprint.empty() ? model_->fingerprint()
                                                          : base_fingerprint);
    WB_ASSIGN_OR_RETURN(const proto::RegisterResponse hello, client_.Register(request));
    if (!sampled_folder.empty()) {
      config.set_path(sampled_folder);
      WB_ASSIGN_OR_RETURN(model_, model::CausalLm::Load(config));
    }
    config_ = hello.config();
    member_id_ = hello.member_id();
    while (true) {
      proto::LeasePromptsRequest ask;
      ask.set_member_id(member_id_);
      ask.set_max_groups(2);
      WB_ASSIGN_OR_RETURN(const proto::LeasePromptsResponse leased, client_.LeasePrompts(ask));
      if (leased.drain()) return absl::OkStatus();
      std::vector<proto::GroupLease> leases(leased.lease().begin(), leased.lease().end());
      if (last_first) std::reverse(leases.begin(), leases.end());
      for (const proto::GroupLease& lease : leases) {
        if (leave_after >= 0 && static_cast<int>(submitted.size()) >= leave_after)
          return absl::OkStatus();  // With leases out.
        WB_RETURN_IF_ERROR(Answer(lease));
      }
      if (leased.lease().empty()) std::this_thread::yield();
    }
  }

 private:
  absl::Status Swap(uint64_t version) {
    if (adapter_ != nullptr && version_ >= version) return absl::OkStatus();
    proto::FetchAdapterRequest fetch;
    fetch.set_member_id(member_id_);
    WB_ASSIGN_OR_RETURN(const auto blob, client_.FetchAdapter(fetch));
    WB_RETURN_IF_ERROR(transport::VerifyAdapterBlob(*blob));
    WB_ASSIGN_OR_RETURN(adapter_,
                        model::Adapter::Unpack(blob->manifest, blob->bytes, model_->spec(),
                                               model_->dtype(), model_->device()));
    adapter_ = substitute(*model_, std::move(adapter_));
    version_ = blob->manifest.version();
    fingerprint_ = blob->manifest.fingerprint();
    proto::AcknowledgeAdapterRequest acknowledge;
    acknowledge.set_member_id(member_id_);
    acknowledge.set_version(version_);
    acknowledge.set_fingerprint(fingerprint_);
    return client_.AcknowledgeAdapter(acknowledge).status();
  }

  absl::Status Answer(const proto::GroupLease& lease) {
    if (!lease.adapter_off()) WB_RETURN_IF_ERROR(Swap(lease.policy_version()));
    proto::SubmitGroupRequest request;
    request.set_member_id(member_id_);
    request.set_lease_id(lease.lease_id());
    request.set_group_id(lease.group_id());
    request.set_purpose(lease.purpose());
    request.set_policy_version(lease.adapter_off() ? 0 : version_);
    if (!lease.adapter_off()) request.set_adapter_fingerprint(fingerprint_);
    std::vector<model::Message> messages;
    for (const proto::ChatMessage& message : lease.prompt().message())
      messages.push_back({message.role(), message.content()});
    model::PromptGroup group;
    group.group = lease.group_id();
    WB_ASSIGN_OR_RETURN(group.prompt,
                        model::EncodeConversation(*tokenizer_, chat_template_, messages));
    group.num_completions = lease.num_completions();
    model::GenerateOptions options;
    options.sampling = config_.generation();
    options.seed = config_.seed();
    options.adapter = lease.adapter_off() ? nullptr : adapter_.get();
    WB_ASSIGN_OR_RETURN(const auto sampled, model::Generate(*model_, {group}, options));
    request.mutable_prompt_token_id()->Add(group.prompt.begin(), group.prompt.end());
    for (const model::Sampled& s : sampled[0]) {
      proto::Completion* completion = request.add_completion();
      completion->mutable_token_id()->Add(s.tokens.begin(), s.tokens.end());
      completion->mutable_logprob()->Add(s.logprobs.begin(), s.logprobs.end());
      completion->set_finish_reason(s.finish);
      completion->set_text(tokenizer_->Decode(s.tokens));
      // Rewards that differ within a group: even first tokens are "unsafe".
      *completion->add_score() =
          wideberth::testing::FakeScorerClient::Scored("safety", s.tokens[0] % 2 == 0 ? 0.8 : 0.45);
      *completion->add_score() = wideberth::testing::FakeScorerClient::Scored(
          utility, 0.1 * static_cast<double>(s.tokens[0] % 7));
    }
    tamper(request);
    for (int copy = 0; copy < (twice ? 2 : 1); ++copy) {
      WB_ASSIGN_OR_RETURN(const proto::SubmitGroupResponse response, client_.SubmitGroup(request));
      responses.push_back(response);
    }
    submitted.push_back(request);
    return absl::OkStatus();
  }

  wideberth::testing::InMemoryLearnerClient client_;
  const std::string name_, folder_;
  std::unique_ptr<model::CausalLm> model_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  absl::optional<model::ChatTemplate> chat_template_;
  proto::RunConfig config_;
  std::string member_id_, fingerprint_;
  std::shared_ptr<model::Adapter> adapter_;
  uint64_t version_ = 0;
};

}  // namespace wideberth::learner
