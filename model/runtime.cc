// SPDX-License-Identifier: Apache-2.0
#include "model/runtime.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <malloc.h>

#include <optional>

#include "absl/strings/str_cat.h"
#include "base/device.h"
#include "base/status.h"

// The GEMMs of a CPU build are MKL's. MKL asks this function whether it may take its AVX-512 and
// AVX2 paths; on AMD processors its own answer is no, which halves their speed. Results agree to
// rounding.
extern "C" int mkl_serv_intel_cpu_true() { return 1; }

namespace wideberth::model {

void ConfigureRuntime(int num_threads) {
#ifdef WIDEBERTH_GPU
  // The linker drops libraries that no symbol of ours names; torch then has no CUDA and says
  // nothing of it.
  WB_CHECK(at::globalContext().hasCUDART(),
           "built by the gpu preset, but libtorch_cuda.so is not loaded: torch has no CUDA in this "
           "process");
#endif
  at::set_num_threads(num_threads > 0 ? num_threads : 1);
  at::set_num_interop_threads(1);
  // Activations come and go by the megabyte. Served from the heap they keep their pages; by mmap
  // every one of them would be faulted in anew.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  mallopt(M_TOP_PAD, 16 << 20);
}

at::ScalarType ScalarTypeOf(proto::DType dtype) {
  switch (dtype) {
    case proto::BFLOAT16:
      return at::kBFloat16;
    case proto::FLOAT64:
      return at::kDouble;
    case proto::FLOAT32:
      break;
  }
  return at::kFloat;
}

absl::StatusOr<at::ScalarType> ScalarTypeOf(const StoredTensor& stored, absl::string_view name) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble}) {
    if (StoredName(type) == stored.dtype) return type;
  }
  return absl::InvalidArgumentError(absl::StrCat(stored.file, ": tensor \"", name, "\" is ",
                                                 stored.dtype, ", expected F32, BF16, F16 or F64"));
}

std::string StoredName(at::ScalarType type) {
  switch (type) {
    case at::kBFloat16:
      return "BF16";
    case at::kHalf:
      return "F16";
    case at::kDouble:
      return "F64";
    default:
      return "F32";
  }
}

absl::StatusOr<at::Device> ParseDevice(const std::string& name) {
  if (name == "cpu" || name.empty()) return at::Device(at::kCPU);
  const std::optional<int> index = GpuOf(name);
  if (!index) {
    return absl::InvalidArgumentError(
        absl::StrCat("device is \"", name, "\", expected \"cpu\" or \"cuda:N\""));
  }
  if (!at::hasCUDA()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "device is \"", name,
        "\", but no GPU can be used here: this needs the gpu preset and a visible CUDA device"));
  }
  const int available = static_cast<int>(at::getNumGPUs());
  if (*index >= available) {
    return absl::FailedPreconditionError(
        absl::StrCat("device is \"", name, "\", but this machine has ", available, " GPU(s)"));
  }
  return at::Device(at::kCUDA, static_cast<at::DeviceIndex>(*index));
}

}  // namespace wideberth::model
