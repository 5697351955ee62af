// SPDX-License-Identifier: Apache-2.0
#include "base/device.h"

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

namespace wideberth {

std::optional<int> GpuOf(absl::string_view device) {
  int index = 0;
  if (device == "cuda") return index;
  if (!absl::ConsumePrefix(&device, "cuda:") ||
      device.find_first_not_of("0123456789") != absl::string_view::npos ||
      !absl::SimpleAtoi(device, &index))
    return std::nullopt;
  return index;
}

}  // namespace wideberth
