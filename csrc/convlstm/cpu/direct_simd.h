// The ConvLSTM steps as direct convolutions: any odd kernel, float or double, in the order of summation of a plain
// convolution. A range [begin, end) counts the tiles of ConvLSTMTiling. Each caller
// brings scratch for as many elements as *_scratch says.
#pragma once

#include "convlstm/cpu/steps.h"

#define RLV2V_CONVLSTM_DIRECT(T)                                                                                       \
  RLV2V_DECLARE_SIMD(int64_t direct_fwd_scratch(const ConvLSTMStep<T>&, const ConvLSTMTiling&))                        \
  RLV2V_DECLARE_SIMD(void direct_fwd(const ConvLSTMStep<T>&, const ConvLSTMTiling&, int64_t, int64_t, T* scratch))     \
  RLV2V_DECLARE_SIMD(int64_t direct_bwd_scratch(const ConvLSTMGradStep<T>&, const ConvLSTMTiling&))                    \
  RLV2V_DECLARE_SIMD(void direct_bwd(const ConvLSTMGradStep<T>&, const ConvLSTMTiling&, int64_t, int64_t, T* scratch)) \
  /* Weight gradients of the frames [frame, frame + frames), in two phases over shared scratch: prepare lays out the   \
     frames of its range, accumulate adds their products to its units of `sums`. */                                    \
  RLV2V_DECLARE_SIMD(int64_t direct_weight_scratch(const ConvLSTMGradWeight<T>&, int64_t frames))                      \
  RLV2V_DECLARE_SIMD(int64_t direct_weight_sums(const ConvLSTMShape&, const T*))                                       \
  RLV2V_DECLARE_SIMD(int64_t direct_weight_units(const ConvLSTMShape&, const T*))                                      \
  RLV2V_DECLARE_SIMD(void direct_weight_prepare(const ConvLSTMGradWeight<T>&, int64_t frame, int64_t frames, int64_t,  \
                                                int64_t, T* scratch))                                                  \
  RLV2V_DECLARE_SIMD(void direct_weight_accumulate(const ConvLSTMGradWeight<T>&, int64_t frames, int64_t, int64_t,     \
                                                   const T* scratch, T* sums))                                         \
  /* Rows [begin, end) of 4K of the gradients out of the sums; grad_weight (4K, C+K, kh, kw), grad_bias (4K). */       \
  RLV2V_DECLARE_SIMD(                                                                                                  \
      void direct_weight_finish(const ConvLSTMShape&, const T* sums, int64_t, int64_t, T* grad_weight, T* grad_bias))

RLV2V_CONVLSTM_DIRECT(float)
RLV2V_CONVLSTM_DIRECT(double)
#undef RLV2V_CONVLSTM_DIRECT
