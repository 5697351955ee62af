// SPDX-License-Identifier: Apache-2.0
// The training step. Per micro-batch: reference pass (adapter off, no gradient), forward pass,
// loss, backward pass into the masters' flat gradient; after the micro-batches of an update's
// slices, clipping and AdamW. Shapes: N packed tokens, M completion tokens.
#include "learner/train_step.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "learner/rank_sync.h"
#include "learner/sampler_comparison.h"
#include "learner/schedule.h"
#include "learner/validate_loss.h"
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
      metrics->completions.push_back(
          {group.group_id, completion.index, completion.reward, advantage});
      if (!completion.reward.has_value()) continue;
      const bool first = num_scored++ == 0;
      metrics->advantage_min = first ? advantage : std::min(metrics->advantage_min, advantage);
      metrics->advantage_max = first ? advantage : std::max(metrics->advantage_max, advantage);
      metrics->advantage_abs_mean += std::abs(advantage);
    }
  }
  metrics->advantage_abs_mean /= static_cast<double>(std::max<int64_t>(1, num_scored));
}

void DescribeComparison(const SamplerComparison& comparison, StepMetrics* metrics) {
  metrics->logprob_difference_max = comparison.largest();
  metrics->logprob_difference_worst = comparison.worst();
  metrics->logprob_difference_mean = comparison.mean();
  metrics->ratio_deviation_max = comparison.ratio_deviation();
  metrics->importance_ratio_min = comparison.ratio_min();
  metrics->importance_ratio_mean = comparison.ratio_mean();
  metrics->importance_ratio_max = comparison.ratio_max();
}

std::string GroupsOf(const std::vector<TrainGroup>& groups, const MicroBatch& batch) {
  const uint64_t first = groups[batch.members.front().group].group_id;
  const uint64_t last = groups[batch.members.back().group].group_id;
  return first == last ? absl::StrCat("group ", first)
                       : absl::StrCat("groups ", first, " to ", last);
}

at::Tensor SamplerLogProbs(const std::vector<TrainGroup>& groups, const MicroBatch& batch) {
  std::vector<float> values;
  for (const MicroBatch::Member& member : batch.members) {
    const std::vector<float>& sampled =
        groups[member.group].completions[member.completion].sampler_logprobs;
    values.insert(values.end(), sampled.begin(), sampled.end());
  }
  return at::tensor(values, at::TensorOptions(at::kFloat));
}

double PerToken(double sum, int64_t num_tokens) {
  return sum / static_cast<double>(std::max<int64_t>(1, num_tokens));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const model::CausalLm* model,
                                                         std::shared_ptr<model::Adapter> master,
                                                         Options options) {
  WB_RETURN_IF_ERROR(ValidateLossConfig(options.learner));
  WB_ASSIGN_OR_RETURN(TrainedAdapter adapter, TrainedAdapter::Create(*model, std::move(master)));
  return model::CatchTorch("preparing to train", [&] {
    return std::unique_ptr<Trainer>(new Trainer(model, std::move(adapter), std::move(options)));
  });
}

Trainer::Trainer(const model::CausalLm* model, TrainedAdapter adapter, Options options)
    : model_(model),
      adapter_(std::move(adapter)),
      options_(std::move(options)),
      loss_(LossConfigOf(options_.learner, options_.max_completion_length)),
      optimizer_(std::make_unique<AdamW>(adapter_.master().NamedTensors(),
                                         AdamW::OptionsOf(options_.learner))) {}

void Trainer::ShareWith(transport::Collective* ranks, Begin begin) {
  ranks_ = ranks;
  begin_ = std::move(begin);
}

absl::StatusOr<StepMetrics> Trainer::Step(const std::vector<TrainGroup>& groups) {
  const bool by_term =
      options_.learner.multi_objective_aggregation() == proto::LearnerConfig::NORMALIZE_THEN_SUM;
  WB_RETURN_IF_ERROR(CheckTrainGroups(groups, model_->spec().vocab, model_->spec().max_positions,
                                      by_term ? options_.term_weights.size() : 0));
  if (begin_ != nullptr) WB_RETURN_IF_ERROR(begin_(groups));
  absl::StatusOr<StepMetrics> metrics =
      model::CatchTorch("training step", [&] { return StepOrThrow(groups); });
  return metrics;
}

