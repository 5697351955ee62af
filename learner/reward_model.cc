// SPDX-License-Identifier: Apache-2.0
#include "learner/reward_model.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/log.h"
#include "base/status.h"
#include "model/catch_torch.h"
#include "model/random.h"

namespace wideberth::learner {
namespace {

constexpr double kHeadDeviation = 0.02;
// Beside the streams of the adapter's matrices.
constexpr uint64_t kScoreHeadStream = kAdapterStream + (uint64_t{1} << 32);

at::Tensor NormalHead(int64_t hidden, double deviation, uint64_t seed) {
  std::vector<double> values;
  for (uint32_t i = 0; i < static_cast<uint32_t>(hidden); ++i) {
    // Box and Muller; the first number is above 0.
    const double u = 1 - UniformAt(seed, kScoreHeadStream, 0, i);
    const double v = UniformAt(seed, kScoreHeadStream, 1, i);
    values.push_back(deviation * std::sqrt(-2 * std::log(u)) * std::cos(2 * M_PI * v));
  }
  return at::tensor(values, at::kDouble).unsqueeze(0);
}

}  // namespace

at::Tensor RewardModelLoss(const at::Tensor& chosen_P, const at::Tensor& rejected_P,
                           const at::Tensor& margin_P, const proto::RewardModelConfig& config) {
  at::Tensor loss_P = -at::log_sigmoid(chosen_P - rejected_P - margin_P);
  const double center = config.center_rewards_coefficient();
  if (center != 0) loss_P = loss_P + (chosen_P + rejected_P).square() * center;
  return loss_P;
}

absl::Status AddScoreHead(const model::CausalLm& model, uint64_t seed, model::Adapter* adapter) {
  return model::CatchTorch("making a score head", [&] {
    const auto like = adapter->Parameters().front().options().requires_grad(false);
    const int64_t hidden = model.spec().hidden;
    // Where all weights learn, rewards begin at unit scale; LoRA begins as transformers does.
    const double deviation =
        adapter->weights() == nullptr ? kHeadDeviation : 1 / std::sqrt(static_cast<double>(hidden));
    const at::Tensor head =
        model.spec().sequence_classification ? model.head() : NormalHead(hidden, deviation, seed);
    return adapter->SetScoreHead(at::empty(head.sizes(), like).copy_(head));
  });
}

absl::StatusOr<std::unique_ptr<SupervisedTask>> RewardTask::Create(const proto::RunConfig& config,
                                                                   const model::CausalLm& model) {
  WB_ASSIGN_OR_RETURN(PreferenceData data, ReadPreferenceData(config, model));
  int64_t num_weighted = 0;
  for (const PreferencePair& pair : data.train) num_weighted += pair.weight != 1;
  if (num_weighted > 0) {
    WB_LOG(WARNING) << num_weighted << " of " << data.train.size()
                    << " pairs have a weight, which learner.task REWARD does not use";
  }
  return std::make_unique<RewardTask>(config.learner().reward_model(), std::move(data));
}

PassResult RewardTask::Compute(Split split, const Pass& pass, const ModelInUse& model) const {
  const at::Tensor hidden_NH = model.Hidden(pass.tree);
  const at::Tensor last_SH = hidden_NH.index_select(0, model.model->Indices(pass.rows));
  // A reward's differences are small beside it, so bf16 ends before the head.
  const auto wide = last_SH.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor& head_1H = model.adapter->score_head();
  const at::Tensor rewards_S = at::matmul(last_SH.to(wide), head_1H.to(wide).squeeze(0));
  const at::Tensor chosen_P = rewards_S.slice(0, 0, rewards_S.size(0), 2);
  const at::Tensor rejected_P = rewards_S.slice(0, 1, rewards_S.size(0), 2);
  std::vector<double> margins;
  for (const int64_t member : pass.members) margins.push_back(data_.rows(split)[member].margin);
  const auto like = rewards_S.options().requires_grad(false);
  const at::Tensor loss_P =
      RewardModelLoss(chosen_P, rejected_P, at::tensor(margins, at::kDouble).to(like), config_);
  PassResult result;
  result.loss = loss_P.dot(at::tensor(pass.weights, at::kDouble).to(like));
  const auto count = static_cast<double>(pass.members.size());
  result.means["accuracy"] = {chosen_P.gt(rejected_P).sum().item<double>(), count};
  result.means["margin"] = {(chosen_P - rejected_P).detach().sum().item<double>(), count};
  result.means["mean_reward"] = {rewards_S.detach().sum().item<double>(), 2 * count};
  return result;
}

}  // namespace wideberth::learner
