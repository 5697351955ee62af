// SPDX-License-Identifier: Apache-2.0
#include "model/recompute.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace wideberth::model {
namespace {

using ::at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Body : torch::CustomClassHolder {
  explicit Body(std::function<Tensor(const Tensor&)> f) : function(std::move(f)) {}
  std::function<Tensor(const Tensor&)> function;
};

class RecomputeFunction : public torch::autograd::Function<RecomputeFunction> {
 public:
  // inputs: x, then the parameters.
  static Tensor forward(AutogradContext* context, at::TensorList inputs,
                        const c10::intrusive_ptr<Body>& body) {
    context->save_for_backward(inputs.vec());
    context->saved_data["body"] = c10::IValue::make_capsule(body);
    return body->function(inputs[0]);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list inputs = context->get_saved_variables();
    const auto body =
        c10::static_intrusive_pointer_cast<Body>(context->saved_data["body"].toCapsule());
    const c10::AutoGradMode with_gradients(true);
    const Tensor x = inputs[0].detach().requires_grad_(inputs[0].requires_grad());
    const Tensor y = body->function(x);
    variable_list wanted;
    std::vector<size_t> places;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!inputs[i].requires_grad()) continue;
      wanted.push_back(i == 0 ? x : inputs[i]);
      places.push_back(i);
    }
    const variable_list found =
        torch::autograd::grad({y}, wanted, gradients, /*retain_graph=*/std::nullopt,
                              /*create_graph=*/false, /*allow_unused=*/true);
    variable_list all(inputs.size() + 1);  // The body has no gradient.
    for (size_t i = 0; i < places.size(); ++i) all[places[i]] = found[i];
    return all;
  }
};

}  // namespace

Tensor Recomputed(std::function<Tensor(const Tensor&)> f, const Tensor& x,
                  const std::vector<Tensor>& parameters) {
  if (!c10::GradMode::is_enabled()) return f(x);
  variable_list inputs = {x};
  inputs.insert(inputs.end(), parameters.begin(), parameters.end());
  return RecomputeFunction::apply(at::TensorList(inputs), c10::make_intrusive<Body>(std::move(f)));
}

}  // namespace wideberth::model