absl::StatusOr<StepMetrics> Trainer::StepOrThrow(const std::vector<TrainGroup>& groups) {
  StepMetrics metrics;
  CountCompletions(groups, &metrics);
  StepPlan plan = PlanStep(groups, options_.learner, options_.term_weights, ranks_->rank(),
                           ranks_->world_size());
  DescribeAdvantages(groups, plan.advantages, &metrics);
  std::vector<SlicePasses> slices = MakePasses(groups, std::move(plan), &metrics);
  const auto accumulation = static_cast<size_t>(options_.learner.gradient_accumulation_steps());

  // Slices that are first visited after an update need to know where the policy stood before it.
  const bool drops = adapter_.master().config().dropout() > 0;
  for (size_t s = drops ? 0 : accumulation; s < slices.size(); ++s) {
    for (Pass& pass : slices[s].passes) {
      at::Tensor& before = s < accumulation ? pass.undropped : pass.start;
      before = Look(pass.batch, adapter_.working(), &metrics.forward_seconds).logprob;
    }
  }
  for (int iteration = 0; iteration < options_.learner.num_iterations(); ++iteration) {
    LossMetrics all;
    for (size_t first = 0; first < slices.size(); first += accumulation) {
      // An update that failed half way leaves gradients behind.
      optimizer_->ZeroGradients();
      LossMetrics losses;
      UpdateMetrics update;
      int64_t place = 0;
      for (size_t s = first; s < first + accumulation; ++s) {
        WB_RETURN_IF_ERROR(AccumulateSlice(groups, &place, &slices[s], &losses, &update, &metrics));
      }
      if (iteration == 0 && first == 0) {
        SamplerComparison comparison;
        for (const SlicePasses& slice : slices) {
          for (const Pass& pass : slice.passes) {
            comparison.Add(groups, pass.batch,
                           pass.undropped.defined() ? pass.undropped : pass.start);
          }
        }
        WB_RETURN_IF_ERROR(MergeComparison(&comparison, &metrics));
        DescribeComparison(comparison, &metrics);
        WB_RETURN_IF_ERROR(comparison.Check(options_.learner.max_logprob_difference()));
      }
      WB_RETURN_IF_ERROR(SumOverRanks(&losses, &update));
      Update(losses, &update, &metrics);
      all.loss = all.policy_loss = 0;
      all.Merge(losses);
    }
    if (iteration == 0) {
      metrics.kl = PerToken(all.kl_sum, all.num_tokens);
      metrics.entropy = PerToken(all.entropy_sum, all.num_tokens);
    }
    metrics.clipping = all;
  }
  metrics.named = NamedMetrics(metrics.clipping, loss_);
  return metrics;
}

std::vector<Trainer::SlicePasses> Trainer::MakePasses(const std::vector<TrainGroup>& groups,
                                                      StepPlan plan, StepMetrics* metrics) const {
  std::vector<SlicePasses> slices;
  for (Slice& slice : plan.slices) {
    SlicePasses& passes = slices.emplace_back();
    passes.normalizer.generation_tokens = plan.num_tokens;
    passes.normalizer.slice_tokens = slice.num_tokens;
    passes.normalizer.slice_completions = slice.num_completions;
    passes.normalizer.entropy_tokens = slice.num_tokens;
    for (MicroBatch& batch : slice.micro_batches) {
      metrics->num_trained += static_cast<int64_t>(batch.members.size());
      metrics->num_completion_tokens += static_cast<int64_t>(batch.rows.size());
      metrics->num_forward_tokens += batch.tree.num_tokens;
      Pass& pass = passes.passes.emplace_back();
      pass.sampler = SamplerLogProbs(groups, batch);
      pass.batch = std::move(batch);
    }
  }
  return slices;
}

Trainer::Looked Trainer::Look(const MicroBatch& batch, const model::Adapter* adapter,
                              double* seconds) const {
  const Stopwatch watch(seconds);
  const at::NoGradGuard no_grad;
  model::ForwardOptions forward;
  forward.adapter = adapter;
  const at::Tensor hidden_NH = model_->Hidden(batch.tree, forward);
  const model::TokenLogProbs found =
      model::LogProbsOfTokens(hidden_NH, model_->head(), batch.rows, batch.targets, Temperature());
  Settle(found.logprob);
  return {found.logprob, found.entropy};
}

