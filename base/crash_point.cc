// SPDX-License-Identifier: Apache-2.0
#include "base/crash_point.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>

#include "absl/strings/numbers.h"

namespace wideberth {
namespace {

struct Wanted {
  std::string name;  // Empty: none.
  int number = 0;
};

Wanted FromEnvironment() {
  const char* const text = std::getenv("WIDEBERTH_CRASH_AT");
  if (text == nullptr) return {};
  const absl::string_view whole(text);
  const size_t colon = whole.rfind(':');
  Wanted wanted;
  if (colon == absl::string_view::npos ||
      !absl::SimpleAtoi(whole.substr(colon + 1), &wanted.number))
    return {};
  wanted.name = std::string(whole.substr(0, colon));
  return wanted;
}

}  // namespace

void CrashPoint(absl::string_view name) {
  static const Wanted wanted = FromEnvironment();
  static std::atomic<int> count{0};
  if (wanted.name.empty() || name != wanted.name) return;
  if (++count == wanted.number) ::kill(::getpid(), SIGKILL);
}

}  // namespace wideberth
