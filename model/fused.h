// SPDX-License-Identifier: Apache-2.0
// The elementwise parts of a decoder layer: one pass over memory each on a CPU in float32, ATen
// elsewhere. Forward and backward take the same code with and without gradients, so that policy and
// reference agree to the last bit while the adapter is zero. Used by CausalLm.
#pragma once

#include <ATen/core/Tensor.h>

namespace wideberth::model {

// x * rsqrt(mean(x^2) + epsilon) * weight, per row. x [N, H], weight [H]; 16-bit inputs are
// normalised in float32, as transformers does.
at::Tensor RmsNorm(const at::Tensor& x_NH, const at::Tensor& weight_H, double epsilon);

// Rotates the two halves of every head: x [N, A, D], cos and sin [N, D/2] float32.
at::Tensor Rotate(const at::Tensor& x_NAD, const at::Tensor& cos_NE, const at::Tensor& sin_NE);

// silu(gate) * up, both [N, F].
at::Tensor SwiGlu(const at::Tensor& gate_NF, const at::Tensor& up_NF);

}  // namespace wideberth::model
