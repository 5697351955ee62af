// SPDX-License-Identifier: Apache-2.0
// Prompts -> sampled completions with their log-probs. The actor's engine, and `wideberth
// generate`.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "model/causal_lm.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"

namespace wideberth::model {

struct PromptGroup {
  uint64_t group = 0;  // Key of the random numbers, with the run's seed, completion and position.
  std::vector<int32_t> prompt;  // Not empty.
  int num_completions = 1;
};

struct Sampled {
  std::vector<int32_t> tokens;  // Stop token included when `finish` is STOP.
  std::vector<float> logprobs;  // log softmax(logits / temperature) of each token, before
                                // top-k/top-p/min-p (temperature 1 where greedy).
  proto::FinishReason finish = proto::LENGTH;
};

struct GenerateOptions {
  proto::GenerationConfig sampling;
  std::vector<int32_t> stop_tokens;  // Beside sampling.stop_token_id.
  uint64_t seed = 0;
  const Adapter* adapter = nullptr;
  // Keys and values, by the same adapter, of tokens that every prompt begins with and goes on
  // after: computed once for all.
  const KvPrefix* prefix = nullptr;
  // Asked between two decode steps of every group that is still sampled, by its index; false: its
  // completions end as they are, and the others go on.
  std::function<bool(size_t)> wanted;
  // Called between two decode steps with the number of tokens sampled so far; false ends generation
  // with Cancelled.
  std::function<bool(int64_t)> between_steps;
};

// Each prompt is prefilled once and shared by its completions; all completions are decoded in one
// batch, finished ones leave it. A completion depends on seed, group, its index and the policy
// only, not on what else is in the batch. InvalidArgument where a prompt plus max_new_tokens
// exceeds the context. result[i][g]: completion g of groups[i].
absl::StatusOr<std::vector<std::vector<Sampled>>> Generate(const CausalLm& model,
                                                           const std::vector<PromptGroup>& groups,
                                                           const GenerateOptions& options);

}  // namespace wideberth::model
