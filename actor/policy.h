// SPDX-License-Identifier: Apache-2.0
// The policy as an actor sees it: prompts in, sampled completions out, an adapter swapped in
// between. Abstract, so that the loop in rollout.h is tested without a model; ModelPolicy is the
// real one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "model/causal_lm.h"
#include "model/chat_template.h"
#include "model/generate.h"
#include "model/tokenizer.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"
#include "transport/adapter_blob.h"

namespace wideberth::actor {

// Not thread-safe but for Encode and Decode; one thread generates.
class Policy {
 public:
  virtual ~Policy() = default;
  virtual absl::StatusOr<std::vector<int32_t>> Encode(const proto::Prompt& prompt) const = 0;
  virtual std::vector<int32_t> EncodeText(const std::string& text) const = 0;
  // Without special tokens.
  virtual std::string Decode(const std::vector<int32_t>& tokens) const = 0;
  // Prompt and completion together.
  virtual int64_t context_tokens() const = 0;
  // Generates with this version from now on. On an error the version before stays.
  virtual absl::Status Use(const transport::AdapterBlob& blob) = 0;
  // As model::Generate; Cancelled when `between_steps` says false.
  virtual absl::StatusOr<std::vector<std::vector<model::Sampled>>> Generate(
      const std::vector<model::PromptGroup>& groups, bool adapter_off,
      const std::function<bool(int64_t)>& between_steps) = 0;
};

// A conversation as token ids: the model's chat template with the generation prompt, or, for a
// model that has none, the contents as plain text with whatever the tokenizer puts around one
// sequence.
absl::StatusOr<std::vector<int32_t>> EncodeConversation(
    const model::Tokenizer& tokenizer, const absl::optional<model::ChatTemplate>& chat_template,
    const std::vector<model::Message>& messages);

// The folder's template; nullopt where it has none. Other errors are the template's.
absl::StatusOr<absl::optional<model::ChatTemplate>> ChatTemplateOf(absl::string_view folder);

// End-of-sequence tokens of the folder and those that end an assistant turn, ascending.
std::vector<int32_t> StopTokens(const model::ModelSpec& spec, const model::Tokenizer& tokenizer,
                                const absl::optional<model::ChatTemplate>& chat_template);

class ModelPolicy final : public Policy {
 public:
  // Loads model, tokenizer and template of config.policy.model, on the actor's device. Errors name
  // file, found and expected.
  static absl::StatusOr<std::unique_ptr<ModelPolicy>> Load(const proto::RunConfig& config);

  const std::string& fingerprint() const { return model_->fingerprint(); }
  const model::CausalLm& model() const { return *model_; }

  absl::StatusOr<std::vector<int32_t>> Encode(const proto::Prompt& prompt) const override;
  std::vector<int32_t> EncodeText(const std::string& text) const override;
  std::string Decode(const std::vector<int32_t>& tokens) const override;
  int64_t context_tokens() const override { return model_->spec().max_positions; }
  absl::Status Use(const transport::AdapterBlob& blob) override;
  absl::StatusOr<std::vector<std::vector<model::Sampled>>> Generate(
      const std::vector<model::PromptGroup>& groups, bool adapter_off,
      const std::function<bool(int64_t)>& between_steps) override;

 private:
  explicit ModelPolicy(const proto::RunConfig& config) : config_(config) {}

  const proto::RunConfig config_;
  std::unique_ptr<model::CausalLm> model_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  absl::optional<model::ChatTemplate> chat_template_;
  std::vector<int32_t> stop_tokens_;
  std::shared_ptr<model::Adapter> adapter_;
};

}  // namespace wideberth::actor
