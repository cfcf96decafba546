// The loops of pixel_map. Pixels are numbered through all frames; a call works on a range of them, in blocks that stay
// in the cache. Sizes count elements.
#pragma once

#include "pixelwise/cpu/pixel_map.h"

#define RLV2V_PIXEL_MAP(T)                                                                                             \
  RLV2V_DECLARE_SIMD(bool can_round_pixel_map(const PixelMapShape&, T))                                                \
  /* rounded: the products of the hidden layers and of the head are of factors rounded to bfloat16. */                 \
  RLV2V_DECLARE_SIMD(int64_t packed_pixel_map_size(const PixelMapShape&, bool rounded, T))                             \
  RLV2V_DECLARE_SIMD(void pack_pixel_map(const PixelMap<T>&, const PixelMapParameters<const T>&, bool rounded, T* to)) \
  RLV2V_DECLARE_SIMD(int64_t pixel_map_fwd_scratch(const PixelMapShape&, bool rounded, T))                             \
  RLV2V_DECLARE_SIMD(int64_t pixel_map_bwd_scratch(const PixelMapShape&, bool rounded, T))                             \
  RLV2V_DECLARE_SIMD(                                                                                                  \
      void pixel_map_fwd(const PixelMap<T>&, bool rounded, int64_t begin, int64_t end, T* scratch, T* y))              \
  /* Adds to the sums the gradients of the parameters by these pixels. */                                              \
  RLV2V_DECLARE_SIMD(int64_t pixel_map_sums_size(const PixelMapShape&, T))                                             \
  RLV2V_DECLARE_SIMD(                                                                                                  \
      void pixel_map_bwd(const PixelMapGrad<T>&, bool rounded, int64_t begin, int64_t end, T* scratch, T* sums))       \
  RLV2V_DECLARE_SIMD(void unpack_pixel_map_sums(const PixelMapGrad<T>&, const T* sums, const PixelMapParameters<T>&))

RLV2V_PIXEL_MAP(float)
RLV2V_PIXEL_MAP(double)
#undef RLV2V_PIXEL_MAP
