// SPDX-License-Identifier: Apache-2.0
// The arms of an EVALUATE run: the base, trained adapters, fixed texts, all asked the same prompts
// with the same seeds. Read and checked here before a folder is touched.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "learner/prompts.h"
#include "model/adapter.h"
#include "model/causal_lm.h"
#include "proto/config.pb.h"
#include "transport/adapter_blob.h"

namespace wideberth::learner {

struct Arm {
  std::string name;
  std::string text;     // Not empty: the answer itself.
  std::string adapter;  // Folder; empty: the base answers.
  std::string run_dir;  // Of the run that trained it; empty where none is known.
  // What is sampled with, as policy version `index of the arm`; null without an adapter.
  std::shared_ptr<transport::AdapterBlob> blob;

  std::string fingerprint() const { return blob == nullptr ? "" : blob->manifest.fingerprint(); }
};

// evaluation.arm, with "base" in front where it is missing, and the refusal behind where a judge
// shall see it. An adapter of other shapes, or whose run trained another base than `model`, is
// InvalidArgument.
absl::StatusOr<std::vector<Arm>> LoadArms(const proto::RunConfig& config,
                                          const model::CausalLm& model);

// How many of the first `num_prompts` held-out prompts occur among the training prompts of the
// arms' runs or in evaluation.trained_on. InvalidArgument with both places where there is one and
// evaluation.allow_trained_prompts is false.
absl::StatusOr<int64_t> CountTrainedPrompts(const proto::RunConfig& config,
                                            const std::vector<Arm>& arms, const PromptSet& prompts,
                                            int64_t num_prompts);

}  // namespace wideberth::learner
