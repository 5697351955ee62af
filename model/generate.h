// SPDX-License-Identifier: Apache-2.0
// Prompts -> sampled completions with their log-probs. Generator is the actor's engine: groups join
// and leave a running batch, and the policy may change between two tokens; Generate, of whole
// batches, serves scorers and `wideberth generate`.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/causal_lm.h"
#include "model/decode.h"
#include "model/sampler.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"

namespace wideberth::model {

struct PromptGroup {
  uint64_t group = 0;  // Key of the random numbers, with the run's seed, completion and position.
  std::vector<int32_t> prompt;  // Not empty.
  int num_completions = 1;
};

// Tokens in a row that were sampled with one version of the policy.
struct VersionRun {
  uint64_t version = 0;
  int32_t num_tokens = 0;
};

struct Sampled {
  std::vector<int32_t> tokens;  // Stop token included when `finish` is STOP.
  std::vector<float> logprobs;  // log softmax(logits / temperature) of each token, before
                                // top-k/top-p/min-p (temperature 1 where greedy).
  proto::FinishReason finish = proto::LENGTH;
  std::vector<VersionRun> versions;  // All tokens, in order. As Generator::Use was told.
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

// A running batch. Each prompt is prefilled once and shared by its completions; all completions
// advance together, and those that end leave the batch. A completion depends on seed, group, its
// index and the policy only, not on what else is in the batch or when it joined (but for rounding,
// which follows the batch's size). Not thread-safe. Errors of torch come back as a Status; nothing
// but the destructor may be called afterwards.
class Generator {
 public:
  // `model` and what `options` points to outlive it. `options.wanted` and `between_steps` are
  // Generate's.
  static absl::StatusOr<std::unique_ptr<Generator>> Create(const CausalLm* model,
                                                           const GenerateOptions& options);

  // Every token from now on is sampled with `adapter` (null: the base), which outlives its use and
  // is called `version` in what it samples. Completions under way go on from the keys and values
  // they have.
  void Use(const Adapter* adapter, uint64_t version);

  // Prefills the prompts and samples each completion's first token. Indices count all groups ever
  // added, from 0; returned: that of the first of these. InvalidArgument, and nothing is changed,
  // where a group does not fit the model.
  absl::StatusOr<size_t> Add(const std::vector<PromptGroup>& groups);

  // One more token for every completion that has not ended.
  absl::Status Step();

  // Ends the group's completions as they are.
  void End(size_t index);

  struct Finished {
    size_t index = 0;
    std::vector<Sampled> completions;
  };
  // The groups whose completions have all ended since the last call, in order of index.
  std::vector<Finished> TakeFinished();

  // Indices of the groups that are still sampled, ascending.
  std::vector<size_t> running() const;
  int64_t num_sampled() const { return num_sampled_; }  // Tokens so far.

 private:
  struct Group {
    PromptGroup prompt;
    std::vector<Sampled> completions;
    int num_open = 0;  // Completions that have not ended.
  };
  struct Row {
    size_t group;
    int completion;
    int32_t last_token = 0;
    int num_steps = 0;
    bool ended = false;
  };
  Generator(const CausalLm* model, const GenerateOptions& options);
  absl::Status Check(const std::vector<PromptGroup>& groups) const;
  at::Tensor Logits(const at::Tensor& hidden_MH) const;
  KvPrefix Whole(KvPrefix own) const;
  void Prefill(size_t first_index, size_t end_index);
  void StepOrThrow();
  void Sample(const at::Tensor& logits_BV, int64_t logits_row, Row& row);
  void DropEnded();

  const CausalLm* const model_;
  const GenerateOptions options_;
  Sampler sampler_;
  std::set<int32_t> stops_;
  const Adapter* adapter_;
  uint64_t version_ = 0;
  DecodeBatch batch_;
  std::vector<Row> rows_;  // Of the batch; ended ones stay until it is compacted.
  bool full_ = false;      // One of them has no room left.
  std::map<size_t, Group> groups_;
  size_t next_index_ = 0;
  int64_t num_sampled_ = 0;
};

// One batch from its prompts to its end. InvalidArgument where a prompt plus max_new_tokens exceeds
// the context. result[i][g]: completion g of groups[i].
absl::StatusOr<std::vector<std::vector<Sampled>>> Generate(const CausalLm& model,
                                                           const std::vector<PromptGroup>& groups,
                                                           const GenerateOptions& options);

}  // namespace wideberth::model
