// SPDX-License-Identifier: Apache-2.0
// Held-out prompts before and after training -> what report/summary.h compares. Used by the learner
// at both ends of a run.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "learner/group_pool.h"
#include "learner/rewards.h"
#include "model/causal_lm.h"
#include "proto/config.pb.h"
#include "report/summary.h"

namespace wideberth::learner {

// The answers of one evaluation group in order of completion: scores, composed reward (without
// touching the running statistics) and k3 KL to the base. `measure_kl` false: the base itself
// answered, its KL is 0. With it, one forward pass of the base; the policy's log-probs are the
// sampler's. `temperature` as in sampling (0 counts as 1). Errors: Internal for what torch throws.
absl::StatusOr<std::vector<report::Answer>> EvaluateGroup(const AcceptedGroup& group,
                                                          const proto::RewardConfig& reward,
                                                          const RewardComposer& composer,
                                                          const model::CausalLm& model,
                                                          bool measure_kl, double temperature);

// Per completion: mean over its tokens of exp(ref - new) - (ref - new) - 1, with `new` the given
// log-probs and `ref` the base model's.
std::vector<double> KlToBase(const model::CausalLm& base, const std::vector<int32_t>& prompt,
                             const std::vector<std::vector<int32_t>>& completions,
                             const std::vector<std::vector<float>>& logprobs, double temperature);

}  // namespace wideberth::learner
