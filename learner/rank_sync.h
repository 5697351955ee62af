// SPDX-License-Identifier: Apache-2.0
// Tensors and findings of a training step across learner ranks. Used by train_step.h, and by both
// ends of a run with several ranks. With one rank everything returns at once.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "learner/optimizer.h"
#include "learner/trained_adapter.h"
#include "proto/ranks.pb.h"
#include "transport/collective.h"

namespace wideberth::learner {

// flat: contiguous, one dimension, float32 or float64, any device; becomes the sum over ranks, the
// same bytes everywhere. On an error it is as it was, or partly summed: not to be used.
absl::Status AllReduceSum(transport::Collective& ranks, absl::string_view operation,
                          const at::Tensor& flat);
// One-dimensional tensors of any length, one after the other by rank, in main memory as float64.
absl::StatusOr<at::Tensor> AllGatherValues(transport::Collective& ranks,
                                           absl::string_view operation, const at::Tensor& mine);
absl::StatusOr<std::vector<proto::RankFindings>> AllGatherFindings(transport::Collective& ranks,
                                                                   absl::string_view operation,
                                                                   const proto::RankFindings& mine);

// Every rank's adapter and optimiser become rank 0's, bit for bit.
absl::Status ShareState(transport::Collective& ranks, TrainedAdapter& adapter, AdamW& optimizer);

}  // namespace wideberth::learner
