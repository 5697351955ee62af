// SPDX-License-Identifier: Apache-2.0
// Activation checkpointing: a function keeps nothing of what it computes but its input, and is
// computed again when its gradient is wanted. Used by CausalLm, a layer at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace wideberth::model {

// f(x), differentiable in x and in `parameters`, which are all that f uses that requires a
// gradient. f must give the same bits whenever it is called, and is kept, with what it refers to,
// until the graph goes. Gradients are bit for bit those of f itself. Not twice differentiable.
at::Tensor Recomputed(std::function<at::Tensor(const at::Tensor&)> f, const at::Tensor& x,
                      const std::vector<at::Tensor>& parameters);

}  // namespace wideberth::model
