// SPDX-License-Identifier: Apache-2.0
// Names of devices as configurations write them: "cpu", "cuda", "cuda:2".
#pragma once

#include <optional>

#include "absl/strings/string_view.h"

namespace wideberth {

// "cuda:2" -> 2, "cuda" -> 0; nothing for what names no GPU.
std::optional<int> GpuOf(absl::string_view device);

}  // namespace wideberth