// The threshold is one for all micro-batches of a slice, so all of them are looked at first; the
// mask is kept, since entropies of a pass with gradients may differ in their last bit.
absl::Status Trainer::MaskByEntropy(SlicePasses* slice, StepMetrics* metrics) const {
  std::vector<at::Tensor> entropies;
  for (const Pass& pass : slice->passes) {
    entropies.push_back(Look(pass.batch, adapter_.working(), &metrics->forward_seconds).entropy);
  }
  at::Tensor all = entropies.empty() ? at::empty({0}) : at::cat(entropies);
  if (ranks_->world_size() > 1) {
    WB_ASSIGN_OR_RETURN(all, AllGatherValues(*ranks_, Operation("entropies"), all));
  }
  const double threshold = EntropyThreshold(all, loss_.top_entropy_quantile);
  slice->normalizer.entropy_tokens = HighEntropyMask(all, threshold).sum().item<int64_t>();
  for (size_t p = 0; p < entropies.size(); ++p) {
    slice->passes[p].entropy_mask = HighEntropyMask(entropies[p], threshold);
  }
  return absl::OkStatus();
}

std::string Trainer::Operation(absl::string_view what) const {
  return absl::StrCat(what, " of optimiser step ", optimizer_->num_steps() + 1);
}

// In the order of ranks, so that every rank has the same numbers and decides alike.
absl::Status Trainer::MergeComparison(SamplerComparison* comparison, StepMetrics* metrics) const {
  if (ranks_->world_size() == 1) return absl::OkStatus();
  proto::RankFindings mine;
  *mine.mutable_sampler() = comparison->Findings();
  mine.set_num_trained(metrics->num_trained);
  mine.set_num_completion_tokens(metrics->num_completion_tokens);
  mine.set_num_forward_tokens(metrics->num_forward_tokens);
  WB_ASSIGN_OR_RETURN(const std::vector<proto::RankFindings> all,
                      AllGatherFindings(*ranks_, Operation("log-prob comparison"), mine));
  *comparison = SamplerComparison();
  metrics->num_trained = metrics->num_completion_tokens = metrics->num_forward_tokens = 0;
  for (const proto::RankFindings& one : all) {
    comparison->Merge(one.sampler());
    metrics->num_trained += one.num_trained();
    metrics->num_completion_tokens += one.num_completion_tokens();
    metrics->num_forward_tokens += one.num_forward_tokens();
  }
  return absl::OkStatus();
}

// Nothing is applied before every rank's part is in: where one is missing, all return here.
absl::Status Trainer::SumOverRanks(LossMetrics* losses, UpdateMetrics* update) const {
  if (ranks_->world_size() == 1) return absl::OkStatus();
  static_assert(std::is_trivially_copyable_v<LossMetrics>);
  proto::RankFindings mine;
  mine.set_loss(losses, sizeof(*losses));
  mine.set_skipped(update->skipped);
  WB_ASSIGN_OR_RETURN(const std::vector<proto::RankFindings> all,
                      AllGatherFindings(*ranks_, Operation("losses"), mine));
  *losses = LossMetrics();
  for (size_t rank = 0; rank < all.size(); ++rank) {
    LossMetrics one;
    if (all[rank].loss().size() != sizeof(one)) {
      return absl::FailedPreconditionError(
          absl::StrCat("learner rank ", rank, " sends losses of ", all[rank].loss().size(),
                       " bytes, expected ", sizeof(one), ": all ranks must run the same program"));
    }
    std::memcpy(&one, all[rank].loss().data(), sizeof(one));
    losses->Merge(one);
  }
  // The first rank's reason is everybody's.
  for (const proto::RankFindings& one : all) {
    if (one.skipped().empty()) continue;
    update->skipped = one.skipped();
    return absl::OkStatus();
  }
  return AllReduceSum(*ranks_, Operation("gradient"), optimizer_->flat_gradient());
}

