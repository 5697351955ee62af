// SPDX-License-Identifier: Apache-2.0
#include "learner/supervised.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "learner/schedule.h"
#include "model/catch_torch.h"

namespace wideberth::learner {
namespace {

void AddMeans(const std::map<std::string, Mean>& from, std::map<std::string, Mean>* to) {
  for (const auto& [name, mean] : from) {
    (*to)[name].sum += mean.sum;
    (*to)[name].count += mean.count;
  }
}

std::map<std::string, double> Values(const std::map<std::string, Mean>& means) {
  std::map<std::string, double> values;
  for (const auto& [name, mean] : means) values[name] = mean.value();
  return values;
}

}  // namespace

at::Tensor ModelInUse::Hidden(const model::TokenTree& tree) const {
  model::ForwardOptions options;
  options.adapter = adapter;
  options.dropout_seed = dropout_seed;
  options.checkpoint_layers = checkpoint_layers;
  return model->Hidden(tree, options);
}

at::Tensor ModelInUse::ReferenceHidden(const model::TokenTree& tree) const {
  const at::NoGradGuard no_grad;
  model::ForwardOptions options;
  options.adapter = reference;
  return model->Hidden(tree, options);
}

absl::StatusOr<std::unique_ptr<SupervisedTrainer>> SupervisedTrainer::Create(
    const model::CausalLm* model, std::shared_ptr<model::Adapter> master,
    std::shared_ptr<const model::Adapter> reference, const proto::RunConfig& config,
    int64_t num_steps) {
  WB_ASSIGN_OR_RETURN(TrainedAdapter adapter, TrainedAdapter::Create(*model, std::move(master)));
  return model::CatchTorch("preparing to train", [&] {
    return std::unique_ptr<SupervisedTrainer>(
        new SupervisedTrainer(model, std::move(adapter), std::move(reference), config, num_steps));
  });
}

SupervisedTrainer::SupervisedTrainer(const model::CausalLm* model, TrainedAdapter adapter,
                                     std::shared_ptr<const model::Adapter> reference,
                                     const proto::RunConfig& config, int64_t num_steps)
    : model_(model),
      adapter_(std::move(adapter)),
      reference_(std::move(reference)),
      learner_(config.learner()),
      seed_(config.seed()),
      num_steps_(num_steps),
      optimizer_(
          std::make_unique<AdamW>(adapter_.master().NamedTensors(), AdamW::OptionsOf(learner_))) {}

absl::StatusOr<SupervisedStep> SupervisedTrainer::Step(const SupervisedTask& task,
                                                       const std::vector<Pass>& passes,
                                                       int64_t step) {
  return model::CatchTorch(absl::StrCat("training step ", step + 1),
                           [&] { return StepOrThrow(task, passes, step); });
}

absl::StatusOr<SupervisedStep> SupervisedTrainer::StepOrThrow(const SupervisedTask& task,
                                                              const std::vector<Pass>& passes,
                                                              int64_t step) {
  SupervisedStep result;
  std::map<std::string, Mean> means;
  // A step that failed half way leaves gradients behind.
  optimizer_->ZeroGradients();
  for (size_t p = 0; p < passes.size(); ++p) {
    ModelInUse model{model_, adapter_.working(), reference_.get()};
    model.checkpoint_layers = learner_.activation_checkpointing();
    if (adapter_.master().config().dropout() > 0)
      model.dropout_seed = DropoutSeed(seed_, step, static_cast<int64_t>(p));
    PassResult computed = task.Compute(Split::kTrain, passes[p], model);
    const double loss = computed.loss.item<double>();
    result.loss += loss;
    result.num_rows += static_cast<int64_t>(passes[p].members.size());
    result.num_tokens += passes[p].tree.num_tokens;
    AddMeans(computed.means, &means);
    if (std::isfinite(loss)) adapter_.Backward(computed.loss);
  }
  result.metrics = Values(means);
  result.learning_rate = LearningRate(learner_, optimizer_->num_steps(), num_steps_);
  result.grad_norm = std::numeric_limits<double>::quiet_NaN();
  if (!std::isfinite(result.loss)) {
    result.skipped = absl::StrCat("the loss is ", result.loss, ", expected a finite number");
    return result;
  }
  optimizer_->set_learning_rate(result.learning_rate);
  const absl::StatusOr<double> norm = optimizer_->Step();
  if (!norm.ok()) {
    result.skipped = std::string(norm.status().message());
    return result;
  }
  result.grad_norm = *norm;
  adapter_.Changed();
  return result;
}

absl::StatusOr<Validation> SupervisedTrainer::Validate(
    const SupervisedTask& task, const std::vector<Pass>& passes,
    const std::function<bool()>& should_stop) const {
  return model::CatchTorch("validation", [&]() -> absl::StatusOr<Validation> {
    const at::NoGradGuard no_grad;
    const ModelInUse model{model_, adapter_.working(), reference_.get()};
    Validation validation;
    std::map<std::string, Mean> means;
    for (const Pass& pass : passes) {
      if (should_stop()) return absl::CancelledError("validation was stopped");
      const PassResult computed = task.Compute(Split::kValidation, pass, model);
      validation.loss += computed.loss.item<double>();
      AddMeans(computed.means, &means);
      validation.values.insert(validation.values.end(), computed.values.begin(),
                               computed.values.end());
    }
    validation.metrics = Values(means);
    return validation;
  });
}

}  // namespace wideberth::learner
