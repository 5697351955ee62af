// SPDX-License-Identifier: Apache-2.0
// The training step. Per micro-batch: reference pass (adapter off, no gradient), forward pass,
// loss, backward pass into the masters' flat gradient; then clipping and AdamW. Shapes: N packed
// tokens, M completion tokens.
#include "learner/train_step.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/catch_torch.h"
#include "model/logprobs.h"

namespace wideberth::learner {
namespace {

using Seconds = std::chrono::duration<double>;

// Adds the time of its scope to `total`. Work on a GPU is counted where its result is first read,
// which each scope does before it ends.
class Stopwatch {
 public:
  explicit Stopwatch(double* total) : total_(total), start_(std::chrono::steady_clock::now()) {}
  ~Stopwatch() { *total_ += Seconds(std::chrono::steady_clock::now() - start_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double* total_;
  std::chrono::steady_clock::time_point start_;
};

// Waits for the device by reading one number that depends on what was queued last.
void Settle(const at::Tensor& tensor) {
  if (!tensor.is_cpu() && tensor.numel() > 0) (void)tensor.flatten()[0].item<double>();
}

void CopyInto(const std::vector<at::Tensor>& from, const std::vector<at::Tensor>& to) {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < from.size(); ++i) to[i].copy_(from[i]);
}

void CountCompletions(const std::vector<TrainGroup>& groups, StepMetrics* metrics) {
  metrics->num_groups = static_cast<int64_t>(groups.size());
  int64_t total_length = 0, num_clipped = 0;
  for (const TrainGroup& group : groups) {
    for (const TrainCompletion& completion : group.completions) {
      const auto length = static_cast<int64_t>(completion.tokens.size());
      const bool first = metrics->num_completions++ == 0;
      metrics->length_min = first ? length : std::min(metrics->length_min, length);
      metrics->length_max = std::max(metrics->length_max, length);
      total_length += length;
      num_clipped += completion.finish == proto::LENGTH;
      metrics->num_unscored += !completion.reward.has_value();
    }
  }
  const auto count = static_cast<double>(std::max<int64_t>(1, metrics->num_completions));
  metrics->length_mean = static_cast<double>(total_length) / count;
  metrics->clipped_fraction = static_cast<double>(num_clipped) / count;
}

void DescribeAdvantages(const std::vector<TrainGroup>& groups, const Advantages& advantages,
                        StepMetrics* metrics) {
  metrics->reward_mean = advantages.reward_mean;
  metrics->reward_deviation =
      std::isnan(advantages.reward_deviation) ? 0 : advantages.reward_deviation;
  metrics->fraction_zero_deviation = advantages.fraction_zero_deviation;
  size_t i = 0;
  int64_t num_scored = 0;
  for (const TrainGroup& group : groups) {
    for (const TrainCompletion& completion : group.completions) {
      const double advantage = advantages.advantage[i++];
      if (!completion.reward.has_value()) continue;
      const bool first = num_scored++ == 0;
      metrics->advantage_min = first ? advantage : std::min(metrics->advantage_min, advantage);
      metrics->advantage_max = first ? advantage : std::max(metrics->advantage_max, advantage);
      metrics->advantage_abs_mean += std::abs(advantage);
    }
  }
  metrics->advantage_abs_mean /= static_cast<double>(std::max<int64_t>(1, num_scored));
}

// What the first iteration's log-probs say about the sampler's, accumulated over micro-batches.
class SamplerComparison {
 public:
  void Add(const std::vector<TrainGroup>& groups, const MicroBatch& batch, const at::Tensor& old_M,
           const at::Tensor& entropy_M) {
    const at::Tensor ours = old_M.to(at::kCPU, at::kDouble);
    const double* next = ours.data_ptr<double>();
    entropy_sum_ += entropy_M.sum(at::kDouble).item<double>();
    for (const MicroBatch::Member& member : batch.members) {
      const TrainGroup& group = groups[member.group];
      const std::vector<float>& sampled = group.completions[member.completion].sampler_logprobs;
      for (size_t token = 0; token < sampled.size(); ++token) {
        AddToken(group, member, token, *next++ - static_cast<double>(sampled[token]));
      }
    }
  }

