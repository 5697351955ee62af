// SPDX-License-Identifier: Apache-2.0
#include "model/decode.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace wideberth::model {

using ::at::Tensor;

DecodeCohort::DecodeCohort(const CausalLm* model, std::vector<KvPrefix> prompts,
                           std::vector<int64_t> prompt_of, int64_t max_steps)
    : model_(model),
      prompts_(std::move(prompts)),
      prompt_of_(std::move(prompt_of)),
      max_steps_(max_steps) {
  FindRuns();
}

void DecodeCohort::FindRuns() {
  runs_.clear();
  longest_prompt_ = 0;
  for (int64_t row = 0; row < size(); ++row) {
    const int64_t prompt = prompt_of_[row];
    if (runs_.empty() || runs_.back().prompt != prompt) runs_.push_back({prompt, row, 0});
    ++runs_.back().count;
    longest_prompt_ = std::max(longest_prompt_, prompts_[prompt].length);
  }
}

void DecodeCohort::Reserve(int64_t steps) {
  if (steps <= capacity_) return;
  const int64_t grown =
      std::min(max_steps_, std::max<int64_t>(steps, std::max<int64_t>(16, capacity_ * 2)));
  const ModelSpec& spec = model_->spec();
  const auto options = at::TensorOptions(model_->dtype()).device(model_->device());
  keys_BKTD_.resize(spec.num_layers);
  values_BKTD_.resize(spec.num_layers);
  for (std::vector<Tensor>* caches : {&keys_BKTD_, &values_BKTD_}) {
    for (Tensor& cache : *caches) {
      Tensor wider = at::empty({size(), spec.num_kv_heads, grown, spec.head_dim}, options);
      if (cache.defined() && step_ > 0) wider.narrow(2, 0, step_).copy_(cache.narrow(2, 0, step_));
      cache = wider;
    }
  }
  capacity_ = grown;
}

void DecodeCohort::BeginStep(std::vector<int64_t>* positions) {
  WB_CHECK(step_ < max_steps_, "a sequence takes at most max_steps steps");
  Reserve(step_ + 1);
  for (int64_t prompt : prompt_of_) positions->push_back(prompts_[prompt].length + step_);
  const ModelSpec& spec = model_->spec();
  scores_ = at::full(
      {size(), spec.num_kv_heads, spec.num_heads / spec.num_kv_heads, longest_prompt_ + step_ + 1},
      -std::numeric_limits<float>::infinity(),
      at::TensorOptions(model_->dtype()).device(model_->device()));
}

void DecodeCohort::EndStep() { ++step_; }

Tensor DecodeCohort::Attend(int64_t layer, const Tensor& q_BQD, const Tensor& k_BKD,
                            const Tensor& v_BKD) {
  const int64_t b = size(), kv = k_BKD.size(1), d = k_BKD.size(2), repeat = q_BQD.size(1) / kv,
                own = step_ + 1;
  keys_BKTD_[layer].select(2, step_).copy_(k_BKD);
  values_BKTD_[layer].select(2, step_).copy_(v_BKD);
  const Tensor q_BKRD =
      (q_BQD * (1.0 / std::sqrt(static_cast<double>(d)))).view({b, kv, repeat, d});
  const Tensor own_keys = keys_BKTD_[layer].narrow(2, 0, own),
               own_values = values_BKTD_[layer].narrow(2, 0, own);
  scores_.narrow(3, longest_prompt_, own).copy_(at::matmul(q_BKRD, own_keys.transpose(2, 3)));
  // Every group multiplies its shared prompt once, for all its sequences and the heads that share a
  // key head.
  for (const Run& run : runs_) {
    const KvPrefix& prompt = prompts_[run.prompt];
    const Tensor q_KMD =
        q_BKRD.narrow(0, run.first, run.count).transpose(0, 1).reshape({kv, run.count * repeat, d});
    const Tensor s_KMP = at::bmm(q_KMD, prompt.keys_KPD[layer].transpose(1, 2));
    scores_.narrow(0, run.first, run.count)
        .narrow(3, 0, prompt.length)
        .copy_(s_KMP.view({kv, run.count, repeat, prompt.length}).transpose(0, 1));
  }
  const Tensor p_BKRT = at::softmax(scores_, -1);
  Tensor out_BKRD = at::matmul(p_BKRT.narrow(3, longest_prompt_, own), own_values);
  for (const Run& run : runs_) {
    const KvPrefix& prompt = prompts_[run.prompt];
    const Tensor p_KMP = p_BKRT.narrow(0, run.first, run.count)
                             .narrow(3, 0, prompt.length)
                             .transpose(0, 1)
                             .reshape({kv, run.count * repeat, prompt.length});
    out_BKRD.narrow(0, run.first, run.count)
        .add_(at::bmm(p_KMP, prompt.values_KPD[layer])
                  .view({kv, run.count, repeat, d})
                  .transpose(0, 1));
  }
  return out_BKRD.reshape({b, kv * repeat * d});
}

