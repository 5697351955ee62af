// SPDX-License-Identifier: Apache-2.0
// Without NCCL in the build, gradients of all devices go through rank 0.
#include "transport/device_collective.h"

namespace wideberth::transport {

std::unique_ptr<DeviceSums> MakeDeviceSums(const std::string&) { return nullptr; }

}  // namespace wideberth::transport
