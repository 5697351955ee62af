// SPDX-License-Identifier: Apache-2.0
// AdamW on flat buffers with per-parameter views.
#include "learner/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"

namespace wideberth::learner {
namespace {

// One buffer of all parameters' sizes, zero, and views of it in the parameters' shapes.
at::Tensor FlatLike(const std::vector<at::Tensor>& parameters, std::vector<at::Tensor>* views) {
  int64_t total = 0;
  for (const at::Tensor& parameter : parameters) total += parameter.numel();
  const at::TensorOptions options =
      parameters.empty() ? at::TensorOptions(at::kFloat) : parameters[0].options();
  at::Tensor flat = at::zeros({total}, options.requires_grad(false));
  int64_t offset = 0;
  for (const at::Tensor& parameter : parameters) {
    views->push_back(flat.narrow(0, offset, parameter.numel()).view(parameter.sizes()));
    offset += parameter.numel();
  }
  return flat;
}

// Tensor by tensor: one float32 sum over millions of squares loses the fourth digit.
double Norm(const std::vector<at::Tensor>& tensors) {
  if (tensors.empty()) return 0;
  return at::stack(at::_foreach_norm(tensors)).to(at::kDouble).norm().item<double>();
}

}  // namespace

AdamW::Options AdamW::OptionsOf(const proto::LearnerConfig& config) {
  Options options;
  options.learning_rate = config.learning_rate();
  options.beta1 = config.adam_beta1();
  options.beta2 = config.adam_beta2();
  options.epsilon = config.adam_epsilon();
  options.weight_decay = config.weight_decay();
  options.max_grad_norm = config.max_grad_norm();
  return options;
}

AdamW::AdamW(std::vector<std::pair<std::string, at::Tensor>> parameters, const Options& options)
    : options_(options) {
  for (auto& [name, parameter] : parameters) {
    TORCH_CHECK(parameter.is_contiguous() && parameter.is_leaf() && parameter.is_floating_point(),
                name, " is not a contiguous floating leaf tensor");
    TORCH_CHECK(parameters_.empty() || parameter.options().type_equal(parameters_[0].options()),
                name, " has another dtype or device than ", names_.empty() ? name : names_[0]);
    names_.push_back(std::move(name));
    parameters_.push_back(std::move(parameter));
  }
  flat_gradient_ = FlatLike(parameters_, &gradients_);
  flat_exp_avg_ = FlatLike(parameters_, &exp_avgs_);
  flat_exp_avg_sq_ = FlatLike(parameters_, &exp_avg_sqs_);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    parameters_[i].set_requires_grad(true);
    parameters_[i].mutable_grad() = gradients_[i];
    steps_.push_back(
        at::zeros({}, parameters_[i].options().dtype(at::kFloat).requires_grad(false)));
  }
}

void AdamW::ZeroGradients() { flat_gradient_.zero_(); }

absl::StatusOr<double> AdamW::Step() {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    TORCH_CHECK(parameters_[i].mutable_grad().is_same(gradients_[i]), names_[i],
                " no longer accumulates into the flat gradient");
  }
  const double norm = Norm(gradients_);
  if (!std::isfinite(norm)) {
    absl::Status refused =
        absl::InternalError("the gradient's norm is not finite, expected finite gradients");
    for (size_t i = 0; i < gradients_.size(); ++i) {
      if (gradients_[i].isfinite().all().item<bool>()) continue;
      refused = absl::InternalError(
          absl::StrCat("the gradient of ", names_[i], " is not finite, expected finite numbers"));
      break;
    }
    ZeroGradients();
    return refused;
  }
  if (options_.max_grad_norm > 0) {
    const double scale = options_.max_grad_norm / (norm + 1e-6);
    if (scale < 1) flat_gradient_.mul_(scale);
  }
  ++num_steps_;
  for (at::Tensor& step : steps_) step.fill_(static_cast<double>(num_steps_));
  at::_fused_adamw_(parameters_, gradients_, exp_avgs_, exp_avg_sqs_, /*max_exp_avg_sqs=*/{},
                    steps_, options_.learning_rate, options_.beta1, options_.beta2,
                    options_.weight_decay, options_.epsilon, /*amsgrad=*/false,
                    /*maximize=*/false);
  ZeroGradients();
  return norm;
}

std::vector<std::pair<std::string, at::Tensor>> AdamW::NamedState() const {
  std::vector<std::pair<std::string, at::Tensor>> state;
  for (size_t i = 0; i < names_.size(); ++i) {
    state.emplace_back(absl::StrCat(names_[i], ".exp_avg"), exp_avgs_[i]);
    state.emplace_back(absl::StrCat(names_[i], ".exp_avg_sq"), exp_avg_sqs_[i]);
  }
  return state;
}

absl::Status AdamW::Restore(const std::vector<std::pair<std::string, at::Tensor>>& state,
                            int64_t num_steps) {
  std::map<std::string, at::Tensor> given(state.begin(), state.end());
  std::vector<std::pair<std::string, at::Tensor>> mine = NamedState();
  if (num_steps < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("optimiser step count is ", num_steps, ", expected at least 0"));
  }
  for (const auto& [name, tensor] : mine) {
    const auto found = given.find(name);
    if (found == given.end()) {
      return absl::InvalidArgumentError(absl::StrCat("optimiser state lacks ", name));
    }
    const at::Tensor& value = found->second;
    if (!value.defined() || value.sizes() != tensor.sizes() ||
        value.scalar_type() != tensor.scalar_type()) {
      return absl::InvalidArgumentError(
          absl::StrCat("optimiser state ", name, " has ", value.numel(), " values of type ",
                       c10::toString(value.scalar_type()), " or another shape, expected ",
                       tensor.numel(), " of type ", c10::toString(tensor.scalar_type())));
    }
  }
  if (given.size() != mine.size()) {
    for (const auto& entry : mine) given.erase(entry.first);
    return absl::InvalidArgumentError(
        given.empty()
            ? "optimiser state names a tensor twice"
            : absl::StrCat("optimiser state has the unknown tensor ", given.begin()->first));
  }
  const at::NoGradGuard no_grad;
  for (auto& [name, tensor] : mine) tensor.copy_(given.at(name));
  num_steps_ = num_steps;
  return absl::OkStatus();
}

}  // namespace wideberth::learner
