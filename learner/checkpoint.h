// SPDX-License-Identifier: Apache-2.0
// Checkpoints: <run_dir>/checkpoints/step-N, each whole or absent. Written by the learner's device
// thread, read when a run is resumed. A folder is also a PEFT adapter.
//   adapter_model.safetensors, adapter_config.json   the master adapter
//   optimizer.safetensors                            AdamW's moments
//   state.txtpb                                      proto::TrainingState
//   config.txtpb                                     the resolved configuration
//   MANIFEST.txtpb                                   sizes and xxh3-128 of the files above
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "learner/optimizer.h"
#include "model/adapter.h"
#include "model/causal_lm.h"
#include "proto/checkpoint.pb.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

// Not thread-safe.
class CheckpointStore {
 public:
  // `folder`: <run_dir>/checkpoints; made by the first Write.
  CheckpointStore(std::string folder, int keep_last)
      : folder_(std::move(folder)), keep_last_(keep_last) {}

  // Writes step-<state.step>.partial, syncs every file, renames it, removes all but the newest
  // `keep_last`. ResourceExhausted or Unavailable with the path where the disk does not take it;
  // the checkpoints before are untouched then and no partial one stays.
  absl::Status Write(const proto::TrainingState& state, const model::Adapter& adapter,
                     const AdamW& optimizer, const proto::RunConfig& config) const;

  struct Loaded {
    std::string path;
    proto::TrainingState state;
    std::shared_ptr<model::Adapter> adapter;
    std::vector<std::pair<std::string, at::Tensor>> optimizer;  // As AdamW::Restore takes them.
  };
  // What a checkpoint must fit, beside the base's fingerprint.
  struct Fit {
    proto::LoraConfig lora;
    uint64_t seed = 0;
    std::string start;         // StartingPoint.fingerprint
    bool all_weights = false;  // Then `lora` does not count.
  };
  // The newest checkpoint that is whole; a damaged one is passed over with a warning that says what
  // is wrong with it. Empty where there is none. FailedPrecondition where the newest whole one does
  // not fit the base or `fit`, naming what it has and what was expected.
  absl::StatusOr<absl::optional<Loaded>> LoadNewest(const model::CausalLm& model,
                                                    const Fit& fit) const;

 private:
  absl::StatusOr<Loaded> Load(const std::string& path, const model::CausalLm& model,
                              const Fit& fit) const;
  const std::string folder_;
  const int keep_last_;
};

}  // namespace wideberth::learner
