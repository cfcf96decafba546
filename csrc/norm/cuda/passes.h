// The passes of a normalization by itself: measuring, applying, and what their gradients read.
#pragma once

#include "norm/cuda/run.h"

namespace rlv2v {

template <class T>
struct BnMomentsPass {
  static constexpr int kUnroll = 4;
  const T* x;

  struct Constants {};
  __device__ Constants constants(int64_t) const { return {}; }

  template <class Access>
  __device__ auto load(const Access& access) const {
    return access.full(x);
  }
  template <class Access, class Operands, class Lanes>
  __device__ Operands compute(const Access&, const Operands& x, const Lanes&) const {
    return x;
  }
};

// z = norm(x), or relu of it.
template <class T, bool kRelu>
struct BnApplyPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 4;
  const T* x;
  T* z;
  BnAffineSlots<A> affines;

  using Constants = BnAffine<A>;
  __device__ Constants constants(int64_t slot) const { return affines[slot]; }

  template <class Access>
  __device__ auto load(const Access& access) const {
    return access.full(x);
  }
  template <class Access, class Lanes>
  __device__ BnNothing compute(const Access& access, BnValues<A, 1, Access::L> values, const Lanes& affine) const {
#pragma unroll
    for (int l = 0; l < Access::L; ++l) {
      const A applied = affine[l](values.at[0][l]);
      values.at[0][l] = kRelu ? relu_of(applied) : applied;
    }
    access.store(z, values);
    return {};
  }
};

// The gradient of what a pass before gave, and that one's input.
template <class A, int L>
struct BnGradOperands {
  BnValues<A, 1, L> grad, x;
};

template <class T>
struct BnGradInputs {
  const T *grad, *x;

  template <class Access>
  __device__ BnGradOperands<Wide<T>, Access::L> load(const Access& access) const {
    return {access.full(grad), access.full(x)};
  }
};

// Constants of normalization `which` of x, measured unless it is frozen.
template <class T>
BnAffineSlots<Wide<T>> affines_of(BnRunOnCuda<T>& run, const BnLayout& layout, const T* x, int which,
                                  const BnNorm<T>& norm) {
  if (!norm.frozen) run.points(layout, BnMomentsPass<T>{x});
  return run.affines(which, norm);
}

}  // namespace rlv2v
