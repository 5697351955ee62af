// SPDX-License-Identifier: Apache-2.0
#include "learner/screening.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "learner/rewards.h"
#include "transport/message_limits.h"

namespace wideberth::learner {
namespace {

absl::Status Malformed(const proto::SubmitGroupRequest& request, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("group ", request.group_id(), " is malformed: ", what));
}

bool AllRefused(const proto::SubmitGroupRequest& request) {
  for (const proto::Completion& completion : request.completion()) {
    if (completion.token_id_size() + completion.logprob_size() + completion.segment_size() > 0)
      return false;
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

absl::Status CheckScores(const proto::SubmitGroupRequest& request, int index) {
  const proto::Completion& completion = request.completion(index);
  const std::string who = absl::StrCat("completion ", index);
  if (completion.score_size() > transport::kMaxScores ||
      completion.text().size() > transport::kMaxTextBytes) {
    return Malformed(request,
                     absl::StrCat(who, " has ", completion.score_size(), " scores and a text of ",
                                  completion.text().size(), " bytes, must have at most ",
                                  transport::kMaxScores, " and ", transport::kMaxTextBytes));
  }
  for (const proto::Score& score : completion.score()) {
    const size_t longest_id =
        std::max({score.scorer_name().size(), score.model_fingerprint().size(),
                  score.template_hash().size()});
    if (longest_id > transport::kMaxIdBytes ||
        score.message().size() > transport::kMaxSentenceBytes) {
      return Malformed(
          request,
          absl::StrCat(who, ": a score has a name or fingerprint of ", longest_id,
                       " bytes and a message of ", score.message().size(), ", must have at most ",
                       transport::kMaxIdBytes, " and ", transport::kMaxSentenceBytes));
    }
    if (!score.has_status() || !std::isfinite(score.latency_ms())) {
      return Malformed(request, absl::StrCat(who, ": score of ", score.scorer_name(),
                                             " has no known status or a latency of ",
                                             score.latency_ms(), " ms"));
    }
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

// Positive counts that sum up to the tokens, versions that grow from the group's own.
absl::Status CheckSegments(const proto::SubmitGroupRequest& request, int index) {
  const proto::Completion& completion = request.completion(index);
  if (completion.segment().empty()) return absl::OkStatus();
  int64_t num_tokens = 0;
  const proto::Segment* before = nullptr;
  for (const proto::Segment& segment : completion.segment()) {
    const uint64_t version = segment.policy_version();
    const bool follows = before == nullptr ? version >= request.policy_version()
                                           : version > before->policy_version();
    if (segment.num_tokens() <= 0 || !follows ||
        segment.adapter_fingerprint().size() > transport::kMaxIdBytes) {
      return Malformed(
          request,
          absl::StrCat(
              "completion ", index, " has a segment of ", segment.num_tokens(),
              " tokens by version ", version,
              before == nullptr ? "" : absl::StrCat(" after version ", before->policy_version()),
              ", must have tokens, and versions must grow from ", request.policy_version()));
    }
    num_tokens += segment.num_tokens();
    before = &segment;
  }
  if (num_tokens == completion.token_id_size()) return absl::OkStatus();
  return Malformed(request, absl::StrCat("completion ", index, " has segments of ", num_tokens,
                                         " tokens, expected ", completion.token_id_size()));
}

absl::Status CheckCompletion(const proto::SubmitGroupRequest& request, int index, int64_t vocab) {
  const proto::Completion& completion = request.completion(index);
  const std::string who = absl::StrCat("completion ", index);
  if (completion.token_id().empty()) return Malformed(request, who + " has no tokens");
  if (completion.token_id_size() > transport::kMaxTokens) {
    return Malformed(request, absl::StrCat(who, " has ", completion.token_id_size(),
                                           " tokens, must have at most ", transport::kMaxTokens));
  }
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
  return CheckSegments(request, index);
}

}  // namespace

absl::Status CheckWellFormed(const proto::SubmitGroupRequest& request, int num_completions,
                             int64_t vocab) {
  if (request.completion_size() != num_completions) {
    return Malformed(request, absl::StrCat("it has ", request.completion_size(),
                                           " completions, expected ", num_completions));
  }
  for (const double seconds : {request.generate_seconds(), request.score_seconds()}) {
    if (!std::isfinite(seconds) || seconds < 0) {
      return Malformed(request,
                       absl::StrCat("it took ", seconds, " s, must be finite and not negative"));
    }
  }
  for (int i = 0; i < request.completion_size(); ++i) {
    if (const absl::Status status = CheckScores(request, i); !status.ok()) return status;
  }
  if (AllRefused(request)) return absl::OkStatus();
  if (request.prompt_token_id().empty()) return Malformed(request, "its prompt has no tokens");
  if (request.prompt_token_id_size() > transport::kMaxTokens) {
    return Malformed(request, absl::StrCat("its prompt has ", request.prompt_token_id_size(),
                                           " tokens, must have at most ", transport::kMaxTokens));
  }
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
