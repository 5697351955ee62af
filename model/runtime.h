// SPDX-License-Identifier: Apache-2.0
// How torch runs in this process: threads, devices, dtypes. Called by every main() that computes.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/safetensors.h"
#include "proto/config.pb.h"

namespace wideberth::model {

// Sets intra-op threads (0: one) and turns inter-op threads off. Call before the first torch
// operation. With one thread no OpenMP team exists, so nothing spins on a core that another role
// needs.
void ConfigureRuntime(int num_threads);

at::ScalarType ScalarTypeOf(proto::DType dtype);
// Of a tensor in a weight file. InvalidArgument naming file and tensor for one that is no F32,
// BF16, F16 or F64.
absl::StatusOr<at::ScalarType> ScalarTypeOf(const StoredTensor& stored, absl::string_view name);
// What a weight file calls one of these four: "F32".
std::string StoredName(at::ScalarType type);
// "cpu" or "cuda:N". InvalidArgument otherwise; FailedPrecondition for a GPU that this build or
// machine does not have.
absl::StatusOr<at::Device> ParseDevice(const std::string& name);

}  // namespace wideberth::model
