// SPDX-License-Identifier: Apache-2.0
// How a training step's groups are laid out for the model: packed token trees, each one forward and
// backward pass. Made by Trainer; no torch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "learner/advantages.h"
#include "model/token_tree.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"

namespace wideberth::learner {

// Groups share a forward pass up to so many tokens, so that tiny models are not all overhead; a
// larger group has one of its own.
inline constexpr int64_t kMicroBatchTokens = 512;

struct TrainCompletion {
  std::vector<int32_t> tokens;          // Not empty, stop token included.
  std::vector<float> sampler_logprobs;  // One per token.
  proto::FinishReason finish = proto::STOP;
  absl::optional<double> reward;  // Empty: unscored, takes no part.
};

struct TrainGroup {
  uint64_t group_id = 0;  // Distinct within a step.
  std::string source;     // Who sampled it ("actor-0"), for messages.
  // Sampled by exactly the adapter being trained: its log-probs have to agree.
  bool on_policy = true;
  std::vector<int32_t> prompt;
  std::vector<TrainCompletion> completions;
};

struct MicroBatch {
  // One completion that is trained on.
  struct Member {
    size_t group = 0;       // Into the step's groups.
    size_t completion = 0;  // Into the group's completions.
  };
  // Every group is a root with its completions below it. A completion's last token is not in the
  // tree: nothing is predicted from it.
  model::TokenTree tree;
  std::vector<int64_t> rows;       // [M] row whose logits predict the token
  std::vector<int64_t> targets;    // [M] the token
  std::vector<Member> members;     // [C]
  std::vector<int64_t> lengths;    // [C]
  std::vector<double> advantages;  // [C]
};

struct StepPlan {
  std::vector<MicroBatch> micro_batches;
  Advantages advantages;   // Of all completions, group after group.
  int64_t num_tokens = 0;  // Normaliser of dapo: tokens of scored completions that are not masked.
  int64_t num_completions = 0;  // Normaliser of grpo: scored completions, masked ones too.
};

// InvalidArgument naming group and completion: nothing to train on, a group id twice, an empty
// prompt or completion, a token outside the vocabulary, more tokens than positions, log-probs that
// do not match the tokens, numbers that are not finite, no reward anywhere.
absl::Status CheckTrainGroups(const std::vector<TrainGroup>& groups, int64_t vocab,
                              int64_t max_positions);

// Leaves out unscored completions; masked ones (truncated, where the configuration says so); and
// groups all of whose advantages are 0 when beta is 0, which can contribute nothing. Order is the
// groups', so a replay does the same sums.
StepPlan PlanStep(const std::vector<TrainGroup>& groups, const proto::LearnerConfig& config,
                  int64_t max_tokens = kMicroBatchTokens);

}  // namespace wideberth::learner
