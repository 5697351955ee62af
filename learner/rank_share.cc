// SPDX-License-Identifier: Apache-2.0
#include "learner/rank_share.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace wideberth::learner {

std::vector<int> ShareOut(const std::vector<int64_t>& tokens, std::vector<int64_t>* load) {
  std::vector<size_t> order(tokens.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return tokens[a] > tokens[b]; });
  std::vector<int> rank_of(tokens.size());
  for (const size_t group : order) {
    const auto least = std::min_element(load->begin(), load->end());
    rank_of[group] = static_cast<int>(least - load->begin());
    *least += tokens[group];
  }
  return rank_of;
}

proto::RankStep ToRankStep(const std::vector<TrainGroup>& groups) {
  proto::RankStep step;
  for (const TrainGroup& from : groups) {
    proto::RankGroup& group = *step.add_group();
    group.set_group_id(from.group_id);
    group.set_source(from.source);
    group.set_on_policy(from.on_policy);
    group.mutable_prompt_token_id()->Add(from.prompt.begin(), from.prompt.end());
    for (const TrainCompletion& one : from.completions) {
      proto::RankCompletion& completion = *group.add_completion();
      completion.set_index(one.index);
      completion.mutable_token_id()->Add(one.tokens.begin(), one.tokens.end());
      completion.mutable_logprob()->Add(one.sampler_logprobs.begin(), one.sampler_logprobs.end());
      completion.set_finish_reason(one.finish);
      if (one.reward.has_value()) completion.set_reward(*one.reward);
      for (const absl::optional<double>& term : one.terms)
        completion.add_term(term.value_or(std::numeric_limits<double>::quiet_NaN()));
    }
  }
  return step;
}

std::vector<TrainGroup> FromRankStep(const proto::RankStep& step) {
  std::vector<TrainGroup> groups;
  for (const proto::RankGroup& from : step.group()) {
    TrainGroup& group = groups.emplace_back();
    group.group_id = from.group_id();
    group.source = from.source();
    group.on_policy = from.on_policy();
    group.prompt.assign(from.prompt_token_id().begin(), from.prompt_token_id().end());
    for (const proto::RankCompletion& one : from.completion()) {
      TrainCompletion& completion = group.completions.emplace_back();
      completion.index = one.index();
      completion.tokens.assign(one.token_id().begin(), one.token_id().end());
      completion.sampler_logprobs.assign(one.logprob().begin(), one.logprob().end());
      completion.finish = one.finish_reason();
      if (one.has_reward()) completion.reward = one.reward();
      for (const double term : one.term()) {
        completion.terms.push_back(std::isnan(term) ? absl::nullopt : absl::optional<double>(term));
      }
    }
  }
  return groups;
}

}  // namespace wideberth::learner
