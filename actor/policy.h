// SPDX-License-Identifier: Apache-2.0
// The policy as an actor sees it: prompts join a running batch, sampled completions leave it, and
// the adapter is swapped between two tokens. Abstract, so that the loop in rollout.h is tested
// without a model; ModelPolicy is the real one.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "base/mutex.h"
#include "model/causal_lm.h"
#include "model/chat_template.h"
#include "model/conversation.h"
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
  // Every token from now on is sampled with this version, those of completions under way as well.
  // On an error the version before stays.
  virtual absl::Status Use(const transport::AdapterBlob& blob) = 0;

  // The running batch, as model::Generator has it. `adapter_off`: by the base itself; what is
  // sampled with and without the adapter does not mix, so Add waits for `num_running` to be 0
  // before it changes sides (WB_CHECK).
  virtual absl::StatusOr<size_t> Add(const std::vector<model::PromptGroup>& groups,
                                     bool adapter_off) = 0;
  virtual absl::Status Step() = 0;
  virtual std::vector<model::Generator::Finished> TakeFinished() = 0;
  virtual int num_running() const = 0;      // Groups.
  virtual int64_t num_sampled() const = 0;  // Tokens since the last Clear.
  // Forgets what is under way.
  virtual void Clear() = 0;
};

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

  // Unpacks a version onto the device beside the one in use, so that Use only swaps the two; at
  // most one waits. Any thread. What fails here fails again in Use, which says why.
  void Prepare(std::shared_ptr<const transport::AdapterBlob> blob);
  absl::Status Use(const transport::AdapterBlob& blob) override;
  absl::StatusOr<size_t> Add(const std::vector<model::PromptGroup>& groups,
                             bool adapter_off) override;
  absl::Status Step() override;
  std::vector<model::Generator::Finished> TakeFinished() override;
  int num_running() const override;
  int64_t num_sampled() const override;
  void Clear() override { generator_.reset(); }

 private:
  explicit ModelPolicy(const proto::RunConfig& config) : config_(config) {}
  absl::StatusOr<std::shared_ptr<model::Adapter>> Unpack(const transport::AdapterBlob& blob) const;

  const proto::RunConfig config_;
  std::unique_ptr<model::CausalLm> model_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  absl::optional<model::ChatTemplate> chat_template_;
  std::vector<int32_t> stop_tokens_;
  std::shared_ptr<model::Adapter> adapter_;
  uint64_t version_ = 0;
  bool adapter_off_ = false;
  std::unique_ptr<model::Generator> generator_;

  struct Prepared {
    std::shared_ptr<const transport::AdapterBlob> blob;
    std::shared_ptr<model::Adapter> adapter;
  };
  Mutex mutex_;
  Prepared prepared_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace wideberth::actor
