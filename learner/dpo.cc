// SPDX-License-Identifier: Apache-2.0
#include "learner/dpo.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <numeric>

#include "base/log.h"
#include "base/status.h"
#include "model/catch_torch.h"
#include "model/logprobs.h"

namespace wideberth::learner {
namespace {

// [S]: sums over consecutive stretches of [M].
at::Tensor SumsOf(const at::Tensor& values_M, const std::vector<int64_t>& lengths) {
  std::vector<at::Tensor> sums;
  for (const at::Tensor& stretch : at::split_with_sizes(values_M, lengths))
    sums.push_back(stretch.sum());
  return at::stack(sums);
}

// Every other one of [2P].
at::Tensor Chosen(const at::Tensor& both) { return both.slice(0, 0, both.size(0), 2); }
at::Tensor Rejected(const at::Tensor& both) { return both.slice(0, 1, both.size(0), 2); }

at::Tensor Like(const std::vector<double>& values, const at::Tensor& like) {
  return at::tensor(values, at::kDouble).to(like.options().requires_grad(false));
}

}  // namespace

at::Tensor DpoLoss(const DpoInputs& inputs, const proto::DpoConfig& config) {
  const at::Tensor scaled_P =
      ((inputs.chosen - inputs.reference_chosen) - (inputs.rejected - inputs.reference_rejected)) *
      config.beta();
  const double smoothing = config.label_smoothing();
  at::Tensor loss_P = at::log_sigmoid(scaled_P) * (smoothing - 1);
  if (smoothing != 0) loss_P = loss_P - at::log_sigmoid(-scaled_P) * smoothing;
  loss_P = loss_P * inputs.weights;
  if (config.sft_weight() != 0)
    loss_P = loss_P - inputs.chosen / inputs.chosen_tokens * config.sft_weight();
  return loss_P;
}

absl::StatusOr<std::unique_ptr<SupervisedTask>> DpoTask::Create(const proto::RunConfig& config,
                                                                const model::CausalLm& model,
                                                                const model::Adapter* reference) {
  WB_ASSIGN_OR_RETURN(PreferenceData data, ReadPreferenceData(config, model));
  auto task = std::make_unique<DpoTask>(config.learner().dpo(), std::move(data));
  if (config.learner().dpo().precompute_reference()) {
    WB_LOG(INFO) << "reference log-probs of " << task->num_rows(Split::kTrain) << " training and "
                 << task->num_rows(Split::kValidation) << " validation pairs";
    WB_RETURN_IF_ERROR(task->PrecomputeReference(ModelInUse{&model, nullptr, reference},
                                                 config.learner().micro_batch_tokens()));
  }
  return task;
}

absl::Status DpoTask::PrecomputeReference(const ModelInUse& model, int64_t max_tokens) {
  return model::CatchTorch("reference log-probs", [&] {
    const at::NoGradGuard no_grad;
    for (const Split split : {Split::kTrain, Split::kValidation}) {
      std::vector<int64_t> rows(num_rows(split));
      std::iota(rows.begin(), rows.end(), 0);
      Reference found;
      for (const Pass& pass : Plan(split, rows, max_tokens)) {
        const at::Tensor both = ReferenceLogProbs(split, pass, model).cpu();
        for (int64_t i = 0; i < both.size(0); ++i)
          (i % 2 == 0 ? found.chosen : found.rejected).push_back(both[i].item<double>());
      }
      (split == Split::kTrain ? train_reference_ : validation_reference_) = std::move(found);
    }
  });
}

at::Tensor DpoTask::ReferenceLogProbs(Split split, const Pass& pass,
                                      const ModelInUse& model) const {
  const Reference& kept = split == Split::kTrain ? train_reference_ : validation_reference_;
  if (!kept.chosen.empty()) {
    std::vector<double> both;
    for (const int64_t member : pass.members) {
      both.push_back(kept.chosen[member]);
      both.push_back(kept.rejected[member]);
    }
    return at::tensor(both, at::kDouble);
  }
  const at::NoGradGuard no_grad;
  const at::Tensor hidden_NH = model.ReferenceHidden(pass.tree);
  return SumsOf(model::LogProbsOfTokens(hidden_NH, model.model->head(), pass.rows, pass.targets,
                                        /*temperature=*/1.0)
                    .logprob,
                pass.lengths);
}

PassResult DpoTask::Compute(Split split, const Pass& pass, const ModelInUse& model) const {
  const at::Tensor hidden_NH = model.Hidden(pass.tree);
  const model::TokenLogProbs now = model::LogProbsOfTokens(
      hidden_NH, model.model->head(), pass.rows, pass.targets, /*temperature=*/1.0);
  const at::Tensor both = SumsOf(now.logprob, pass.lengths);
  const at::Tensor reference =
      ReferenceLogProbs(split, pass, model).to(both.options().requires_grad(false));
  std::vector<double> tokens, weights;
  for (size_t m = 0; m < pass.members.size(); ++m) {
    tokens.push_back(static_cast<double>(pass.lengths[2 * m]));
    weights.push_back(data_.rows(split)[pass.members[m]].weight);
  }
  DpoInputs inputs;
  inputs.chosen = Chosen(both);
  inputs.rejected = Rejected(both);
  inputs.reference_chosen = Chosen(reference);
  inputs.reference_rejected = Rejected(reference);
  inputs.chosen_tokens = Like(tokens, both);
  inputs.weights = Like(weights, both);
  PassResult result;
  result.loss = DpoLoss(inputs, config_).dot(Like(pass.weights, both));

  const auto count = static_cast<double>(pass.members.size());
  const auto note = [&](const char* name, const at::Tensor& values_P) {
    result.means[name] = {values_P.sum().item<double>(), count};
  };
  const at::Tensor rewards = ((both.detach() - reference) * config_.beta()).to(at::kDouble);
  note("rewards/chosen", Chosen(rewards));
  note("rewards/rejected", Rejected(rewards));
  note("rewards/accuracies", Chosen(rewards).gt(Rejected(rewards)));
  note("rewards/margins", Chosen(rewards) - Rejected(rewards));
  note("logps/chosen", inputs.chosen.detach());
  note("logps/rejected", inputs.rejected.detach());
  result.means["entropy"] = {now.entropy.detach().sum().item<double>(),
                             static_cast<double>(pass.rows.size())};
  return result;
}

}  // namespace wideberth::learner
