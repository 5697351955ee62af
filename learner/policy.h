// SPDX-License-Identifier: Apache-2.0
// What an RL run trains: the base model, version 0 of its adapter, and the trainer of both. Made by
// the learner and by a replay, from the configuration alone.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "learner/train_step.h"
#include "model/adapter.h"
#include "model/causal_lm.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

struct Policy {
  std::unique_ptr<model::CausalLm> model;
  std::shared_ptr<model::Adapter> adapter;  // Float32 master, float64 for a float64 base.
  std::string start_fingerprint;            // Of policy.adapter; empty without it.
  std::unique_ptr<Trainer> trainer;

  // Errors are those of loading the model and making the adapter.
  static absl::StatusOr<Policy> Load(const proto::RunConfig& config);
  // Of everything the configuration's files bring along: all ranks must have the same.
  std::string Fingerprint() const;
};

}  // namespace wideberth::learner
