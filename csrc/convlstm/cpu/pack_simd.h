// Packs weights into the order in which the tile products read them, and copies images between the user's strides and
// NHWC.
#pragma once

#include "convlstm/cpu/steps.h"

#define RLV2V_CONVLSTM_PACK(T)                                                                                        \
  /* weight is (4K, C+K, kh, kw), contiguous. The sizes count elements; the const T* only selects the type. */        \
  RLV2V_DECLARE_SIMD(int64_t packed_weight_size(const ConvLSTMShape&, bool winograd, const T* weight))                \
  RLV2V_DECLARE_SIMD(int64_t packed_transposed_size(const ConvLSTMShape&, bool winograd, bool with_x, const T*))      \
  /* Packing is shared out over the range of input channels [begin, end) of (C+K), or of 4K for the transposed. */    \
  RLV2V_DECLARE_SIMD(void pack_weight(const ConvLSTMShape&, bool winograd, const T* weight, int64_t, int64_t, T* to)) \
  RLV2V_DECLARE_SIMD(void pack_weight_transposed(const ConvLSTMShape&, bool winograd, bool with_x, const T* weight,   \
                                                 int64_t, int64_t, T* to))                                            \
  RLV2V_DECLARE_SIMD(int64_t packed_bias_size(const ConvLSTMShape&, const T*))                                        \
  RLV2V_DECLARE_SIMD(void pack_bias(const ConvLSTMShape&, const T* bias, T* to)) /* bias is nullable */               \
  RLV2V_DECLARE_SIMD(void copy_rows(const ConvLSTMFrameCopy<T>&, int64_t begin, int64_t end))

RLV2V_CONVLSTM_PACK(float)
RLV2V_CONVLSTM_PACK(double)
#undef RLV2V_CONVLSTM_PACK
