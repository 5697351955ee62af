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

struct TrainCompletion {
  int64_t index = 0;                    // Its place in the group as it was sampled, for reports.
  std::vector<int32_t> tokens;          // Not empty, stop token included.
  std::vector<float> sampler_logprobs;  // One per token.
  proto::FinishReason finish = proto::STOP;
  absl::optional<double> reward;  // Empty: unscored, takes no part.
  // The reward's columns for NORMALIZE_THEN_SUM, one for each weight; not looked at otherwise.
  ScoreRow terms;
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

// What one pass of accumulation goes over: some of the version's completions, in their order.
struct Slice {
  std::vector<MicroBatch> micro_batches;
  int64_t num_tokens = 0;       // Tokens of scored completions that are not masked.
  int64_t num_completions = 0;  // Scored completions, masked ones too.
};

struct StepPlan {
  std::vector<Slice> slices;  // SlicesOf(config) of them; some empty where completions are few.
  Advantages advantages;      // Of all completions, group after group.
  int64_t num_tokens = 0;     // Over all slices.
};

// Slices of a policy version: steps_per_generation, or where that is unset
// gradient_accumulation_steps.
int64_t SlicesOf(const proto::LearnerConfig& config);
// Optimiser steps of a policy version: slices / gradient_accumulation_steps for each of
// num_iterations.
int64_t UpdatesOf(const proto::LearnerConfig& config);

// InvalidArgument naming group and completion: nothing to train on, a group id twice, an empty
// prompt or completion, a token outside the vocabulary, more tokens than positions, log-probs that
// do not match the tokens, numbers that are not finite, no reward anywhere, a reward with another
// number of terms than `num_terms` (0: they are not needed).
absl::Status CheckTrainGroups(const std::vector<TrainGroup>& groups, int64_t vocab,
                              int64_t max_positions, size_t num_terms = 0);

// Cuts the scored completions, group after group, into slices of (nearly) equal number, and packs
// each slice into micro-batches of at most micro_batch_tokens; what a slice holds of a group is
// never split. Leaves out masked completions (truncated, where the configuration says so), and
// what a slice holds of a group where it can contribute nothing: all advantages 0, beta 0, no
// entropy bonus and no entropy mask. Order is the groups', so a replay does the same sums.
// `term_weights`: of TrainCompletion.terms, for NORMALIZE_THEN_SUM.
// Where several ranks share the step, the micro-batches are those of `rank` (rank_share.h); all
// else is the whole step's.
StepPlan PlanStep(const std::vector<TrainGroup>& groups, const proto::LearnerConfig& config,
                  const std::vector<double>& term_weights = {}, int rank = 0, int world_size = 1);

}  // namespace wideberth::learner
