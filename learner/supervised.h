// SPDX-License-Identifier: Apache-2.0
// Training on given data: what a task (SFT, DPO, REWARD, GUARD) brings along, and the optimiser
// step and validation that all of them share. Driven by SupervisedRun. Shapes: N packed tokens, M
// tokens that go through the output head.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "learner/optimizer.h"
#include "learner/trained_adapter.h"
#include "model/adapter.h"
#include "model/causal_lm.h"
#include "model/token_tree.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

enum class Split { kTrain, kValidation };

// One forward and backward pass: rows of the data packed into a tree without padding.
struct Pass {
  std::vector<int64_t> members;  // The data's row numbers.
  model::TokenTree tree;
  std::vector<int64_t> rows;     // [M] row of the tree whose output predicts the token
  std::vector<int64_t> targets;  // [M] the token
  std::vector<int64_t> lengths;  // Tokens of M of each sequence, in order; a task may have several
                                 // sequences a member.
  // [M] or one a member, as the task likes: its share of the batch's loss, normalised over all
  // passes of the batch.
  std::vector<double> weights;
};

// The model as it is passed through now.
struct ModelInUse {
  const model::CausalLm* model = nullptr;
  const model::Adapter* adapter = nullptr;
  const model::Adapter* reference = nullptr;              // Null: the base itself.
  absl::optional<uint64_t> dropout_seed = absl::nullopt;  // Empty in validation.
  bool checkpoint_layers = false;                         // learner.activation_checkpointing

  // [N, H]; the output head [V, H]. Throw.
  at::Tensor Hidden(const model::TokenTree& tree) const;
  const at::Tensor& Head() const { return model->HeadOf(adapter); }
  at::Tensor ReferenceHidden(const model::TokenTree& tree) const;  // Without a gradient.
};

// A mean that is taken over several passes.
struct Mean {
  double sum = 0;
  double count = 0;
  double value() const { return count > 0 ? sum / count : 0; }
};

struct PassResult {
  at::Tensor loss;                    // Scalar; the batch's loss is the sum over its passes.
  std::map<std::string, Mean> means;  // Metrics by name, as metrics.jsonl has them.
  std::vector<double> values;  // One a member, where the task keeps one (a guard's log-odds).
};

struct Validation {
  double loss = 0;
  std::map<std::string, double> metrics;
  std::vector<double> values;  // One a validation row, or none.
};

// What a task says at the end of a run.
struct TaskResults {
  std::string json;   // One object, part of summary.json as "results"; may be empty.
  std::string table;  // Lines of summary.txt, with a final newline; may be empty.
};

// The part of supervised training that depends on the task. Immutable once made; not thread-safe.
class SupervisedTask {
 public:
  virtual ~SupervisedTask() = default;

  // Rows of the data that were read.
  virtual int64_t num_rows(Split split) const = 0;

  // Packs these rows of a split, in order, into passes of at most `max_tokens` packed tokens, one
  // row at least. Their losses add up to the loss of the batch.
  virtual std::vector<Pass> Plan(Split split, absl::Span<const int64_t> rows,
                                 int64_t max_tokens) const = 0;

  // The loss of one pass, differentiable in the adapter where gradients are on. Throws.
  virtual PassResult Compute(Split split, const Pass& pass, const ModelInUse& model) const = 0;

  // After training: what is worth writing about the last validation. `adapter_folder` holds the
  // adapter; files may be put beside it, and into `run_dir`.
  virtual absl::StatusOr<TaskResults> Finish(const Validation& validation,
                                             const std::string& adapter_folder,
                                             const std::string& run_dir) const {
    (void)validation, (void)adapter_folder, (void)run_dir;
    return TaskResults();
  }
};

// What one optimiser step did.
struct SupervisedStep {
  double loss = 0;
  double grad_norm = 0;  // Before clipping; NaN where it was not finite.
  double learning_rate = 0;
  std::string skipped;  // Why the optimiser was not stepped; empty: it was.
  int64_t num_rows = 0;
  int64_t num_tokens = 0;  // Packed, through the layers.
  std::map<std::string, double> metrics;
};

// Not thread-safe: lives on the thread that owns the device. `model` must outlive it.
class SupervisedTrainer {
 public:
  // `master`: as TrainedAdapter takes it; these very tensors are stepped. `reference`: of DPO;
  // null: the base. `num_steps` is the length of the learning-rate schedule.
  static absl::StatusOr<std::unique_ptr<SupervisedTrainer>> Create(
      const model::CausalLm* model, std::shared_ptr<model::Adapter> master,
      std::shared_ptr<const model::Adapter> reference, const proto::RunConfig& config,
      int64_t num_steps);

  // One optimiser step on the passes of a batch, at the learning rate of the optimiser's step
  // count. Where the loss or a gradient is not finite it is left out, with a sentence; adapter and
  // optimiser stay as they are. `step` keys the dropout. Internal for what torch throws.
  absl::StatusOr<SupervisedStep> Step(const SupervisedTask& task, const std::vector<Pass>& passes,
                                      int64_t step);

  // Without gradients and dropout. Cancelled as soon as `should_stop` says so.
  absl::StatusOr<Validation> Validate(const SupervisedTask& task, const std::vector<Pass>& passes,
                                      const std::function<bool()>& should_stop) const;

  AdamW& optimizer() { return *optimizer_; }
  TrainedAdapter& adapter() { return adapter_; }

 private:
  SupervisedTrainer(const model::CausalLm* model, TrainedAdapter adapter,
                    std::shared_ptr<const model::Adapter> reference, const proto::RunConfig& config,
                    int64_t num_steps);
  absl::StatusOr<SupervisedStep> StepOrThrow(const SupervisedTask& task,
                                             const std::vector<Pass>& passes, int64_t step);

  const model::CausalLm* model_;
  TrainedAdapter adapter_;
  std::shared_ptr<const model::Adapter> reference_;
  const proto::LearnerConfig learner_;
  const uint64_t seed_;
  const int64_t num_steps_;
  std::unique_ptr<AdamW> optimizer_;
};

}  // namespace wideberth::learner
