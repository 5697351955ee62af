// SPDX-License-Identifier: Apache-2.0
// The matrix product of decoding: few rows times a large weight. Library GEMMs repack the weight
// for every call, which costs more than the product while rows are few. Used by CausalLm and
// Generate.
#pragma once

#include <ATen/core/Tensor.h>

namespace wideberth::model {

// x [M, K] times weight [N, K] transposed -> [M, N]. In inference mode, float32 on a CPU with
// AVX-512 and 4 <= M <= 96, it reads the weight once, as it lies; everything else is at::mm.
// Outside inference mode it always is, so that a policy and its reference are computed alike.
at::Tensor TimesTransposed(const at::Tensor& x_MK, const at::Tensor& weight_NK);

}  // namespace wideberth::model
