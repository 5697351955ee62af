// SPDX-License-Identifier: Apache-2.0
#include "model/logprobs.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "base/status.h"

namespace wideberth::model {
namespace {

using ::at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kChunkBytes =
    48 << 20;  // Of logits alive at once; two more of the size while a gradient is taken.

// With s = h W^T / T and p = softmax(s), d log p[y] / dh = (W[y] - p W) / T. The forward pass has p
// at hand, so it keeps that [M, H] product and the backward pass is one multiplication: as many
// matrix products as storing all logits would take, none of their memory. The entropy's slope,
// -(p (log p + entropy)) W / T, is kept the same way where it is wanted. A head that is trained,
// d log p[y] / dW[v] = (1[v = y] - p[v]) h / T, needs p once more: it is computed again, a chunk at
// a time.
class ChunkedLogProbs : public torch::autograd::Function<ChunkedLogProbs> {
 public:
  static variable_list forward(AutogradContext* context, const Tensor& hidden_MH,
                               const Tensor& head_VH, const Tensor& targets_M, double temperature,
                               bool needs_gradient, bool entropy_gradient) {
    const int64_t m = hidden_MH.size(0), v = head_VH.size(0);
    const auto wide = hidden_MH.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const auto options = hidden_MH.options().dtype(wide);
    Tensor logprob = at::empty({m}, options), entropy = at::empty({m}, options);
    Tensor slope_MH, entropy_slope_MH;
    if (needs_gradient) slope_MH = at::empty_like(hidden_MH);
    entropy_gradient = entropy_gradient && needs_gradient;
    if (entropy_gradient) entropy_slope_MH = at::empty_like(hidden_MH);
    const int64_t rows = ChunkRows(v, wide);
    for (int64_t first = 0; first < m; first += rows) {
      const int64_t n = std::min(rows, m - first);
      Tensor scaled_CV = at::mm(hidden_MH.narrow(0, first, n), head_VH.t()).to(wide);
      if (temperature != 1.0) scaled_CV.div_(temperature);
      const Tensor targets_C1 = targets_M.narrow(0, first, n).unsqueeze(1);
      const Tensor lse_C1 = at::logsumexp(scaled_CV, {1}, true);
      logprob.narrow(0, first, n).copy_((scaled_CV.gather(1, targets_C1) - lse_C1).squeeze(1));
      const Tensor probability_CV = (scaled_CV - lse_C1).exp_();
      entropy.narrow(0, first, n)
          .copy_(lse_C1.squeeze(1) - at::linalg_vecdot(probability_CV, scaled_CV));
      if (!needs_gradient) continue;
      Tensor slope_CH = head_VH.index_select(0, targets_C1.squeeze(1))
                            .sub_(at::mm(probability_CV.to(head_VH.scalar_type()), head_VH));
      slope_MH.narrow(0, first, n)
          .copy_(temperature == 1.0 ? slope_CH : slope_CH.div_(temperature));
      if (!entropy_gradient) continue;
      scaled_CV.sub_(lse_C1).add_(entropy.narrow(0, first, n).unsqueeze(1)).mul_(probability_CV);
      entropy_slope_MH.narrow(0, first, n)
          .copy_(at::mm(scaled_CV.to(head_VH.scalar_type()), head_VH).div_(-temperature));
    }
    const bool head_gradient = needs_gradient && head_VH.requires_grad();
    if (needs_gradient) {
      context->save_for_backward({slope_MH, entropy_slope_MH, head_gradient ? hidden_MH : Tensor(),
                                  head_gradient ? head_VH : Tensor(), targets_M});
    }
    context->saved_data["temperature"] = temperature;
    if (!entropy_gradient) context->mark_non_differentiable({entropy});
    return {logprob, entropy};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &slope_MH = saved[0], &entropy_slope_MH = saved[1];
    Tensor gradient_MH = slope_MH * gradients[0].unsqueeze(1).to(slope_MH.scalar_type());
    if (entropy_slope_MH.defined()) {
      gradient_MH.addcmul_(entropy_slope_MH, gradients[1].unsqueeze(1).to(slope_MH.scalar_type()));
    }
    Tensor gradient_VH;
    if (context->needs_input_grad(1)) {
      gradient_VH = HeadGradient(saved[2], saved[3], saved[4], gradients[0],
                                 context->saved_data["temperature"].toDouble());
    }
    return {gradient_MH, gradient_VH, Tensor(), Tensor(), Tensor(), Tensor()};
  }

