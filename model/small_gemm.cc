// SPDX-License-Identifier: Apache-2.0
#include "model/small_gemm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace wideberth::model {
namespace {

using ::at::Tensor;

#if defined(__x86_64__)
// 24 sums in registers; six weight rows stay in the first-level cache while all of x passes by.
constexpr int64_t kWeightRows = 6, kInputRows = 4, kWidth = 16, kMostRows = 96;

bool HasAvx512() {
  static const bool has = __builtin_cpu_supports("avx512f") != 0;
  return has;
}

// `next`: the weight rows wanted soon after, fetched from memory while these are multiplied.
__attribute__((target("avx512f"))) void Block(const float* x, const float* w, const float* next,
                                              float* y, int64_t k, int64_t n) {
  __m512 sums[kWeightRows][kInputRows];
#pragma GCC unroll 6
  for (int64_t i = 0; i < kWeightRows; ++i) {
#pragma GCC unroll 4
    for (int64_t j = 0; j < kInputRows; ++j) sums[i][j] = _mm512_setzero_ps();
  }
  for (int64_t at = 0; at < k; at += kWidth) {
    __m512 inputs[kInputRows];
#pragma GCC unroll 4
    for (int64_t j = 0; j < kInputRows; ++j) inputs[j] = _mm512_loadu_ps(x + j * k + at);
#pragma GCC unroll 6
    for (int64_t i = 0; i < kWeightRows; ++i) {
      const __m512 weight = _mm512_loadu_ps(w + i * k + at);
      _mm_prefetch(reinterpret_cast<const char*>(next + i * k + at), _MM_HINT_T0);
#pragma GCC unroll 4
      for (int64_t j = 0; j < kInputRows; ++j) {
        sums[i][j] = _mm512_fmadd_ps(weight, inputs[j], sums[i][j]);
      }
    }
  }
#pragma GCC unroll 6
  for (int64_t i = 0; i < kWeightRows; ++i) {
#pragma GCC unroll 4
    for (int64_t j = 0; j < kInputRows; ++j) y[j * n + i] = _mm512_reduce_add_ps(sums[i][j]);
  }
}

bool Fits(const Tensor& x, const Tensor& weight) {
  return c10::InferenceMode::is_enabled() && x.device().is_cpu() && x.scalar_type() == at::kFloat &&
         weight.scalar_type() == at::kFloat && weight.is_contiguous() && x.size(0) >= kInputRows &&
         x.size(0) <= kMostRows && weight.size(0) >= kWeightRows && x.size(1) % kWidth == 0 &&
         HasAvx512();
}

Tensor FewRows(const Tensor& input, const Tensor& weight) {
  const Tensor x = input.contiguous();
  const int64_t m = x.size(0), k = x.size(1), n = weight.size(0);
  Tensor y = at::empty({m, n}, x.options());
  const float *in = x.data_ptr<float>(), *w = weight.data_ptr<float>();
  float* out = y.data_ptr<float>();
  const int64_t blocks = (n + kWeightRows - 1) / kWeightRows;
  at::parallel_for(0, blocks, 16, [=](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      // The last block of either kind overlaps its neighbour rather than being a smaller one.
      const int64_t row = std::min(block * kWeightRows, n - kWeightRows);
      for (int64_t first = 0; first < m; first += kInputRows) {
        const int64_t at = std::min(first, m - kInputRows);
        // Asking again for a line on its way costs little, a branch in the inner loop more.
        const int64_t next = std::min(row + kWeightRows, n - kWeightRows);
        Block(in + at * k, w + row * k, w + next * k, out + at * n + row, k, n);
      }
    }
  });
  return y;
}
#endif

}  // namespace

Tensor TimesTransposed(const Tensor& x_MK, const Tensor& weight_NK) {
#if defined(__x86_64__)
  if (Fits(x_MK, weight_NK)) return FewRows(x_MK, weight_NK);
#endif
  return at::mm(x_MK, weight_NK.t());
}

}  // namespace wideberth::model
