// SPDX-License-Identifier: Apache-2.0
// The decode batch: completions of several prompts that advance one token a step, each seeing its
// prompt's shared keys and values and its own.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/causal_lm.h"

namespace wideberth::model {

// Sequences that began together and are at the same step of their completions. Prompts may differ
// in length. Not thread-safe; used by DecodeBatch.
class DecodeCohort {
 public:
  DecodeCohort(const CausalLm* model, std::vector<KvPrefix> prompts, std::vector<int64_t> prompt_of,
               int64_t max_steps);

  // Positions of the next tokens, after which `Attend` is called once a layer, then `EndStep`.
  void BeginStep(std::vector<int64_t>* positions);
  at::Tensor Attend(int64_t layer, const at::Tensor& q_BQD, const at::Tensor& k_BKD,
                    const at::Tensor& v_BKD);
  void EndStep();
  void Keep(const std::vector<int64_t>& rows);
  int64_t size() const { return static_cast<int64_t>(prompt_of_.size()); }

 private:
  struct Run {
    int64_t prompt, first, count;  // Adjacent sequences of one prompt.
  };
  void FindRuns();
  void Reserve(int64_t steps);

  const CausalLm* model_;
  std::vector<KvPrefix> prompts_;
  std::vector<int64_t> prompt_of_;
  int64_t max_steps_;
  int64_t step_ = 0;      // Tokens every sequence has in its own cache.
  int64_t capacity_ = 0;  // Steps the own caches have room for.
  std::vector<Run> runs_;
  int64_t longest_prompt_ = 0;
  std::vector<at::Tensor> keys_BKTD_, values_BKTD_;  // Per layer.
  at::Tensor
      scores_;  // Per step: [B, K, Q/K, P + T], -inf where a prompt is shorter than the longest.
};

// Not thread-safe. Rows are the sequences of all cohorts, in the order they were added.
class DecodeBatch {
 public:
  // `model` outlives the batch.
  explicit DecodeBatch(const CausalLm* model) : model_(model) {}

  // Sequences that begin with the next step. `prompt_of` names each one's prompt, in ascending
  // order; each takes at most `max_steps` steps.
  void Add(std::vector<KvPrefix> prompts, std::vector<int64_t> prompt_of, int64_t max_steps);

  // Hidden states [B, H] of the next position of every sequence, whose tokens are `tokens` [B]. The
  // layers see all rows at once.
  at::Tensor Step(const std::vector<int32_t>& tokens, const Adapter* adapter);

  // Keeps the sequences at `rows` (ascending) and forgets the others.
  void Keep(const std::vector<int64_t>& rows);

  int64_t size() const;

 private:
  at::Tensor Attend(int64_t layer, const at::Tensor& q_BQD, const at::Tensor& k_BKD,
                    const at::Tensor& v_BKD);

  const CausalLm* const model_;
  std::vector<DecodeCohort> cohorts_;
};

}  // namespace wideberth::model