  void Report(StepMetrics* metrics) const {
    metrics->logprob_difference_max = largest_;
    metrics->logprob_difference_worst = worst_;
    if (num_on_policy_ > 0) {
      metrics->logprob_difference_mean = sum_ / static_cast<double>(num_on_policy_);
    }
    if (num_tokens_ == 0) return;
    metrics->importance_ratio_min = ratio_min_;
    metrics->importance_ratio_max = ratio_max_;
    metrics->importance_ratio_mean = ratio_sum_ / static_cast<double>(num_tokens_);
    metrics->entropy = entropy_sum_ / static_cast<double>(num_tokens_);
  }

  // Written so that a NaN fails too.
  absl::Status Check(double bound) const {
    if (bound <= 0 || num_on_policy_ == 0 || largest_ <= bound) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        worst_, ": the learner's log-prob is ", learner_minus_sampler_,
        " away from the sampler's, expected at most ", bound, " (learner.max_logprob_difference)"));
  }

 private:
  void AddToken(const TrainGroup& group, const MicroBatch::Member& member, size_t token,
                double difference) {
    const double ratio = std::exp(difference);
    const bool first = num_tokens_++ == 0;
    ratio_sum_ += ratio;
    ratio_min_ = first ? ratio : std::min(ratio_min_, ratio);
    ratio_max_ = first ? ratio : std::max(ratio_max_, ratio);
    if (!group.on_policy) return;
    ++num_on_policy_;
    sum_ += std::abs(difference);
    if (std::isnan(largest_) || std::abs(difference) <= largest_) return;
    largest_ = std::abs(difference);
    learner_minus_sampler_ = difference;
    worst_ = absl::StrCat("group ", group.group_id, " completion ", member.completion, " token ",
                          token, group.source.empty() ? "" : " of ", group.source);
  }

  double largest_ = -1;
  double learner_minus_sampler_ = 0;
  std::string worst_;
  double sum_ = 0, ratio_sum_ = 0, ratio_min_ = 1, ratio_max_ = 1, entropy_sum_ = 0;
  int64_t num_on_policy_ = 0, num_tokens_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const model::CausalLm* model,
                                                         std::shared_ptr<model::Adapter> master,
                                                         Options options) {
  const at::ScalarType wanted = model->dtype() == at::kDouble ? at::kDouble : at::kFloat;
  for (const auto& [name, tensor] : master->NamedTensors()) {
    if (tensor.scalar_type() == wanted && tensor.device() == model->device()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("adapter tensor ", name, " is ", c10::toString(tensor.scalar_type()), " on ",
                     tensor.device().str(), ", expected ", c10::toString(wanted), " on ",
                     model->device().str()));
  }
  if (options.learner.num_iterations() < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "learner.num_iterations is ", options.learner.num_iterations(), ", expected at least 1"));
  }
  std::shared_ptr<model::Adapter> working = master;
  if (model->dtype() != wanted) {
    WB_ASSIGN_OR_RETURN(working,
                        model::Adapter::Initialize(model->spec(), master->config(), /*seed=*/0,
                                                   model->dtype(), model->device()));
  }
  return model::CatchTorch("preparing to train", [&] {
    return std::unique_ptr<Trainer>(
        new Trainer(model, std::move(master), std::move(working), std::move(options)));
  });
}

Trainer::Trainer(const model::CausalLm* model, std::shared_ptr<model::Adapter> master,
                 std::shared_ptr<model::Adapter> working, Options options)
    : model_(model),
      master_(std::move(master)),
      working_(std::move(working)),
      options_(std::move(options)),
      loss_(LossConfigOf(options_.learner)) {
  optimizer_ = std::make_unique<AdamW>(master_->NamedTensors(), AdamW::OptionsOf(options_.learner));
  if (working_ == master_) return;
  for (at::Tensor& tensor : working_->Parameters()) tensor.set_requires_grad(true);
  AdapterChanged();
}

void Trainer::AdapterChanged() {
  if (working_ != master_) CopyInto(master_->Parameters(), working_->Parameters());
}

absl::StatusOr<StepMetrics> Trainer::Step(const std::vector<TrainGroup>& groups) {
  WB_RETURN_IF_ERROR(CheckTrainGroups(groups, model_->spec().vocab, model_->spec().max_positions));
  absl::StatusOr<StepMetrics> metrics =
      model::CatchTorch("training step", [&] { return StepOrThrow(groups); });
  return metrics;
}

