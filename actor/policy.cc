// SPDX-License-Identifier: Apache-2.0
#include "actor/policy.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/catch_torch.h"

namespace wideberth::actor {

std::vector<int32_t> StopTokens(const model::ModelSpec& spec, const model::Tokenizer& tokenizer,
                                const absl::optional<model::ChatTemplate>& chat_template) {
  std::set<int32_t> stops(spec.eos_token_ids.begin(), spec.eos_token_ids.end());
  if (chat_template) {
    for (const std::string& token : chat_template->stop_tokens()) {
      if (const absl::optional<int32_t> id = tokenizer.TokenToId(token)) stops.insert(*id);
    }
  }
  return {stops.begin(), stops.end()};
}

absl::StatusOr<std::unique_ptr<ModelPolicy>> ModelPolicy::Load(const proto::RunConfig& config) {
  proto::ModelConfig where = config.policy().model();
  if (config.actor().has_device()) where.set_device(config.actor().device());
  where.set_num_threads(config.actor().num_threads());
  std::unique_ptr<ModelPolicy> policy(new ModelPolicy(config));
  WB_ASSIGN_OR_RETURN(policy->model_, model::CausalLm::Load(where));
  WB_ASSIGN_OR_RETURN(policy->tokenizer_, model::Tokenizer::FromFolder(where.path()));
  WB_ASSIGN_OR_RETURN(policy->chat_template_, model::ChatTemplateOf(where.path()));
  if (policy->tokenizer_->vocab_size() > policy->model_->spec().vocab) {
    return absl::InvalidArgumentError(
        absl::StrCat(where.path(), ": the tokenizer has ", policy->tokenizer_->vocab_size(),
                     " ids, the model's embedding ", policy->model_->spec().vocab,
                     " rows: they belong to different models"));
  }
  policy->stop_tokens_ =
      StopTokens(policy->model_->spec(), *policy->tokenizer_, policy->chat_template_);
  return policy;
}

absl::StatusOr<std::vector<int32_t>> ModelPolicy::Encode(const proto::Prompt& prompt) const {
  std::vector<model::Message> messages;
  for (const proto::ChatMessage& message : prompt.message())
    messages.push_back({message.role(), message.content()});
  return model::EncodeConversation(*tokenizer_, chat_template_, messages);
}

std::vector<int32_t> ModelPolicy::EncodeText(const std::string& text) const {
  return tokenizer_->Encode(text, /*add_special_tokens=*/false, /*parse_special=*/false);
}

std::string ModelPolicy::Decode(const std::vector<int32_t>& tokens) const {
  return tokenizer_->Decode(tokens);
}

absl::StatusOr<std::shared_ptr<model::Adapter>> ModelPolicy::Unpack(
    const transport::AdapterBlob& blob) const {
  if (blob.manifest.base_fingerprint() != fingerprint()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "adapter version ", blob.manifest.version(), " is for a base with fingerprint ",
        blob.manifest.base_fingerprint(), ", this one has ", fingerprint()));
  }
  return model::CatchTorch(absl::StrCat("adapter version ", blob.manifest.version()), [&] {
    return model::Adapter::Unpack(blob.manifest, blob.bytes, model_->spec(), model_->dtype(),
                                  model_->device());
  });
}

void ModelPolicy::Prepare(std::shared_ptr<const transport::AdapterBlob> blob) {
  {
    MutexLock lock(mutex_);
    prepared_ = {};  // Before the next is there: the device holds no third.
  }
  const auto adapter = Unpack(*blob);
  if (!adapter.ok()) return;
  MutexLock lock(mutex_);
  prepared_ = {std::move(blob), *adapter};
}

absl::Status ModelPolicy::Use(const transport::AdapterBlob& blob) {
  std::shared_ptr<model::Adapter> adapter;
  {
    MutexLock lock(mutex_);
    if (prepared_.blob.get() == &blob) adapter = std::exchange(prepared_, {}).adapter;
  }
  if (adapter == nullptr) {
    WB_ASSIGN_OR_RETURN(adapter, Unpack(blob));
  }
  version_ = blob.manifest.version();
  if (generator_ != nullptr && !adapter_off_) generator_->Use(adapter.get(), version_);
  adapter_ = std::move(adapter);
  return absl::OkStatus();
}

absl::StatusOr<size_t> ModelPolicy::Add(const std::vector<model::PromptGroup>& groups,
                                        bool adapter_off) {
  WB_CHECK(adapter_off == adapter_off_ || num_running() == 0,
           "what is sampled with and without the adapter does not mix");
  adapter_off_ = adapter_off;
  if (generator_ == nullptr) {
    model::GenerateOptions options;
    options.sampling = config_.generation();
    options.stop_tokens = stop_tokens_;
    options.seed = config_.seed();
    WB_ASSIGN_OR_RETURN(generator_, model::Generator::Create(model_.get(), options));
  }
  generator_->Use(adapter_off ? nullptr : adapter_.get(), version_);
  return generator_->Add(groups);
}

absl::Status ModelPolicy::Step() {
  return generator_ == nullptr ? absl::OkStatus() : generator_->Step();
}

std::vector<model::Generator::Finished> ModelPolicy::TakeFinished() {
  if (generator_ == nullptr) return {};
  return generator_->TakeFinished();
}

int ModelPolicy::num_running() const {
  return generator_ == nullptr ? 0 : static_cast<int>(generator_->running().size());
}

int64_t ModelPolicy::num_sampled() const {
  return generator_ == nullptr ? 0 : generator_->num_sampled();
}

}  // namespace wideberth::actor
