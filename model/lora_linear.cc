// SPDX-License-Identifier: Apache-2.0
#include "model/lora_linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "model/small_gemm.h"

namespace wideberth::model {
namespace {

using ::at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kLanes = 16;                // Philox counters side by side.
constexpr uint32_t kDropoutTag = 0x44524F50;  // Apart from every counter that samples or shuffles.

// Elements 4 * block .. of the mask, for kLanes blocks: 1 where the 32 random bits reach
// `threshold`. The generator is Philox of model/random.h, laid out so that it vectorises.
__attribute__((target_clones("avx512f", "avx2", "default"))) void MaskBlocks(
    uint64_t block, uint32_t stream, uint64_t seed, uint32_t threshold, float* out) {
  uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) {
    c0[i] = static_cast<uint32_t>(block + i);
    c1[i] = static_cast<uint32_t>((block + i) >> 32);
    c2[i] = stream;
    c3[i] = kDropoutTag;
  }
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int64_t i = 0; i < kLanes; ++i) {
      const uint64_t p0 = uint64_t{0xD2511F53} * c0[i], p1 = uint64_t{0xCD9E8D57} * c2[i];
      c0[i] = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      c1[i] = static_cast<uint32_t>(p1);
      c2[i] = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c3[i] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  for (int64_t i = 0; i < kLanes; ++i) {
    out[4 * i] = c0[i] >= threshold ? 1.0f : 0.0f;
    out[4 * i + 1] = c1[i] >= threshold ? 1.0f : 0.0f;
    out[4 * i + 2] = c2[i] >= threshold ? 1.0f : 0.0f;
    out[4 * i + 3] = c3[i] >= threshold ? 1.0f : 0.0f;
  }
}

Tensor Dropped(const Tensor& x_NI, const Dropout& dropout) {
  if (dropout.probability <= 0) return x_NI;
  return DropoutMask(x_NI.size(0), x_NI.size(1), dropout, x_NI.options()).mul_(x_NI);
}

// The same operations with and without gradients, so that policy and reference agree to the last
// bit while b is zero.
struct Outputs {
  Tensor y_NO, low_NR;
};
Outputs Forward(const Tensor& x_NI, const Tensor& weight_OI, const Tensor& bias_O,
                const Tensor& a_RI, const Tensor& b_OR, double scaling, const Dropout& dropout) {
  Outputs out;
  out.y_NO = TimesTransposed(x_NI, weight_OI);
  if (bias_O.defined()) out.y_NO.add_(bias_O);
  out.low_NR = at::mm(Dropped(x_NI, dropout), a_RI.t());
  out.y_NO.addmm_(out.low_NR, b_OR.t(), 1.0, scaling);
  return out;
}

class LoraLinearFunction : public torch::autograd::Function<LoraLinearFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& x_NI, const Tensor& weight_OI,
                        const std::optional<Tensor>& bias_O, const Tensor& a_RI, const Tensor& b_OR,
                        double scaling, double probability, int64_t seed, int64_t stream) {
    const Outputs out =
        Forward(x_NI, weight_OI, bias_O.value_or(Tensor()), a_RI, b_OR, scaling,
                {probability, static_cast<uint64_t>(seed), static_cast<uint32_t>(stream)});
    context->save_for_backward({x_NI, weight_OI, a_RI, b_OR, out.low_NR});
    context->saved_data["scaling"] = scaling;
    context->saved_data["probability"] = probability;
    context->saved_data["seed"] = seed;
    context->saved_data["stream"] = stream;
    return out.y_NO;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x_NI = saved[0], &weight_OI = saved[1], &a_RI = saved[2], &b_OR = saved[3],
                 &low_NR = saved[4], &dy_NO = gradients[0];
    const double scaling = context->saved_data["scaling"].toDouble();
    const Dropout dropout{context->saved_data["probability"].toDouble(),
                          static_cast<uint64_t>(context->saved_data["seed"].toInt()),
                          static_cast<uint32_t>(context->saved_data["stream"].toInt())};
    const Tensor dlow_NR = at::mm(dy_NO, b_OR).mul_(scaling);
    Tensor dx_NI, da_RI, db_OR;
    if (a_RI.requires_grad()) da_RI = at::mm(dlow_NR.t(), Dropped(x_NI, dropout));
    if (b_OR.requires_grad()) db_OR = at::mm(dy_NO.t(), low_NR).mul_(scaling);
    if (x_NI.requires_grad()) {
      dx_NI = at::mm(dy_NO, weight_OI);
      if (dropout.probability > 0) {
        dx_NI.addcmul_(at::mm(dlow_NR, a_RI),
                       DropoutMask(x_NI.size(0), x_NI.size(1), dropout, x_NI.options()));
      } else {
        dx_NI.addmm_(dlow_NR, a_RI);
      }
    }
    return {dx_NI, Tensor(), Tensor(), da_RI, db_OR, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor DropoutMask(int64_t rows, int64_t columns, const Dropout& dropout,
                   at::TensorOptions options) {
  const int64_t count = rows * columns, each = 4 * kLanes, chunks = (count + each - 1) / each;
  Tensor mask = at::empty({chunks * each}, at::TensorOptions(at::kFloat));
  float* values = mask.data_ptr<float>();
  const auto threshold = static_cast<uint32_t>(std::min(dropout.probability * 0x1p32, 0x1p32 - 1));
  at::parallel_for(0, chunks, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      MaskBlocks(static_cast<uint64_t>(i * kLanes), dropout.stream, dropout.seed, threshold,
                 values + i * each);
    }
  });
  return mask.narrow(0, 0, count)
      .view({rows, columns})
      .to(options.device(), c10::typeMetaToScalarType(options.dtype()))
      .mul_(1.0 / (1.0 - dropout.probability));
}

Tensor LoraLinear(const Tensor& x_NI, const Tensor& weight_OI, const Tensor& bias_O,
                  const Tensor& a_RI, const Tensor& b_OR, double scaling, const Dropout& dropout) {
  if (!c10::GradMode::is_enabled())
    return Forward(x_NI, weight_OI, bias_O, a_RI, b_OR, scaling, dropout).y_NO;
  // An undefined tensor may not be an argument of a function of autograd's.
  const std::optional<Tensor> bias =
      bias_O.defined() ? std::optional<Tensor>(bias_O) : std::nullopt;
  return LoraLinearFunction::apply(x_NI, weight_OI, bias, a_RI, b_OR, scaling, dropout.probability,
                                   static_cast<int64_t>(dropout.seed),
                                   static_cast<int64_t>(dropout.stream));
}

}  // namespace wideberth::model