absl::Status Trainer::AccumulateSlice(const std::vector<TrainGroup>& groups, int64_t* place,
                                      SlicePasses* slice, LossMetrics* losses,
                                      UpdateMetrics* update, StepMetrics* metrics) {
  if (loss_.UsesEntropyMask()) WB_RETURN_IF_ERROR(MaskByEntropy(slice, metrics));
  for (Pass& pass : slice->passes) {
    if (loss_.beta != 0 && !pass.reference.defined()) {
      pass.reference =
          Look(pass.batch, options_.reference.get(), &metrics->reference_seconds).logprob;
    }
    LossResult result;
    {
      const Stopwatch watch(&metrics->forward_seconds);
      result = Forward(slice->normalizer, (*place)++, &pass);
      losses->Merge(result.metrics);
    }
    if (!std::isfinite(result.metrics.loss)) {
      if (update->skipped.empty()) {
        update->skipped = absl::StrCat("the loss is ", result.metrics.loss, " on ",
                                       GroupsOf(groups, pass.batch), ", expected a finite number");
      }
      continue;
    }
    const Stopwatch watch(&metrics->backward_seconds);
    adapter_.Backward(result.loss);
    Settle(optimizer_->flat_gradient());
  }
  return absl::OkStatus();
}

LossResult Trainer::Forward(const LossNormalizer& normalizer, int64_t place, Pass* pass) {
  const MicroBatch& batch = pass->batch;
  model::ForwardOptions forward;
  forward.adapter = adapter_.working();
  forward.checkpoint_layers = options_.learner.activation_checkpointing();
  if (adapter_.master().config().dropout() > 0) {
    // Ranks have passes of their own, so masks too.
    const int64_t among_ranks = place * ranks_->world_size() + ranks_->rank();
    forward.dropout_seed = DropoutSeed(options_.dropout_seed, optimizer_->num_steps(), among_ranks);
  }
  const at::Tensor hidden_NH = model_->Hidden(batch.tree, forward);
  const model::TokenLogProbs now =
      model::LogProbsOfTokens(hidden_NH, model_->head(), batch.rows, batch.targets, Temperature(),
                              /*entropy_gradient=*/loss_.HasEntropyBonus());
  if (!pass->start.defined()) pass->start = now.logprob.detach();
  pass->sampler = pass->sampler.to(pass->start.options());
  LossInputs inputs;
  inputs.new_logprobs = now.logprob;
  inputs.old_logprobs =
      options_.learner.old_policy() == proto::LearnerConfig::SAMPLER ? pass->sampler : pass->start;
  inputs.sampler_logprobs = pass->sampler;
  inputs.reference_logprobs = pass->reference;
  inputs.entropies = now.entropy;
  inputs.entropy_mask = pass->entropy_mask;
  inputs.advantages = batch.advantages;
  inputs.lengths = batch.lengths;
  return GrpoLoss(inputs, loss_, normalizer);
}

void Trainer::Update(const LossMetrics& losses, UpdateMetrics* update, StepMetrics* metrics) {
  const Stopwatch watch(&metrics->optimizer_seconds);
  const proto::LearnerConfig& learner = options_.learner;
  update->loss = losses.loss;
  update->learning_rate = LearningRate(learner, optimizer_->num_steps(),
                                       int64_t{learner.max_steps()} * UpdatesOf(learner));
  update->grad_norm = std::numeric_limits<double>::quiet_NaN();
  if (update->skipped.empty()) {
    optimizer_->set_learning_rate(update->learning_rate);
    const absl::StatusOr<double> norm = optimizer_->Step();
    if (norm.ok()) {
      update->grad_norm = *norm;
      adapter_.Changed();
    } else {
      update->skipped = std::string(norm.status().message());
    }
  }
  if (!update->skipped.empty() && !metrics->skipped) {
    metrics->skipped = true;
    metrics->skipped_why = absl::StrCat("optimiser step ", optimizer_->num_steps() + 1,
                                        " was skipped: ", update->skipped);
  }
  metrics->loss = update->loss;
  metrics->grad_norm = update->grad_norm;
  metrics->learning_rate = update->learning_rate;
  metrics->updates.push_back(*update);
}

}  // namespace wideberth::learner