 private:
  static int64_t ChunkRows(int64_t vocab, at::ScalarType wide) {
    return std::max<int64_t>(1,
                             kChunkBytes / (vocab * static_cast<int64_t>(c10::elementSize(wide))));
  }

  static Tensor HeadGradient(const Tensor& hidden_MH, const Tensor& head_VH,
                             const Tensor& targets_M, const Tensor& gradient_M,
                             double temperature) {
    const auto wide = gradient_M.scalar_type();
    Tensor total_VH = at::zeros(head_VH.sizes(), hidden_MH.options().dtype(wide));
    const Tensor scale_M1 = gradient_M.unsqueeze(1) / temperature;
    const int64_t m = hidden_MH.size(0), rows = ChunkRows(head_VH.size(0), wide);
    for (int64_t first = 0; first < m; first += rows) {
      const int64_t n = std::min(rows, m - first);
      const Tensor hidden_CH = hidden_MH.narrow(0, first, n);
      const Tensor scale_C1 = scale_M1.narrow(0, first, n);
      Tensor scaled_CV = at::mm(hidden_CH, head_VH.t()).to(wide);
      if (temperature != 1.0) scaled_CV.div_(temperature);
      Tensor slope_CV = at::softmax(scaled_CV, 1).mul_(-scale_C1);
      slope_CV.scatter_add_(1, targets_M.narrow(0, first, n).unsqueeze(1), scale_C1);
      const auto narrow = hidden_CH.scalar_type();
      total_VH.add_(at::mm(slope_CV.to(narrow).t(), hidden_CH));
    }
    return total_VH.to(head_VH.scalar_type());
  }
};

}  // namespace

TokenLogProbs LogProbsOfTokens(const Tensor& hidden_NH, const Tensor& head_VH,
                               const std::vector<int64_t>& rows,
                               const std::vector<int64_t>& targets, double temperature,
                               bool entropy_gradient) {
  WB_CHECK(rows.size() == targets.size() && !rows.empty(), "one target per row, at least one");
  const auto device = hidden_NH.device();
  const Tensor rows_M = at::tensor(rows, at::TensorOptions(at::kLong)).to(device);
  const Tensor targets_M = at::tensor(targets, at::TensorOptions(at::kLong)).to(device);
  const Tensor hidden_MH = hidden_NH.index_select(0, rows_M);
  const bool needs_gradient = c10::GradMode::is_enabled() && hidden_MH.requires_grad();
  WB_CHECK(!(needs_gradient && entropy_gradient && head_VH.requires_grad()),
           "the entropy has no gradient in the head");
  const variable_list outputs = ChunkedLogProbs::apply(hidden_MH, head_VH, targets_M, temperature,
                                                       needs_gradient, entropy_gradient);
  return {outputs[0], outputs[1]};
}

void AddGroup(const std::vector<int32_t>& prompt,
              const std::vector<std::vector<int32_t>>& completions, GroupTree* trees) {
  const int root = trees->tree.Add(prompt);
  for (const std::vector<int32_t>& completion : completions) {
    // The last token predicts nothing, so it needs no row.
    int64_t first = -1;
    if (completion.size() > 1) {
      const int node =
          trees->tree.Add(std::vector<int32_t>(completion.begin(), completion.end() - 1), root);
      first = trees->tree.nodes[node].first_row;
    }
    for (size_t i = 0; i < completion.size(); ++i) {
      trees->rows.push_back(i == 0 ? trees->tree.LastRow(root)
                                   : first + static_cast<int64_t>(i) - 1);
      trees->targets.push_back(completion[i]);
    }
  }
}

GroupTree MakeGroupTree(const std::vector<int32_t>& prompt,
                        const std::vector<std::vector<int32_t>>& completions) {
  GroupTree group;
  AddGroup(prompt, completions, &group);
  return group;
}

}  // namespace wideberth::model
