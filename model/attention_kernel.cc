// SPDX-License-Identifier: Apache-2.0
// Letters: M query rows of a tile (tokens times the query heads of one key head), S keys shared by
// the tile, D head dimension.
#include "model/attention_kernel.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "model/exp.h"

// The BLAS inside libtorch, column-major.
extern "C" {
void sgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k,
            const float* alpha, const float* a, const int* lda, const float* b, const int* ldb,
            const float* beta, float* c, const int* ldc);
void dgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k,
            const double* alpha, const double* a, const int* lda, const double* b, const int* ldb,
            const double* beta, double* c, const int* ldc);
}

namespace wideberth::model {
namespace {

using ::at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

#define WB_VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))

void Gemm(const char* ta, const char* tb, int m, int n, int k, const float* a, int lda,
          const float* b, int ldb, float beta, float* c, int ldc) {
  const float one = 1;
  sgemm_(ta, tb, &m, &n, &k, &one, a, &lda, b, &ldb, &beta, c, &ldc);
}
void Gemm(const char* ta, const char* tb, int m, int n, int k, const double* a, int lda,
          const double* b, int ldb, double beta, double* c, int ldc) {
  const double one = 1;
  dgemm_(ta, tb, &m, &n, &k, &one, a, &lda, b, &ldb, &beta, c, &ldc);
}

// Row-major: c [m, n] = a b^T, c = beta c + a b, c += a^T b, where x * rows apart lie `ldx`.
template <typename T>
void TimesTransposed(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b,
                     int64_t ldb, T* c, int64_t ldc) {
  Gemm("T", "N", static_cast<int>(n), static_cast<int>(m), static_cast<int>(k), b,
       static_cast<int>(ldb), a, static_cast<int>(lda), T(0), c, static_cast<int>(ldc));
}
template <typename T>
void AddProduct(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb,
                T* c, int64_t ldc) {
  Gemm("N", "N", static_cast<int>(n), static_cast<int>(m), static_cast<int>(k), b,
       static_cast<int>(ldb), a, static_cast<int>(lda), T(1), c, static_cast<int>(ldc));
}
template <typename T>
void AddTransposedProduct(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b,
                          int64_t ldb, T* c, int64_t ldc) {
  Gemm("N", "T", static_cast<int>(n), static_cast<int>(m), static_cast<int>(k), b,
       static_cast<int>(ldb), a, static_cast<int>(lda), T(1), c, static_cast<int>(ldc));
}

WB_VECTORISED float Largest(const float* x, int64_t n, float start) {
  float lanes[16];
  for (float& lane : lanes) lane = start;
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int64_t j = 0; j < 16; ++j) lanes[j] = lanes[j] > x[i + j] ? lanes[j] : x[i + j];
  }
  for (; i < n; ++i) lanes[0] = lanes[0] > x[i] ? lanes[0] : x[i];
  float largest = start;
  for (float lane : lanes) largest = largest > lane ? largest : lane;
  return largest;
}
double Largest(const double* x, int64_t n, double start) {
  return n == 0 ? start : std::max(start, *std::max_element(x, x + n));
}

// x <- exp(x - shift); the sum. Arguments are never above rounding.
WB_VECTORISED float ExpAndSum(float* x, int64_t n, float shift) {
  float lanes[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int64_t j = 0; j < 16; ++j) {
      const float difference = x[i + j] - shift;
      x[i + j] = ExpInRange(difference < -87.0f ? -87.0f : difference);
      lanes[j] += x[i + j];
    }
  }
  for (; i < n; ++i) {
    const float difference = x[i] - shift;
    x[i] = ExpInRange(difference < -87.0f ? -87.0f : difference);
    lanes[0] += x[i];
  }
  float sum = 0;
  for (float lane : lanes) sum += lane;
  return sum;
}
double ExpAndSum(double* x, int64_t n, double shift) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] = std::exp(x[i] - shift);
  return sum;
}

