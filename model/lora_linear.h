// SPDX-License-Identifier: Apache-2.0
// One projection with its LoRA pair, forward and backward. Nothing is computed for the frozen
// weight but the input's gradient, and that only where somebody below needs it. Used by CausalLm.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace wideberth::model {

// Which elements of a projection's input its adapter does not see: a function of the two numbers
// and the element's place alone, so that a pass that is computed again drops the same.
struct Dropout {
  double probability = 0;
  uint64_t seed = 0;
  uint32_t stream = 0;  // Layer and projection.
};

// x [N, I], weight [O, I] and bias [O] (or undefined) frozen, a [R, I], b [O, R]:
// x W^T + bias + scaling * (dropout(x) A^T) B^T, differentiable in x, a and b.
at::Tensor LoraLinear(const at::Tensor& x_NI, const at::Tensor& weight_OI, const at::Tensor& bias_O,
                      const at::Tensor& a_RI, const at::Tensor& b_OR, double scaling,
                      const Dropout& dropout);

// [rows, columns]: 0 with the probability, else 1 / (1 - probability).
at::Tensor DropoutMask(int64_t rows, int64_t columns, const Dropout& dropout,
                       at::TensorOptions options);

}  // namespace wideberth::model
