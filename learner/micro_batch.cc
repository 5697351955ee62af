// SPDX-License-Identifier: Apache-2.0
// Groups -> packed token trees.
#include "learner/micro_batch.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "learner/rank_share.h"

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
                             int64_t max_positions, size_t num_terms) {
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
  if (completion.reward.has_value() && num_terms > 0 && completion.terms.size() != num_terms) {
    return Invalid(group, absl::StrCat(what, " has ", completion.terms.size(),
                                       " terms of its reward, expected ", num_terms));
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

Advantages AdvantagesOf(const std::vector<TrainGroup>& groups, const proto::LearnerConfig& config,
                        const std::vector<double>& term_weights) {
  const bool by_term =
      config.multi_objective_aggregation() == proto::LearnerConfig::NORMALIZE_THEN_SUM;
  std::vector<absl::optional<double>> rewards;
  std::vector<ScoreRow> rows;
  std::vector<uint64_t> ids;
  for (const TrainGroup& group : groups) {
    for (const TrainCompletion& completion : group.completions) {
      rewards.push_back(completion.reward);
      if (by_term) {
        rows.push_back(completion.reward.has_value() ? completion.terms
                                                     : ScoreRow(term_weights.size()));
      }
      ids.push_back(group.group_id);
    }
  }
  return by_term ? NormalizedSumAdvantages(rows, term_weights, ids)
                 : GroupAdvantages(rewards, ids, config.scale_rewards());
}

struct Member {
  MicroBatch::Member place;
  double advantage;
};

int64_t TokensOf(const std::vector<TrainGroup>& groups, const std::vector<Member>& members) {
  const TrainGroup& group = groups[members[0].place.group];
  auto num_tokens = static_cast<int64_t>(group.prompt.size());
  for (const Member& member : members) {
    num_tokens +=
        static_cast<int64_t>(group.completions[member.place.completion].tokens.size()) - 1;
  }
  return num_tokens;
}

// What a slice holds of one group, as far as it is trained on.
void AddMembers(const std::vector<TrainGroup>& groups, const std::vector<Member>& members,
                int64_t max_tokens, std::vector<MicroBatch>* batches) {
  const TrainGroup& group = groups[members[0].place.group];
  if (batches->empty() ||
      batches->back().tree.num_tokens + TokensOf(groups, members) > max_tokens) {
    batches->emplace_back();
  }
  MicroBatch& batch = batches->back();
  const int root = batch.tree.Add(group.prompt);
  for (const Member& member : members) {
    AddCompletion(group.completions[member.place.completion].tokens, root, &batch);
    batch.members.push_back(member.place);
    batch.advantages.push_back(member.advantage);
  }
}

// `load`: tokens each rank has so far in the step.
Slice MakeSlice(const std::vector<TrainGroup>& groups, const std::vector<Member>& scored,
                const proto::LearnerConfig& config, int rank, std::vector<int64_t>* load) {
  Slice slice;
  std::vector<std::vector<Member>> parts;  // By group.
  std::vector<int64_t> tokens;
  slice.num_completions = static_cast<int64_t>(scored.size());
  const bool all_have_signal =
      config.beta() != 0 || config.entropy_coef() != 0 || config.top_entropy_quantile() < 1;
  for (size_t first = 0; first < scored.size();) {
    std::vector<Member> trained;
    bool has_signal = all_have_signal;
    size_t end = first;
    for (; end < scored.size() && scored[end].place.group == scored[first].place.group; ++end) {
      const Member& member = scored[end];
      const TrainCompletion& completion =
          groups[member.place.group].completions[member.place.completion];
      if (IsMasked(completion, config)) continue;
      slice.num_tokens += static_cast<int64_t>(completion.tokens.size());
      has_signal = has_signal || member.advantage != 0;
      trained.push_back(member);
    }
    if (!trained.empty() && has_signal) {
      tokens.push_back(TokensOf(groups, trained));
      parts.push_back(std::move(trained));
    }
    first = end;
  }
  const std::vector<int> rank_of = ShareOut(tokens, load);
  for (size_t i = 0; i < parts.size(); ++i) {
    if (rank_of[i] == rank)
      AddMembers(groups, parts[i], config.micro_batch_tokens(), &slice.micro_batches);
  }
  return slice;
}

}  // namespace

absl::Status CheckTrainGroups(const std::vector<TrainGroup>& groups, int64_t vocab,
                              int64_t max_positions, size_t num_terms) {
  std::set<uint64_t> ids;
  bool any_scored = false;
  for (const TrainGroup& group : groups) {
    if (!ids.insert(group.group_id).second) return Invalid(group, "is there twice");
    WB_RETURN_IF_ERROR(CheckTokens(group, group.prompt, "the prompt", vocab));
    for (size_t i = 0; i < group.completions.size(); ++i) {
      WB_RETURN_IF_ERROR(CheckCompletion(group, i, vocab, max_positions, num_terms));
      any_scored = any_scored || group.completions[i].reward.has_value();
    }
  }
  if (!any_scored) {
    return absl::InvalidArgumentError(absl::StrCat("none of the completions of ", groups.size(),
                                                   " groups has a reward, expected at least one"));
  }
  return absl::OkStatus();
}

int64_t SlicesOf(const proto::LearnerConfig& config) {
  return config.has_steps_per_generation() ? config.steps_per_generation()
                                           : config.gradient_accumulation_steps();
}

int64_t UpdatesOf(const proto::LearnerConfig& config) {
  return config.num_iterations() * SlicesOf(config) / config.gradient_accumulation_steps();
}

StepPlan PlanStep(const std::vector<TrainGroup>& groups, const proto::LearnerConfig& config,
                  const std::vector<double>& term_weights, int rank, int world_size) {
  StepPlan plan;
  std::vector<int64_t> load(world_size, 0);
  plan.advantages = AdvantagesOf(groups, config, term_weights);
  std::vector<Member> scored;
  size_t next = 0;
  for (size_t g = 0; g < groups.size(); ++g) {
    for (size_t i = 0; i < groups[g].completions.size(); ++i, ++next) {
      if (!groups[g].completions[i].reward.has_value()) continue;
      scored.push_back({{g, i}, plan.advantages.advantage[next]});
    }
  }
  const auto num_slices = static_cast<size_t>(SlicesOf(config));
  for (size_t s = 0; s < num_slices; ++s) {
    const auto begin = scored.begin() + static_cast<int64_t>(s * scored.size() / num_slices);
    const auto end = scored.begin() + static_cast<int64_t>((s + 1) * scored.size() / num_slices);
    plan.slices.push_back(MakeSlice(groups, {begin, end}, config, rank, &load));
    plan.num_tokens += plan.slices.back().num_tokens;
  }
  return plan;
}

}  // namespace wideberth::learner
