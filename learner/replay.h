// SPDX-License-Identifier: Apache-2.0
// A run's training once more from its journal, without actors or scorers: the same groups, the same
// steps, the same losses. Used by `wideberth replay`.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "learner/step_report.h"
#include "proto/config.pb.h"

namespace wideberth::learner {

struct ReplayedStep {
  StepReport report;                    // step, version, fingerprint and what training gives.
  absl::optional<double> journal_loss;  // As the run computed it; empty where it was not finite.
  std::string journal_fingerprint;
};

struct ReplayOptions {
  int64_t max_steps = 0;       // 0: all.
  std::string adapter_folder;  // Where the last adapter is saved; empty: nowhere.
};

// Trains from version 0 on the groups of every step of `run_dir`/run.db in the journal's order and
// tells each step to `take`, whose error ends it. `config`: the run's, or one that differs where
// the same data shall be learned otherwise. Reads the run's folder only. NotFound without a
// journal, FailedPrecondition where a step's groups are not all there, and the errors of loading
// and training.
absl::Status Replay(const proto::RunConfig& config, const std::string& run_dir,
                    const ReplayOptions& options,
                    const std::function<absl::Status(const ReplayedStep&)>& take);

}  // namespace wideberth::learner
