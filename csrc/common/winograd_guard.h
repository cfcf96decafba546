// Where Winograd's convolution would show: it adds and subtracts all values of a patch of 6x6 pixels, so what is not
// finite reaches results that do not see it, and sums round relative to the largest value of the patch.
#pragma once

#include "common/portability.h"

namespace rlv2v {

// Where the largest value of a patch exceeds by this all values that some result sees, a plain convolution would be
// more exact by about a thousandth of the result.
constexpr float kWinogradRange = 4096;
// Values that large overflow in the transforms.
constexpr float kWinogradLargest = 1e30f;

// Whether some result of a patch needs a plain convolution. `largest` is the largest absolute value of each of the 6x6
// pixels over its channels, infinite or NaN where one of them is; a result sees kTaps x kTaps pixels.
template <int kTaps>
RLV2V_HD bool patch_is_unsafe(const float* largest) {
  constexpr int kSide = 6, kResults = kSide + 1 - kTaps;
  float overall = 0, across[kSide * kResults];
  for (int p = 0; p < kSide * kSide; ++p) {
    if (!(largest[p] <= kWinogradLargest)) return true;
    overall = largest[p] > overall ? largest[p] : overall;
  }
  for (int y = 0; y < kSide; ++y)
    for (int x = 0; x < kResults; ++x) {
      float near = 0;
      for (int tap = 0; tap < kTaps; ++tap) {
        const float size = largest[y * kSide + x + tap];
        near = size > near ? size : near;
      }
      across[y * kResults + x] = near;
    }
  for (int p = 0; p < kResults * kResults; ++p) {
    float near = 0;
    for (int tap = 0; tap < kTaps; ++tap) {
      const float size = across[p + tap * kResults];
      near = size > near ? size : near;
    }
    if (near > 0 && overall > kWinogradRange * near) return true;
  }
  return false;
}

}  // namespace rlv2v