absl::StatusOr<StepMetrics> Trainer::StepOrThrow(const std::vector<TrainGroup>& groups) {
  StepMetrics metrics;
  CountCompletions(groups, &metrics);
  StepPlan plan = PlanStep(groups, options_.learner);
  DescribeAdvantages(groups, plan.advantages, &metrics);
  const LossNormalizer normalizer{plan.num_tokens, plan.num_completions};
  std::vector<Pass> passes;
  for (MicroBatch& batch : plan.micro_batches) {
    metrics.num_trained += static_cast<int64_t>(batch.members.size());
    metrics.num_completion_tokens += static_cast<int64_t>(batch.rows.size());
    metrics.num_forward_tokens += batch.tree.num_tokens;
    passes.push_back({std::move(batch), {}, {}, {}});
  }

  for (int iteration = 0; iteration < options_.learner.num_iterations(); ++iteration) {
    // A step that failed half way leaves gradients behind.
    optimizer_->ZeroGradients();
    LossMetrics losses;
    SamplerComparison comparison;
    for (Pass& pass : passes) {
      if (iteration == 0 && loss_.beta != 0) Reference(&pass, &metrics);
      Accumulate(normalizer, &pass, &losses, &metrics);
      if (iteration == 0) comparison.Add(groups, pass.batch, pass.old, pass.entropy);
    }
    if (iteration == 0) {
      comparison.Report(&metrics);
      WB_RETURN_IF_ERROR(comparison.Check(options_.learner.max_logprob_difference()));
      metrics.kl = losses.kl_sum / static_cast<double>(std::max<int64_t>(1, losses.num_tokens));
    }
    metrics.loss = losses.loss;
    metrics.clipping = losses;
    WB_ASSIGN_OR_RETURN(metrics.grad_norm, Update(&metrics));
  }
  return metrics;
}

void Trainer::Reference(Pass* pass, StepMetrics* metrics) const {
  const Stopwatch watch(&metrics->reference_seconds);
  const at::NoGradGuard no_grad;
  const at::Tensor hidden_NH = model_->Hidden(pass->batch.tree, model::ForwardOptions{});
  pass->reference = model::LogProbsOfTokens(hidden_NH, model_->head(), pass->batch.rows,
                                            pass->batch.targets, Temperature())
                        .logprob;
  Settle(pass->reference);
}

void Trainer::Accumulate(const LossNormalizer& normalizer, Pass* pass, LossMetrics* losses,
                         StepMetrics* metrics) {
  const MicroBatch& batch = pass->batch;
  LossResult result;
  {
    const Stopwatch watch(&metrics->forward_seconds);
    model::ForwardOptions forward;
    forward.adapter = working_.get();
    const at::Tensor hidden_NH = model_->Hidden(batch.tree, forward);
    const model::TokenLogProbs now = model::LogProbsOfTokens(hidden_NH, model_->head(), batch.rows,
                                                             batch.targets, Temperature());
    if (!pass->old.defined()) {
      pass->old = now.logprob.detach();
      pass->entropy = now.entropy;
    }
    const LossInputs inputs{now.logprob,      pass->old,     pass->reference,
                            batch.advantages, batch.lengths, /*counted=*/{}};
    result = GrpoLoss(inputs, loss_, normalizer);
    losses->Merge(result.metrics);
  }
  const Stopwatch watch(&metrics->backward_seconds);
  result.loss.backward();
  if (working_ != master_) {
    const std::vector<at::Tensor> masters = master_->Parameters();
    const std::vector<at::Tensor> copies = working_->Parameters();
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < masters.size(); ++i) {
      const at::Tensor& gradient = copies[i].grad();
      if (!gradient.defined()) continue;
      masters[i].mutable_grad().add_(gradient);
      copies[i].mutable_grad().reset();
    }
  }
  Settle(optimizer_->flat_gradient());
}

absl::StatusOr<double> Trainer::Update(StepMetrics* metrics) {
  const Stopwatch watch(&metrics->optimizer_seconds);
  WB_ASSIGN_OR_RETURN(const double norm, optimizer_->Step());
  AdapterChanged();
  return norm;
}

}  // namespace wideberth::learner
