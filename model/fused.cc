// SPDX-License-Identifier: Apache-2.0
#include "model/fused.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "model/exp.h"

namespace wideberth::model {
namespace {

using ::at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

#define WB_VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
constexpr int64_t kLanes =
    16;  // Independent partial sums, so that reductions stay in vector registers.
constexpr int64_t kGrain = 32;  // Rows a thread takes at least.

bool Fits(const Tensor& x) { return x.device().is_cpu() && x.scalar_type() == at::kFloat; }

WB_VECTORISED float SumOfProducts(const float* a, const float* b, int64_t n) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += a[i + j] * b[i + j];
  }
  for (; i < n; ++i) lanes[0] += a[i] * b[i];
  float sum = 0;
  for (float lane : lanes) sum += lane;
  return sum;
}

WB_VECTORISED void NormRow(const float* x, const float* weight, float inverse, float* y,
                           int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * inverse * weight[i];
}

// dx = r w dy - x r^3 / H * sum(w dy x)
WB_VECTORISED void NormRowBackward(const float* x, const float* weight, const float* dy,
                                   float inverse, float* dx, int64_t n) {
  for (int64_t i = 0; i < n; ++i) dx[i] = weight[i] * dy[i];
  const float projected =
      SumOfProducts(dx, x, n) * inverse * inverse * inverse / static_cast<float>(n);
  for (int64_t i = 0; i < n; ++i) dx[i] = dx[i] * inverse - x[i] * projected;
}

// dw += r x dy
WB_VECTORISED void AddNormWeightGradient(const float* x, const float* dy, float inverse, float* dw,
                                         int64_t n) {
  for (int64_t i = 0; i < n; ++i) dw[i] += x[i] * inverse * dy[i];
}

WB_VECTORISED void RotateHead(const float* x, const float* cosine, const float* sine,
                              float direction, float* y, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    y[i] = x[i] * cosine[i] - direction * x[half + i] * sine[i];
    y[half + i] = x[half + i] * cosine[i] + direction * x[i] * sine[i];
  }
}

// 1 / (1 + exp(-x)).
inline float Sigmoid(float x) {
  const float clamped = x < -87.0f ? -87.0f : (x > 87.0f ? 87.0f : x);
  return 1.0f / (1.0f + ExpInRange(-clamped));
}

WB_VECTORISED void SwiGluRow(const float* gate, const float* up, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = gate[i] * Sigmoid(gate[i]) * up[i];
}

WB_VECTORISED void SwiGluRowBackward(const float* gate, const float* up, const float* dy,
                                     float* dgate, float* dup, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const float sigmoid = Sigmoid(gate[i]);
    dup[i] = dy[i] * gate[i] * sigmoid;
    dgate[i] = dy[i] * up[i] * sigmoid * (1.0f + gate[i] * (1.0f - sigmoid));
  }
}

template <typename Row>
void ForRows(int64_t rows, const Row& row) {
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) row(i);
  });
}

class RmsNormFunction : public torch::autograd::Function<RmsNormFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& weight,
                        double epsilon) {
    const Tensor x = input.contiguous();
    const int64_t n = x.size(0), h = x.size(1);
    Tensor y = at::empty_like(x), inverse = at::empty({n}, x.options());
    const float *in = x.data_ptr<float>(), *w = weight.data_ptr<float>();
    float *out = y.data_ptr<float>(), *inv = inverse.data_ptr<float>();
    ForRows(n, [=](int64_t i) {
      inv[i] = static_cast<float>(
          1.0 /
          std::sqrt(SumOfProducts(in + i * h, in + i * h, h) / static_cast<double>(h) + epsilon));
      NormRow(in + i * h, w, inv[i], out + i * h, h);
    });
    context->save_for_backward({x, weight, inverse});
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor dy = gradients[0].contiguous();
    const int64_t n = dy.size(0), h = dy.size(1);
    Tensor dx = at::empty_like(dy);
    const float *x = saved[0].data_ptr<float>(), *w = saved[1].data_ptr<float>(),
                *inv = saved[2].data_ptr<float>(), *g = dy.data_ptr<float>();
    float* out = dx.data_ptr<float>();
    ForRows(n,
            [=](int64_t i) { NormRowBackward(x + i * h, w, g + i * h, inv[i], out + i * h, h); });
    Tensor dw;
    if (context->needs_input_grad(1)) {
      dw = at::zeros_like(saved[1]);
      float* sums = dw.data_ptr<float>();
      for (int64_t i = 0; i < n; ++i) AddNormWeightGradient(x + i * h, g + i * h, inv[i], sums, h);
    }
    return {dx, dw, Tensor()};
  }
};

