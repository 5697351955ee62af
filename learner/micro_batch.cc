// SPDX-License-Identifier: Apache-2.0
// Groups -> packed token trees.
#include "learner/micro_batch.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace wideberth::learner {
namespace {

absl::Status Invalid(const TrainGroup& group, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("group ", group.group_id,
                   group.source.empty() ? "" : absl::StrCat(" of ", group.source), ": ", what));
}

absl::Status CheckTokens(const TrainGroup& group, const std::vector<int32_t>& tokens,
                         absl::string_view what, int64_t vocab) {
  if (tokens.empty()) return Invalid(group, absl::StrCat(what, " has no tokens"));
  for (int32_t token : tokens) {
    if (token >= 0 && token < vocab) continue;
    return Invalid(group, absl::StrCat(what, " has token ", token, ", expected ids below ", vocab));
  }
  return absl::OkStatus();
}

absl::Status CheckCompletion(const TrainGroup& group, size_t index, int64_t vocab,
                             int64_t max_positions) {
  const TrainCompletion& completion = group.completions[index];
  const std::string what = absl::StrCat("completion ", index);
  WB_RETURN_IF_ERROR(CheckTokens(group, completion.tokens, what, vocab));
  const auto total = static_cast<int64_t>(group.prompt.size() + completion.tokens.size());
  if (total > max_positions) {
    return Invalid(group, absl::StrCat("prompt and ", what, " have ", total,
                                       " tokens, expected at most ", max_positions));
  }
  if (completion.sampler_logprobs.size() != completion.tokens.size()) {
    return Invalid(group, absl::StrCat(what, " has ", completion.sampler_logprobs.size(),
                                       " log-probs, expected ", completion.tokens.size()));
  }
  for (float logprob : completion.sampler_logprobs) {
    if (std::isfinite(logprob)) continue;
    return Invalid(group,
                   absl::StrCat(what, " has log-prob ", logprob, ", expected finite numbers"));
  }
  if (completion.reward.has_value() && !std::isfinite(*completion.reward)) {
    return Invalid(group, absl::StrCat(what, " has reward ", *completion.reward,
                                       ", expected a finite number or none"));
  }
  return absl::OkStatus();
}

bool IsMasked(const TrainCompletion& completion, const proto::LearnerConfig& config) {
  return config.mask_truncated_completions() && completion.finish == proto::LENGTH;
}

void AddCompletion(const std::vector<int32_t>& tokens, int root, MicroBatch* batch) {
  batch->rows.push_back(batch->tree.LastRow(root));
  if (tokens.size() > 1) {
    const int node = batch->tree.Add(std::vector<int32_t>(tokens.begin(), tokens.end() - 1), root);
    const int64_t first = batch->tree.nodes[node].first_row;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      batch->rows.push_back(first + static_cast<int64_t>(i));
    }
  }
  batch->targets.insert(batch->targets.end(), tokens.begin(), tokens.end());
  batch->lengths.push_back(static_cast<int64_t>(tokens.size()));
}

}  // namespace

absl::Status CheckTrainGroups(const std::vector<TrainGroup>& groups, int64_t vocab,
                              int64_t max_positions) {
  std::set<uint64_t> ids;
  bool any_scored = false;
  for (const TrainGroup& group : groups) {
    if (!ids.insert(group.group_id).second) return Invalid(group, "is there twice");
    WB_RETURN_IF_ERROR(CheckTokens(group, group.prompt, "the prompt", vocab));
    for (size_t i = 0; i < group.completions.size(); ++i) {
      WB_RETURN_IF_ERROR(CheckCompletion(group, i, vocab, max_positions));
      any_scored = any_scored || group.completions[i].reward.has_value();
    }
  }
  if (!any_scored) {
    return absl::InvalidArgumentError(absl::StrCat("none of the completions of ", groups.size(),
                                                   " groups has a reward, expected at least one"));
  }
  return absl::OkStatus();
}

StepPlan PlanStep(const std::vector<TrainGroup>& groups, const proto::LearnerConfig& config,
                  int64_t max_tokens) {
  StepPlan plan;
  std::vector<absl::optional<double>> rewards;
  std::vector<uint64_t> ids;
  for (const TrainGroup& group : groups) {
    for (const TrainCompletion& completion : group.completions) {
      rewards.push_back(completion.reward);
      ids.push_back(group.group_id);
    }
  }
  plan.advantages = GroupAdvantages(rewards, ids, config.scale_rewards());

  size_t first_advantage = 0;
  for (size_t g = 0; g < groups.size(); ++g) {
    const TrainGroup& group = groups[g];
    std::vector<size_t> trained;
    auto group_tokens = static_cast<int64_t>(group.prompt.size());
    bool has_signal = config.beta() != 0;
    for (size_t i = 0; i < group.completions.size(); ++i) {
      const TrainCompletion& completion = group.completions[i];
      if (!completion.reward.has_value()) continue;
      ++plan.num_completions;
      if (IsMasked(completion, config)) continue;
      plan.num_tokens += static_cast<int64_t>(completion.tokens.size());
      group_tokens += static_cast<int64_t>(completion.tokens.size()) - 1;
      has_signal = has_signal || plan.advantages.advantage[first_advantage + i] != 0;
      trained.push_back(i);
    }
    if (!trained.empty() && has_signal) {
      if (plan.micro_batches.empty() ||
          plan.micro_batches.back().tree.num_tokens + group_tokens > max_tokens) {
        plan.micro_batches.emplace_back();
      }
      MicroBatch& batch = plan.micro_batches.back();
      const int root = batch.tree.Add(group.prompt);
      for (size_t i : trained) {
        AddCompletion(group.completions[i].tokens, root, &batch);
        batch.members.push_back({g, i});
        batch.advantages.push_back(plan.advantages.advantage[first_advantage + i]);
      }
    }
    first_advantage += group.completions.size();
  }
  return plan;
}

}  // namespace wideberth::learner