template <typename T>
void ScaleRow(T* x, int64_t n, T factor) {
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

// d scores from d probabilities.
template <typename T>
void SoftmaxBackwardRow(const T* p, T* dp, int64_t n, T delta) {
  for (int64_t i = 0; i < n; ++i) dp[i] = p[i] * (dp[i] - delta);
}

template <typename T>
class Kernel {
 public:
  Kernel(const AttentionPlan& plan, const Tensor& q, const Tensor& k, const Tensor& v,
         const Tensor& prefix_keys, const Tensor& prefix_values)
      : plan_(plan),
        heads_(q.size(1)),
        kv_(k.size(1)),
        d_(q.size(2)),
        repeat_(heads_ / kv_),
        prefix_(prefix_keys.defined() ? prefix_keys.size(1) : 0),
        scale_(static_cast<T>(1.0 / std::sqrt(static_cast<double>(d_)))),
        q_(q.const_data_ptr<T>()),
        k_(k.const_data_ptr<T>()),
        v_(v.const_data_ptr<T>()),
        pk_(prefix_ > 0 ? prefix_keys.const_data_ptr<T>() : nullptr),
        pv_(prefix_ > 0 ? prefix_values.const_data_ptr<T>() : nullptr) {
    for (const QueryTile& tile : plan.tiles) {
      most_rows_ = std::max(most_rows_, Rows(tile));
      most_columns_ = std::max(most_columns_, Shared(tile) + Own(tile));
    }
  }

  // out [N, Q, D], lse [N, Q]: log of the sum of exp of the scores.
  void Forward(T* out, T* lse) const {
    const int64_t tiles = static_cast<int64_t>(plan_.tiles.size());
    at::parallel_for(0, tiles * kv_, 1, [&](int64_t begin, int64_t end) {
      const Tensor scratch = Scratch(most_rows_ * (2 * d_ + most_columns_));
      T *queries = scratch.data_ptr<T>(), *result = queries + most_rows_ * d_,
        *scores = result + most_rows_ * d_;
      for (int64_t i = begin; i < end; ++i) {
        const QueryTile& tile = plan_.tiles[i / kv_];
        const int64_t head = i % kv_, m = Rows(tile), ld = Shared(tile) + Own(tile);
        Gather(tile, head, q_, scale_, queries);
        Scores(tile, head, queries, k_, pk_, scores, ld);
        ForRows(tile, [&](int64_t row, int64_t token, int64_t r, int64_t own, int64_t own_width) {
          T* x = scores + row * ld;
          const int64_t valid = Shared(tile) + own;
          const T largest = Largest(x, valid, x[0]);
          const T sum = ExpAndSum(x, valid, largest);
          ScaleRow(x, valid, T(1) / sum);
          std::fill(x + valid, x + Shared(tile) + own_width, T(0));
          lse[token * heads_ + head * repeat_ + r] = largest + std::log(sum);
        });
        std::fill(result, result + m * d_, T(0));
        TimesValues(tile, head, scores, ld, v_, pv_, result);
        Scatter(tile, head, result, T(1), out);
      }
    });
  }

  // dq, dk and dv of the shapes of q, k and v; dk and dv zero before. A key head's tiles one after
  // the other, because they add to the same keys.
  void Backward(const T* out, const T* lse, const T* dout, T* dq, T* dk, T* dv) const {
    at::parallel_for(0, kv_, 1, [&](int64_t begin, int64_t end) {
      const Tensor scratch = Scratch(most_rows_ * (3 * d_ + 2 * most_columns_ + 1));
      T *queries = scratch.data_ptr<T>(), *upstream = queries + most_rows_ * d_,
        *gradient = upstream + most_rows_ * d_, *p = gradient + most_rows_ * d_,
        *dp = p + most_rows_ * most_columns_;
      for (int64_t head = begin; head < end; ++head) {
        for (const QueryTile& tile : plan_.tiles) {
          const int64_t m = Rows(tile), shared = Shared(tile), ld = shared + Own(tile);
          Gather(tile, head, q_, scale_, queries);
          Gather(tile, head, dout, T(1), upstream);
          Scores(tile, head, queries, k_, pk_, p, ld);
          Scores(tile, head, upstream, v_, pv_, dp, ld);
          ForRows(tile, [&](int64_t row, int64_t token, int64_t r, int64_t own, int64_t own_width) {
            const int64_t at = token * heads_ + head * repeat_ + r, valid = shared + own;
            T* probability = p + row * ld;
            ExpAndSum(probability, valid, lse[at]);
            T delta = 0;
            for (int64_t i = 0; i < d_; ++i) delta += out[at * d_ + i] * dout[at * d_ + i];
            SoftmaxBackwardRow(probability, dp + row * ld, valid, delta);
            std::fill(probability + valid, probability + shared + own_width, T(0));
            std::fill(dp + row * ld + valid, dp + row * ld + shared + own_width, T(0));
          });
          AddKeyGradient(tile, head, p, ld, upstream, dv);
          AddKeyGradient(tile, head, dp, ld, queries, dk);
          std::fill(gradient, gradient + m * d_, T(0));
          TimesValues(tile, head, dp, ld, k_, pk_, gradient);
          Scatter(tile, head, gradient, scale_, dq);
        }
      }
    });
  }

 private:
  int64_t Rows(const QueryTile& tile) const {
    int64_t tokens = 0;
    for (const QueryTile::Piece& piece : tile.pieces) tokens += piece.count;
    return tokens * repeat_;
  }
  int64_t Shared(const QueryTile& tile) const { return prefix_ + tile.num_ancestor_rows; }
  static int64_t Own(const QueryTile& tile) {
    int64_t most = 0;
    for (const QueryTile::Piece& piece : tile.pieces)
      most = std::max(most, piece.offset + piece.count);
    return most;
  }
  static Tensor Scratch(int64_t count) {
    return at::empty({count}, at::TensorOptions(c10::CppTypeToScalarType<T>::value));
  }

  // f(row, token, head of the key head, own keys it sees, own keys of its piece)
  template <typename F>
  void ForRows(const QueryTile& tile, const F& f) const {
    int64_t row = 0;
    for (const QueryTile::Piece& piece : tile.pieces) {
      for (int64_t t = 0; t < piece.count; ++t) {
        for (int64_t r = 0; r < repeat_; ++r) {
          f(row++, piece.node_row + piece.offset + t, r, piece.offset + t + 1,
            piece.offset + piece.count);
        }
      }
    }
  }

  // The tile's rows [M, D] of a packed [N, Q, D].
  void Gather(const QueryTile& tile, int64_t head, const T* from, T factor, T* to) const {
    const int64_t width = repeat_ * d_;
    for (const QueryTile::Piece& piece : tile.pieces) {
      for (int64_t t = 0; t < piece.count; ++t, to += width) {
        const T* x = from + ((piece.node_row + piece.offset + t) * heads_ + head * repeat_) * d_;
        for (int64_t i = 0; i < width; ++i) to[i] = factor * x[i];
      }
    }
  }
  void Scatter(const QueryTile& tile, int64_t head, const T* from, T factor, T* to) const {
    const int64_t width = repeat_ * d_;
    for (const QueryTile::Piece& piece : tile.pieces) {
      for (int64_t t = 0; t < piece.count; ++t, from += width) {
        T* y = to + ((piece.node_row + piece.offset + t) * heads_ + head * repeat_) * d_;
        for (int64_t i = 0; i < width; ++i) y[i] = factor * from[i];
      }
    }
  }
  int64_t At(int64_t row, int64_t head) const { return (row * kv_ + head) * d_; }

  // x [M, D] times the keys that each row's piece may see, [M, ld].
  void Scores(const QueryTile& tile, int64_t head, const T* x, const T* keys, const T* prefix,
              T* scores, int64_t ld) const {
    const int64_t m = Rows(tile), step = kv_ * d_;
    int64_t column = 0;
    if (prefix_ > 0) {
      TimesTransposed(m, prefix_, d_, x, d_, prefix + head * prefix_ * d_, d_, scores, ld);
      column = prefix_;
    }
    for (const RowRange& range : *tile.ancestors) {
      TimesTransposed(m, range.count, d_, x, d_, keys + At(range.first, head), step,
                      scores + column, ld);
      column += range.count;
    }
    for (const QueryTile::Piece& piece : tile.pieces) {
      const int64_t rows = piece.count * repeat_;
      TimesTransposed(rows, piece.offset + piece.count, d_, x, d_, keys + At(piece.node_row, head),
                      step, scores + column, ld);
      x += rows * d_;
      scores += rows * ld;
    }
  }

  // result [M, D] += p [M, ld] times the values of the columns.
  void TimesValues(const QueryTile& tile, int64_t head, const T* p, int64_t ld, const T* values,
                   const T* prefix, T* result) const {
    const int64_t m = Rows(tile), step = kv_ * d_;
    int64_t column = 0;
    if (prefix_ > 0) {
      AddProduct(m, d_, prefix_, p, ld, prefix + head * prefix_ * d_, d_, result, d_);
      column = prefix_;
    }
    for (const RowRange& range : *tile.ancestors) {
      AddProduct(m, d_, range.count, p + column, ld, values + At(range.first, head), step, result,
                 d_);
      column += range.count;
    }
    for (const QueryTile::Piece& piece : tile.pieces) {
      const int64_t rows = piece.count * repeat_;
      AddProduct(rows, d_, piece.offset + piece.count, p + column, ld,
                 values + At(piece.node_row, head), step, result, d_);
      p += rows * ld;
      result += rows * d_;
    }
  }

  // The columns' gradients += p^T x; the prefix is constant.
  void AddKeyGradient(const QueryTile& tile, int64_t head, const T* p, int64_t ld, const T* x,
                      T* gradient) const {
    const int64_t m = Rows(tile), step = kv_ * d_;
    int64_t column = prefix_;
    for (const RowRange& range : *tile.ancestors) {
      AddTransposedProduct(range.count, d_, m, p + column, ld, x, d_,
                           gradient + At(range.first, head), step);
      column += range.count;
    }
    for (const QueryTile::Piece& piece : tile.pieces) {
      const int64_t rows = piece.count * repeat_;
      AddTransposedProduct(piece.offset + piece.count, d_, rows, p + column, ld, x, d_,
                           gradient + At(piece.node_row, head), step);
      p += rows * ld;
      x += rows * d_;
    }
  }

  const AttentionPlan& plan_;
  const int64_t heads_, kv_, d_, repeat_, prefix_;
  const T scale_;
  const T *const q_, *const k_, *const v_, *const pk_, *const pv_;
  int64_t most_rows_ = 0, most_columns_ = 0;
};

std::pair<Tensor, Tensor> Forward(const AttentionPlan& plan, const Tensor& q, const Tensor& k,
                                  const Tensor& v, const Tensor& prefix_keys,
                                  const Tensor& prefix_values) {
  Tensor out = at::empty({q.size(0), q.size(1) * q.size(2)}, q.options()),
         lse = at::empty({q.size(0), q.size(1)}, q.options());
  if (q.scalar_type() == at::kDouble) {
    Kernel<double>(plan, q, k, v, prefix_keys, prefix_values)
        .Forward(out.data_ptr<double>(), lse.data_ptr<double>());
  } else {
    Kernel<float>(plan, q, k, v, prefix_keys, prefix_values)
        .Forward(out.data_ptr<float>(), lse.data_ptr<float>());
  }
  return {out, lse};
}

struct SavedPlan : torch::CustomClassHolder {
  SavedPlan(std::shared_ptr<const AttentionPlan> p, Tensor k, Tensor v)
      : plan(std::move(p)), prefix_keys(std::move(k)), prefix_values(std::move(v)) {}
  std::shared_ptr<const AttentionPlan> plan;
  Tensor prefix_keys, prefix_values;
};

class AttentionFunction : public torch::autograd::Function<AttentionFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v,
                        const c10::intrusive_ptr<SavedPlan>& saved) {
    const auto [out, lse] =
        Forward(*saved->plan, q, k, v, saved->prefix_keys, saved->prefix_values);
    context->save_for_backward({q, k, v, out, lse});
    context->saved_data["plan"] = c10::IValue::make_capsule(saved);
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto plan =
        c10::static_intrusive_pointer_cast<SavedPlan>(context->saved_data["plan"].toCapsule());
    const Tensor dout = gradients[0].contiguous();
    Tensor dq = at::empty_like(saved[0]), dk = at::zeros_like(saved[1]),
           dv = at::zeros_like(saved[2]);
    const auto run = [&]<typename T>(T) {
      Kernel<T>(*plan->plan, saved[0], saved[1], saved[2], plan->prefix_keys, plan->prefix_values)
          .Backward(saved[3].const_data_ptr<T>(), saved[4].const_data_ptr<T>(),
                    dout.const_data_ptr<T>(), dq.data_ptr<T>(), dk.data_ptr<T>(), dv.data_ptr<T>());
    };
    if (dout.scalar_type() == at::kDouble) {
      run(double());
    } else {
      run(float());
    }
    return {dq, dk, dv, Tensor()};
  }
};

}  // namespace

Tensor AttendOnCpu(std::shared_ptr<const AttentionPlan> plan, const Tensor& q_NQD,
                   const Tensor& k_NKD, const Tensor& v_NKD, const Tensor& prefix_keys_KPD,
                   const Tensor& prefix_values_KPD) {
  const Tensor q = q_NQD.contiguous(), k = k_NKD.contiguous(), v = v_NKD.contiguous();
  if (!c10::GradMode::is_enabled())
    return Forward(*plan, q, k, v, prefix_keys_KPD, prefix_values_KPD).first;
  return AttentionFunction::apply(
      q, k, v, c10::make_intrusive<SavedPlan>(std::move(plan), prefix_keys_KPD, prefix_values_KPD));
}

}  // namespace wideberth::model
