// SPDX-License-Identifier: Apache-2.0
// AdamW with gradient clipping over the adapter's master tensors; moments are open to checkpoints.
// Used by train_step.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

// Not thread-safe. Shares the parameters' storage and gives each a gradient that is a view of one
// flat buffer, so that ranks reduce one tensor.
class AdamW {
 public:
  struct Options {
    double learning_rate = 2e-5;
    double beta1 = 0.9;
    double beta2 = 0.999;
    double epsilon = 1e-8;
    double weight_decay = 0;
    double max_grad_norm = 1;  // 0: no clipping.
  };
  static Options OptionsOf(const proto::LearnerConfig& config);

  // Parameters: contiguous leaves of one floating dtype on one device; they are made to require
  // gradients.
  AdamW(std::vector<std::pair<std::string, at::Tensor>> parameters, const Options& options);

  // Scales the gradients by min(1, max_grad_norm / (norm + 1e-6)), steps all parameters in one
  // fused call and zeroes the gradients. Returns the global L2 norm before clipping. Internal,
  // naming the first tensor, where a gradient is not finite: parameters, moments and step count
  // unchanged, gradients zeroed. Throws c10::Error: call it inside CatchTorch.
  absl::StatusOr<double> Step();
  void ZeroGradients();

  const at::Tensor& flat_gradient() const { return flat_gradient_; }
  int64_t num_steps() const { return num_steps_; }
  void set_learning_rate(double learning_rate) { options_.learning_rate = learning_rate; }
  const Options& options() const { return options_; }

  // "<parameter>.exp_avg" and "<parameter>.exp_avg_sq", sharing storage.
  std::vector<std::pair<std::string, at::Tensor>> NamedState() const;
  // Copies tensors named as above and sets the step count. InvalidArgument for a missing or unknown
  // name, shape or dtype; nothing changed then.
  absl::Status Restore(const std::vector<std::pair<std::string, at::Tensor>>& state,
                       int64_t num_steps);

 private:
  Options options_;
  std::vector<std::string> names_;
  std::vector<at::Tensor> parameters_;
  at::Tensor flat_gradient_, flat_exp_avg_, flat_exp_avg_sq_;
  std::vector<at::Tensor> gradients_, exp_avgs_, exp_avg_sqs_, steps_;
  int64_t num_steps_ = 0;
};

}  // namespace wideberth::learner