void DecodeCohort::Keep(const std::vector<int64_t>& rows) {
  if (static_cast<int64_t>(rows.size()) == size()) return;
  if (!rows.empty()) {
    const Tensor index = model_->Indices(rows);
    for (std::vector<Tensor>* caches : {&keys_BKTD_, &values_BKTD_}) {
      for (Tensor& cache : *caches) cache = cache.index_select(0, index);
    }
  }
  std::vector<int64_t> kept;
  for (int64_t row : rows) kept.push_back(prompt_of_[row]);
  prompt_of_ = std::move(kept);
  FindRuns();
}

void DecodeBatch::Add(std::vector<KvPrefix> prompts, std::vector<int64_t> prompt_of,
                      int64_t max_steps) {
  if (prompt_of.empty()) return;
  cohorts_.emplace_back(model_, std::move(prompts), std::move(prompt_of), max_steps);
}

Tensor DecodeBatch::Step(const std::vector<int32_t>& tokens, const Adapter* adapter) {
  WB_CHECK(static_cast<int64_t>(tokens.size()) == size(), "one token per sequence");
  const std::vector<int64_t> ids(tokens.begin(), tokens.end());
  std::vector<int64_t> positions;
  for (DecodeCohort& cohort : cohorts_) cohort.BeginStep(&positions);
  ForwardOptions options;
  options.adapter = adapter;
  Tensor hidden_BH = model_->RunLayers(model_->Indices(ids), model_->Indices(positions), options,
                                       [this](int64_t layer, const Tensor& q, const Tensor& k,
                                              const Tensor& v) { return Attend(layer, q, k, v); });
  for (DecodeCohort& cohort : cohorts_) cohort.EndStep();
  return hidden_BH;
}

Tensor DecodeBatch::Attend(int64_t layer, const Tensor& q_BQD, const Tensor& k_BKD,
                           const Tensor& v_BKD) {
  if (cohorts_.size() == 1) return cohorts_[0].Attend(layer, q_BQD, k_BKD, v_BKD);
  std::vector<Tensor> outputs;
  int64_t first = 0;
  for (DecodeCohort& cohort : cohorts_) {
    const int64_t n = cohort.size();
    outputs.push_back(cohort.Attend(layer, q_BQD.narrow(0, first, n), k_BKD.narrow(0, first, n),
                                    v_BKD.narrow(0, first, n)));
    first += n;
  }
  return at::cat(outputs);
}

void DecodeBatch::Keep(const std::vector<int64_t>& rows) {
  size_t next = 0;
  int64_t first = 0;
  for (DecodeCohort& cohort : cohorts_) {
    const int64_t end = first + cohort.size();
    std::vector<int64_t> kept;
    while (next < rows.size() && rows[next] < end) kept.push_back(rows[next++] - first);
    cohort.Keep(kept);
    first = end;
  }
  std::erase_if(cohorts_, [](const DecodeCohort& cohort) { return cohort.size() == 0; });
}

int64_t DecodeBatch::size() const {
  int64_t n = 0;
  for (const DecodeCohort& cohort : cohorts_) n += cohort.size();
  return n;
}

}  // namespace wideberth::model
