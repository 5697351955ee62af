// SPDX-License-Identifier: Apache-2.0
#include "learner/screening.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "learner/rewards.h"

namespace wideberth::learner {
namespace {

absl::Status Malformed(const proto::SubmitGroupRequest& request, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("group ", request.group_id(), " is malformed: ", what));
}

bool AllRefused(const proto::SubmitGroupRequest& request) {
  for (const proto::Completion& completion : request.completion()) {
    if (completion.token_id_size() > 0) return false;
    for (const proto::Score& score : completion.score()) {
      if (score.status() != proto::REFUSED_INPUT) return false;
    }
  }
  return true;
}

const proto::Score* FindScore(const proto::Completion& completion, const std::string& scorer) {
  for (const proto::Score& score : completion.score()) {
    if (score.scorer_name() == scorer) return &score;
  }
  return nullptr;
}

proto::ScoreStatus StatusOf(const proto::Score* score) {
  return score == nullptr ? proto::MODEL_ERROR : score->status();
}

absl::Status CheckCompletion(const proto::SubmitGroupRequest& request, int index, int64_t vocab) {
  const proto::Completion& completion = request.completion(index);
  const std::string who = absl::StrCat("completion ", index);
  if (completion.token_id().empty()) return Malformed(request, who + " has no tokens");
  if (completion.logprob_size() != completion.token_id_size()) {
    return Malformed(request,
                     absl::StrCat(who, " has ", completion.logprob_size(), " log-probs for ",
                                  completion.token_id_size(), " tokens"));
  }
  for (int32_t id : completion.token_id()) {
    if (id < 0 || id >= vocab)
      return Malformed(request, absl::StrCat(who, " has token ", id, ", must be below ", vocab));
  }
  for (float logprob : completion.logprob()) {
    // A rounding error above zero is possible for a certain token.
    if (!std::isfinite(logprob) || logprob > 1e-3f) {
      return Malformed(
          request, absl::StrCat(who, " has log-prob ", logprob, ", must be finite and at most 0"));
    }
  }
  for (const proto::Score& score : completion.score()) {
    const bool scored = score.status() == proto::SCORED;
    if (scored != score.has_value() || (scored && !std::isfinite(score.value()))) {
      return Malformed(request,
                       absl::StrCat(who, ": score of ", score.scorer_name(), " is ",
                                    proto::ScoreStatus_Name(score.status()),
                                    score.has_value() ? absl::StrCat(" with value ", score.value())
                                                      : " without a value",
                                    ", a finite value must be there exactly when SCORED"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckWellFormed(const proto::SubmitGroupRequest& request, int num_completions,
                             int64_t vocab) {
  if (request.completion_size() != num_completions) {
    return Malformed(request, absl::StrCat("it has ", request.completion_size(),
                                           " completions, expected ", num_completions));
  }
  if (AllRefused(request)) return absl::OkStatus();
  if (request.prompt_token_id().empty()) return Malformed(request, "its prompt has no tokens");
  for (int32_t id : request.prompt_token_id()) {
    if (id < 0 || id >= vocab)
      return Malformed(request,
                       absl::StrCat("its prompt has token ", id, ", must be below ", vocab));
  }
  for (int i = 0; i < request.completion_size(); ++i) {
    if (const absl::Status status = CheckCompletion(request, i, vocab); !status.ok()) return status;
  }
  return absl::OkStatus();
}

bool IsUsable(const proto::Completion& completion, const proto::RewardConfig& reward) {
  if (completion.token_id().empty()) return false;
  for (const std::string& scorer : NeededScorers(reward)) {
    if (StatusOf(FindScore(completion, scorer)) != proto::SCORED) return false;
  }
  return true;
}

Screening Screen(const proto::SubmitGroupRequest& request, const proto::RewardConfig& reward,
                 Phase phase, int attempt) {
  Screening result;
  bool drop = false, retry = false;
  for (int i = 0; i < request.completion_size(); ++i) {
    const proto::Completion& completion = request.completion(i);
    result.num_usable += IsUsable(completion, reward);
    for (const std::string& scorer : NeededScorers(reward)) {
      const proto::Score* score = FindScore(completion, scorer);
      const proto::ScoreStatus status = StatusOf(score);
      if (status == proto::SCORED) continue;
      ++result.missing[status];
      const proto::RewardConfig::MissingRule rule = MissingRuleFor(reward, status);
      const bool drops = rule == proto::RewardConfig::DROP_GROUP;
      const bool retries = rule == proto::RewardConfig::RETRY && attempt < reward.max_retries();
      if (result.reason.empty() || (drops && !drop) || (retries && !drop && !retry)) {
        result.reason = absl::StrCat("scorer ", scorer, " answered ",
                                     proto::ScoreStatus_Name(status), " for completion ", i,
                                     score != nullptr && !score->message().empty()
                                         ? absl::StrCat(" (", score->message(), ")")
                                         : "");
      }
      drop |= drops;
      retry |= retries;
    }
  }
  const bool evaluation = phase != Phase::kTrain;
  if (drop && !evaluation) {
    result.disposition = Disposition::kDrop;
  } else if (retry) {
    result.disposition = Disposition::kRetry;
  } else if (result.num_usable < 2 && !evaluation) {
    result.disposition = Disposition::kDrop;
  }
  return result;
}

}  // namespace wideberth::learner
