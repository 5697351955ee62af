// SPDX-License-Identifier: Apache-2.0
// Named places at which a process can be made to die, so that tests can kill it in the middle of a
// checkpoint, a journal write or a publication. Costs one branch where the environment does not
// ask.
#pragma once

#include "absl/strings/string_view.h"

namespace wideberth {

// Kills this process (SIGKILL, nothing is flushed) at the N-th call with this name when the
// environment variable WIDEBERTH_CRASH_AT is "<name>:N", counted from 1. Thread-safe.
void CrashPoint(absl::string_view name);

}  // namespace wideberth
