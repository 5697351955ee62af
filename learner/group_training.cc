// SPDX-License-Identifier: Apache-2.0
#include "learner/group_training.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace wideberth::learner {
namespace {

// The completions of a group that can be trained on, with their rewards in the same order.
TrainGroup MakeTrainGroup(const AcceptedGroup& group, const std::vector<CompletionReward>& rewards,
                          bool on_policy) {
  TrainGroup out;
  out.group_id = group.request.group_id();
  out.source = group.member;
  out.on_policy = on_policy;
  out.prompt.assign(group.request.prompt_token_id().begin(), group.request.prompt_token_id().end());
  for (int c = 0; c < group.request.completion_size(); ++c) {
    const proto::Completion& completion = group.request.completion(c);
    if (completion.token_id().empty()) continue;
    TrainCompletion train;
    train.index = c;
    train.tokens.assign(completion.token_id().begin(), completion.token_id().end());
    train.sampler_logprobs.assign(completion.logprob().begin(), completion.logprob().end());
    train.finish = completion.finish_reason();
    train.reward = rewards[c].reward;
    train.terms = rewards[c].terms;
    out.completions.push_back(std::move(train));
  }
  return out;
}

// Of several versions: the newest is not the only one that sampled it.
bool HasSegments(const AcceptedGroup& group) {
  const auto& completions = group.request.completion();
  return std::any_of(completions.begin(), completions.end(),
                     [](const proto::Completion& c) { return c.segment_size() > 0; });
}

struct Mean {
  double sum = 0;
  int64_t n = 0;
  void Add(double value) {
    sum += value;
    ++n;
  }
  absl::optional<double> value() const {
    return n > 0 ? absl::optional<double>(sum / static_cast<double>(n)) : absl::nullopt;
  }
};

void DescribeScores(const std::vector<std::vector<CompletionReward>>& rewards, StepReport* report) {
  Mean u, t, boundary;
  for (const std::vector<CompletionReward>& group : rewards) {
    for (const CompletionReward& reward : group) {
      if (reward.utility.has_value()) u.Add(*reward.utility);
      if (!reward.t.has_value()) continue;
      t.Add(*reward.t);
      boundary.Add(InBoundaryMass(*reward.t) ? 1.0 : 0.0);
    }
  }
  report->u_mean = u.value();
  report->t_mean = t.value();
  report->boundary_mass = boundary.value();
}

}  // namespace

absl::StatusOr<StepReport> TrainOnGroups(const std::vector<AcceptedGroup>& groups, uint64_t version,
                                         RewardComposer* composer, Trainer* trainer,
                                         const proto::RewardConfig& reward) {
  std::vector<GroupScores> scores;
  for (const AcceptedGroup& group : groups) {
    std::vector<const proto::Completion*> completions;
    for (const proto::Completion& completion : group.request.completion())
      completions.push_back(&completion);
    const absl::optional<bool> unsafe =
        group.prompt.has_unsafe() ? absl::optional<bool>(group.prompt.unsafe()) : absl::nullopt;
    scores.push_back(GatherScores(reward, unsafe, completions));
  }
  WB_ASSIGN_OR_RETURN(const auto rewards, composer->Compose(scores));
  StepReport report;
  std::vector<TrainGroup> train;
  Mean staleness;
  for (size_t i = 0; i < groups.size(); ++i) {
    const int64_t behind = static_cast<int64_t>(version - groups[i].request.policy_version());
    train.push_back(MakeTrainGroup(groups[i], rewards[i], behind == 0 && !HasSegments(groups[i])));
    staleness.Add(static_cast<double>(behind));
    report.staleness_max = std::max(report.staleness_max, behind);
    report.seconds.generate += groups[i].request.generate_seconds();
    report.seconds.score += groups[i].request.score_seconds();
  }
  report.staleness_mean = staleness.value().value_or(0.0);
  DescribeScores(rewards, &report);
  DescribeGroups(groups, &report);
  WB_ASSIGN_OR_RETURN(report.metrics, trainer->Step(train));
  return report;
}

std::vector<TrainedCompletion> TrainedCompletions(const StepMetrics& metrics) {
  std::vector<TrainedCompletion> trained;
  for (const CompletionOutcome& outcome : metrics.completions) {
    trained.push_back({outcome.group_id, static_cast<int>(outcome.completion), outcome.reward,
                       outcome.advantage});
  }
  return trained;
}

AcceptedGroup AcceptedFrom(const JournalGroup& stored, const PromptSet& prompts) {
  const uint64_t id = stored.request.group_id();
  AcceptedGroup group;
  group.phase = stored.phase;
  group.member = stored.member;
  group.prompt = stored.phase == Phase::kTrain
                     ? prompts.Train(id).prompt
                     : prompts.HeldOut(static_cast<int64_t>(id & ~kEvaluationGroup)).prompt;
  group.request = stored.request;
  return group;
}

absl::StatusOr<std::vector<AcceptedGroup>> GroupsOfStep(int64_t step, Journal& journal,
                                                        const PromptSet& prompts) {
  WB_ASSIGN_OR_RETURN(const std::vector<JournalGroup> stored, journal.ReadGroupsOfStep(step));
  std::vector<AcceptedGroup> groups;
  for (const JournalGroup& group : stored) {
    if (group.erased) {
      return absl::FailedPreconditionError(
          absl::StrCat("step ", step,
                       " cannot be trained again, since the token ids of its groups "
                       "were erased after a later checkpoint (redact_text)"));
    }
    groups.push_back(AcceptedFrom(group, prompts));
  }
  return groups;
}

}  // namespace wideberth::learner
