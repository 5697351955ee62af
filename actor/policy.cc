// SPDX-License-Identifier: Apache-2.0
#include "actor/policy.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/catch_torch.h"

namespace wideberth::actor {

absl::StatusOr<absl::optional<model::ChatTemplate>> ChatTemplateOf(absl::string_view folder) {
  auto chat_template = model::ChatTemplate::FromFolder(folder);
  if (absl::IsNotFound(chat_template.status())) return absl::optional<model::ChatTemplate>();
  if (!chat_template.ok()) return chat_template.status();
  return absl::make_optional(*std::move(chat_template));
}

absl::StatusOr<std::vector<int32_t>> EncodeConversation(
    const model::Tokenizer& tokenizer, const absl::optional<model::ChatTemplate>& chat_template,
    const std::vector<model::Message>& messages) {
  if (chat_template) {
    WB_ASSIGN_OR_RETURN(const std::string text,
                        chat_template->Render(messages, /*add_generation_prompt=*/true));
    return tokenizer.Encode(text);
  }
  std::string text;
  for (const model::Message& message : messages)
    absl::StrAppend(&text, text.empty() ? "" : "\n", message.content);
  return tokenizer.Encode(text, /*add_special_tokens=*/true);
}

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
  WB_ASSIGN_OR_RETURN(policy->chat_template_, ChatTemplateOf(where.path()));
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
  return EncodeConversation(*tokenizer_, chat_template_, messages);
}

std::vector<int32_t> ModelPolicy::EncodeText(const std::string& text) const {
  return tokenizer_->Encode(text, /*add_special_tokens=*/false, /*parse_special=*/false);
}

std::string ModelPolicy::Decode(const std::vector<int32_t>& tokens) const {
  return tokenizer_->Decode(tokens);
}

absl::Status ModelPolicy::Use(const transport::AdapterBlob& blob) {
  if (blob.manifest.base_fingerprint() != fingerprint()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "adapter version ", blob.manifest.version(), " is for a base with fingerprint ",
        blob.manifest.base_fingerprint(), ", this one has ", fingerprint()));
  }
  return model::CatchTorch(
      absl::StrCat("adapter version ", blob.manifest.version()), [&]() -> absl::Status {
        WB_ASSIGN_OR_RETURN(adapter_,
                            model::Adapter::Unpack(blob.manifest, blob.bytes, model_->spec(),
                                                   model_->dtype(), model_->device()));
        return absl::OkStatus();
      });
}

absl::StatusOr<std::vector<std::vector<model::Sampled>>> ModelPolicy::Generate(
    const std::vector<model::PromptGroup>& groups, bool adapter_off,
    const std::function<bool(int64_t)>& between_steps) {
  model::GenerateOptions options;
  options.sampling = config_.generation();
  options.stop_tokens = stop_tokens_;
  options.seed = config_.seed();
  options.adapter = adapter_off ? nullptr : adapter_.get();
  options.between_steps = between_steps;
  std::vector<std::vector<model::Sampled>> sampled;
  WB_RETURN_IF_ERROR(model::CatchTorch("generation", [&]() -> absl::Status {
    WB_ASSIGN_OR_RETURN(sampled, model::Generate(*model_, groups, options));
    return absl::OkStatus();
  }));
  return sampled;
}

}  // namespace wideberth::actor
