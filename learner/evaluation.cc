// SPDX-License-Identifier: Apache-2.0
#include "learner/evaluation.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/catch_torch.h"
#include "model/logprobs.h"

namespace wideberth::learner {

std::vector<double> KlToBase(const model::CausalLm& base, const std::vector<int32_t>& prompt,
                             const std::vector<std::vector<int32_t>>& completions,
                             const std::vector<std::vector<float>>& logprobs, double temperature) {
  const c10::AutoGradMode no_grad(false);
  const model::GroupTree tree = model::MakeGroupTree(prompt, completions);
  const at::Tensor hidden = base.Hidden(tree.tree, {});
  const at::Tensor reference = model::LogProbsOfTokens(hidden, base.head(), tree.rows, tree.targets,
                                                       temperature > 0 ? temperature : 1.0)
                                   .logprob.to(at::kCPU, at::kDouble)
                                   .contiguous();
  const double* ref = reference.data_ptr<double>();
  std::vector<double> kl(completions.size(), 0.0);
  for (size_t c = 0; c < completions.size(); ++c) {
    for (float logprob : logprobs[c]) {
      const double d = *ref++ - logprob;
      kl[c] += (std::exp(d) - d - 1) / static_cast<double>(completions[c].size());
    }
  }
  return kl;
}

absl::StatusOr<std::vector<report::Answer>> EvaluateGroup(const AcceptedGroup& group,
                                                          const proto::RewardConfig& reward,
                                                          const RewardComposer& composer,
                                                          const model::CausalLm& model,
                                                          bool measure_kl, double temperature) {
  const proto::SubmitGroupRequest& request = group.request;
  std::vector<const proto::Completion*> completions;
  for (const proto::Completion& completion : request.completion())
    completions.push_back(&completion);
  const absl::optional<bool> unsafe =
      group.prompt.has_unsafe() ? absl::optional<bool>(group.prompt.unsafe()) : absl::nullopt;
  WB_ASSIGN_OR_RETURN(const auto rewards,
                      composer.Evaluate({GatherScores(reward, unsafe, completions)}));
  std::vector<report::Answer> answers(completions.size());
  std::vector<std::vector<int32_t>> tokens;
  std::vector<std::vector<float>> logprobs;
  std::vector<size_t> answered;
  for (size_t c = 0; c < completions.size(); ++c) {
    report::Answer& answer = answers[c];
    answer.text = completions[c]->text();
    answer.num_tokens = completions[c]->token_id_size();
    answer.stopped = completions[c]->finish_reason() == proto::STOP;
    answer.u = rewards[0][c].utility;
    answer.t = rewards[0][c].t;
    answer.reward = rewards[0][c].reward;
    if (answer.num_tokens == 0) continue;
    if (!measure_kl) answer.kl = 0.0;
    tokens.emplace_back(completions[c]->token_id().begin(), completions[c]->token_id().end());
    logprobs.emplace_back(completions[c]->logprob().begin(), completions[c]->logprob().end());
    answered.push_back(c);
  }
  if (!measure_kl || answered.empty()) return answers;
  const std::vector<int32_t> prompt(request.prompt_token_id().begin(),
                                    request.prompt_token_id().end());
  WB_ASSIGN_OR_RETURN(
      const std::vector<double> kl,
      model::CatchTorch(absl::StrCat("evaluation of prompt ", group.prompt.id()),
                        [&] { return KlToBase(model, prompt, tokens, logprobs, temperature); }));
  for (size_t i = 0; i < answered.size(); ++i) answers[answered[i]].kl = kl[i];
  return answers;
}

}  // namespace wideberth::learner
