// SPDX-License-Identifier: Apache-2.0
// The one place where torch exceptions become statuses. Called at the top of each thread's unit of
// work.
#pragma once

#include <exception>
#include <new>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace wideberth::model {

namespace internal {
template <typename T>
struct IsStatusOr : std::false_type {};
template <typename T>
struct IsStatusOr<absl::StatusOr<T>> : std::true_type {};
}  // namespace internal

// Runs `work`, which returns nothing, a Status, a StatusOr<T> or a T (then StatusOr<T> comes back);
// what it throws becomes Internal (ResourceExhausted for memory) with `what` and the first line of
// the exception's text.
template <typename Work>
auto CatchTorch(absl::string_view what, Work&& work) {
  using Result = std::invoke_result_t<Work>;
  constexpr bool is_status =
      std::is_same_v<Result, absl::Status> || internal::IsStatusOr<Result>::value;
  using Value = std::conditional_t<std::is_void_v<Result>, int, Result>;
  using Returned = std::conditional_t<std::is_void_v<Result>, absl::Status,
                                      std::conditional_t<is_status, Result, absl::StatusOr<Value>>>;
  auto first_line = [](const char* text) {
    const absl::string_view all(text);
    return all.substr(0, all.find('\n'));
  };
  try {
    if constexpr (std::is_void_v<Result>) {
      work();
      return Returned(absl::OkStatus());
    } else {
      return Returned(std::forward<Work>(work)());
    }
  } catch (const std::bad_alloc&) {
    return Returned(absl::ResourceExhaustedError(absl::StrCat(what, ": out of memory")));
  } catch (const std::exception& error) {
    return Returned(absl::InternalError(absl::StrCat(what, ": ", first_line(error.what()))));
  }
}

}  // namespace wideberth::model
