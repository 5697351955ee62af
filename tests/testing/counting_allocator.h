// SPDX-License-Identifier: Apache-2.0
// How many bytes of tensors are alive on the CPU, and were at the worst moment.
#pragma once

#include <cstdint>

namespace wideberth::testing {

// While it lives, every CPU tensor made is counted; those made before are not. One at a time;
// tensors may outlive it.
class CountedTensors {
 public:
  CountedTensors();
  ~CountedTensors();
  CountedTensors(const CountedTensors&) = delete;
  CountedTensors& operator=(const CountedTensors&) = delete;

  int64_t current_bytes() const;
  int64_t peak_bytes() const;
  int64_t largest_bytes() const;  // Of one tensor.
};

}  // namespace wideberth::testing