Tensor Rotated(const Tensor& input, const Tensor& cosine, const Tensor& sine, float direction) {
  const Tensor x = input.contiguous();
  Tensor y = at::empty_like(x);
  const int64_t heads = x.size(1), d = x.size(2), half = d / 2;
  const float *in = x.data_ptr<float>(), *c = cosine.data_ptr<float>(), *s = sine.data_ptr<float>();
  float* out = y.data_ptr<float>();
  ForRows(x.size(0), [=](int64_t i) {
    for (int64_t a = 0; a < heads; ++a)
      RotateHead(in + (i * heads + a) * d, c + i * half, s + i * half, direction,
                 out + (i * heads + a) * d, half);
  });
  return y;
}

class RotateFunction : public torch::autograd::Function<RotateFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& cosine,
                        const Tensor& sine) {
    context->save_for_backward({cosine, sine});
    return Rotated(x, cosine, sine, 1.0f);
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    return {Rotated(gradients[0], saved[0], saved[1], -1.0f), Tensor(), Tensor()};
  }
};

class SwiGluFunction : public torch::autograd::Function<SwiGluFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& gate, const Tensor& up) {
    const int64_t n = gate.size(0), f = gate.size(1);
    Tensor y = at::empty_like(gate);
    const float *g = gate.data_ptr<float>(), *u = up.data_ptr<float>();
    float* out = y.data_ptr<float>();
    ForRows(n, [=](int64_t i) { SwiGluRow(g + i * f, u + i * f, out + i * f, f); });
    context->save_for_backward({gate, up});
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor dy = gradients[0].contiguous();
    const int64_t n = dy.size(0), f = dy.size(1);
    Tensor dgate = at::empty_like(dy), dup = at::empty_like(dy);
    const float *g = saved[0].data_ptr<float>(), *u = saved[1].data_ptr<float>(),
                *d = dy.data_ptr<float>();
    float *dg = dgate.data_ptr<float>(), *du = dup.data_ptr<float>();
    ForRows(n, [=](int64_t i) {
      SwiGluRowBackward(g + i * f, u + i * f, d + i * f, dg + i * f, du + i * f, f);
    });
    return {dgate, dup};
  }
};

}  // namespace

Tensor RmsNorm(const Tensor& x_NH, const Tensor& weight_H, double epsilon) {
  if (Fits(x_NH)) return RmsNormFunction::apply(x_NH, weight_H, epsilon);
  const auto type = x_NH.scalar_type();
  if (type == at::kDouble)
    return x_NH * at::rsqrt(x_NH.square().mean(-1, true) + epsilon) * weight_H;
  const Tensor x = x_NH.to(at::kFloat);
  return weight_H * (x * at::rsqrt(x.square().mean(-1, true) + epsilon)).to(type);
}

Tensor Rotate(const Tensor& x_NAD, const Tensor& cos_NE, const Tensor& sin_NE) {
  if (Fits(x_NAD)) return RotateFunction::apply(x_NAD, cos_NE, sin_NE);
  const int64_t half = x_NAD.size(2) / 2;
  const Tensor c = cos_NE.unsqueeze(1).to(x_NAD.scalar_type()),
               s = sin_NE.unsqueeze(1).to(x_NAD.scalar_type());
  const Tensor first = x_NAD.narrow(2, 0, half), second = x_NAD.narrow(2, half, half);
  return at::cat({first * c - second * s, second * c + first * s}, 2);
}

Tensor SwiGlu(const Tensor& gate_NF, const Tensor& up_NF) {
  if (Fits(gate_NF)) return SwiGluFunction::apply(gate_NF.contiguous(), up_NF.contiguous());
  return at::silu(gate_NF) * up_NF;
}

}  // namespace wideberth::model
