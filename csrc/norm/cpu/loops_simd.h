// Loops over one block, or a band of one, of what normalization needs; sums and moments are added to.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace rlv2v {

// rows x groups numbers in one run of memory.
struct BnBlock {
  int64_t rows, groups;
};

// Constants of each group, in arrays padded to kPaddedGroups.
constexpr int64_t kPaddedGroups = 16;
template <class T>
struct BnAffines {
  T *mean, *scale, *shift;
};
template <class T>
struct BnGradAffines {
  T *mean, *of_grad, *of_x, *constant;
};

// Of the `count` values of each group so far.
struct RunningMoments {
  double count;
  double *mean, *m2;
};
struct RunningSums {
  double *grad, *grad_x;
};

}  // namespace rlv2v

#define RLV2V_BN(T)                                                                                                    \
  RLV2V_DECLARE_SIMD(void bn_moments(const T* x, BnBlock, RunningMoments&))                                            \
  RLV2V_DECLARE_SIMD(void bn_apply(const T* x, const BnAffines<T>&, BnBlock, T* y))                                    \
  /* Sums of grad and grad (x - mean) over the rows. */                                                                \
  RLV2V_DECLARE_SIMD(void bn_sums(const T* grad, const T* x, const T* mean, BnBlock, const RunningSums&))              \
  /* grad_x may be grad. */                                                                                            \
  RLV2V_DECLARE_SIMD(void bn_grad_apply(const T* grad, const T* x, const BnGradAffines<T>&, BnBlock, T* grad_x))       \
  RLV2V_DECLARE_SIMD(void bn_relu_fwd(const T* x, const BnAffines<T>&, BnBlock, T* y))                                 \
  RLV2V_DECLARE_SIMD(void bn_relu_sums(const T* grad_y, const T* x, const BnAffines<T>&, BnBlock, const RunningSums&)) \
  RLV2V_DECLARE_SIMD(                                                                                                  \
      void bn_relu_bwd(const T* grad_y, const T* x, const BnAffines<T>&, const BnGradAffines<T>&, BnBlock, T* grad_x)) \
  RLV2V_DECLARE_SIMD(void bn_add_relu_fwd(const T* x, const T* skip, const BnAffines<T>&, BnBlock, T* y))              \
  /* The gradient before the ReLU that gave y, through a second normalization of y. */                                 \
  RLV2V_DECLARE_SIMD(void bn_again_relu_bwd(const T* grad_z, const T* y, const BnGradAffines<T>&, BnBlock, T* grad_sum))
RLV2V_BN(float)
RLV2V_BN(double)
#undef RLV2V_BN
