// SPDX-License-Identifier: Apache-2.0
// The adapter that is being trained: master tensors that the optimiser steps, in float32 or, over a
// float64 base, in float64, and where the base is narrower a copy of them in its dtype, which the
// passes go through. What every trainer trains is one of these.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/adapter.h"
#include "model/causal_lm.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

// float32, or float64 over a float64 base.
at::ScalarType MasterType(const model::CausalLm& model);

// FailedPrecondition unless `found`, which came from `path`, has the rank, the alpha, the rslora
// and the targets of `wanted`, one of LoRA pairs; the score head does not count.
absl::Status CheckSameShape(absl::string_view path, const model::Adapter& found,
                            const model::Adapter& wanted);

// Where training begins.
struct StartingPoint {
  std::shared_ptr<model::Adapter> adapter;          // The master, with policy.lora's dropout.
  std::shared_ptr<const model::Adapter> reference;  // policy.adapter in the base's dtype; null
                                                    // where the base itself is the reference.
  std::string fingerprint;  // Of policy.adapter's tensors; empty without it.
};

// PEFT's initialisation from `seed`, policy.adapter, whose score head it then has, or with
// policy.all_weights the model's own weights. Errors name the adapter's folder and what does not
// fit.
absl::StatusOr<StartingPoint> MakeStartingPoint(const model::CausalLm& model,
                                                const proto::PolicyConfig& policy, uint64_t seed);

// What a task without a score head says of a policy.adapter with one.
absl::Status HasAScoreHead(const proto::RunConfig& config);

// Keys the dropout masks of one pass: those of other updates, passes and seeds have nothing to do
// with them.
uint64_t DropoutSeed(uint64_t seed, int64_t update, int64_t pass);

// Not thread-safe: lives on the thread that owns the device.
class TrainedAdapter {
 public:
  // `master` has the master's dtype and the model's device: InvalidArgument otherwise.
  static absl::StatusOr<TrainedAdapter> Create(const model::CausalLm& model,
                                               std::shared_ptr<model::Adapter> master);

  const model::Adapter& master() const { return *master_; }
  model::Adapter& master() { return *master_; }
  // What the passes go through; the master itself unless the base is narrower.
  const model::Adapter* working() const { return working_.get(); }

  // After the master's tensors changed: the passes go through the new ones. Throws.
  void Changed();
  // Adds the gradient of `loss` to the masters' gradients, which must be there. Throws.
  void Backward(const at::Tensor& loss);
  // The master becomes a copy of `other`, which has the same tensors.
  absl::Status Overwrite(const model::Adapter& other);

 private:
  TrainedAdapter(std::shared_ptr<model::Adapter> master, std::shared_ptr<model::Adapter> working)
      : master_(std::move(master)), working_(std::move(working)) {}

  std::shared_ptr<model::Adapter> master_, working_;
};

}  // namespace wideberth::learner
