// SPDX-License-Identifier: Apache-2.0
// A group as an actor hands it in: parsing, the learner's checks, what missing scores mean, and
// its rewards.
#include <cmath>

#include "base/status.h"
#include "learner/rewards.h"
#include "learner/screening.h"
#include "tests/fuzz/fuzz.h"

namespace wideberth::fuzz {
namespace {

constexpr int64_t kVocab = 100;

proto::SubmitGroupRequest Group(bool with_scores) {
  proto::SubmitGroupRequest request;
  request.set_member_id("actor-0.1");
  request.set_lease_id("lease");
  request.set_group_id(7);
  request.set_policy_version(3);
  request.set_adapter_fingerprint("0123456789abcdef0123456789abcdef");
  request.add_prompt_token_id(5);
  for (int i = 0; i < 2; ++i) {
    proto::Completion* completion = request.add_completion();
    completion->add_token_id(i);
    completion->add_token_id(99);
    completion->add_logprob(-0.5f);
    completion->add_logprob(-1.25f);
    completion->set_finish_reason(proto::STOP);
    completion->set_text("yes");
    proto::Segment* segment = completion->add_segment();
    segment->set_policy_version(3);
    segment->set_num_tokens(2);
    for (const char* scorer : {"guard", "utility"}) {
      proto::Score* score = completion->add_score();
      score->set_scorer_name(scorer);
      score->set_status(with_scores || i > 0 ? proto::SCORED : proto::TIMED_OUT);
      if (with_scores || i > 0) score->set_value(0.25 + i);
    }
  }
  return request;
}

void TryReward(const proto::SubmitGroupRequest& request, proto::RewardConfig::Form form) {
  proto::RewardConfig config;
  config.add_guard("guard");
  config.set_utility("utility");
  config.set_form(form);
  for (int attempt : {0, 100}) {
    const learner::Screening screening =
        learner::Screen(request, config, learner::Phase::kTrain, attempt);
    WB_CHECK(screening.num_usable <= request.completion_size(), "more usable than there are");
    (void)learner::Screen(request, config, learner::Phase::kEvaluateBefore, attempt);
  }
  std::vector<const proto::Completion*> completions;
  for (const proto::Completion& completion : request.completion())
    completions.push_back(&completion);
  const auto groups = learner::GatherScores(config, true, completions);
  const auto rewards = learner::RewardComposer(config).Compose({groups});
  WB_CHECK(rewards.ok() && rewards->at(0).size() == completions.size(), "a group without rewards");
}

}  // namespace

std::vector<std::string> Seeds() {
  return {Group(true).SerializeAsString(), Group(false).SerializeAsString()};
}

bool TryOne(absl::string_view input) {
  proto::SubmitGroupRequest request;
  if (!request.ParseFromArray(input.data(), static_cast<int>(input.size()))) return false;
  for (const int expected : {2, request.completion_size()}) {
    ExpectNames(learner::CheckWellFormed(request, expected, kVocab), "group");
  }
  if (!learner::CheckWellFormed(request, request.completion_size(), kVocab).ok()) return false;
  for (const auto form : {proto::RewardConfig::BOUNDARY, proto::RewardConfig::COMPOUND,
                          proto::RewardConfig::SQUARED, proto::RewardConfig::PROMPT_AWARE}) {
    TryReward(request, form);
  }
  return true;
}

}  // namespace wideberth::fuzz
