// The pass in which statistics are measured.
#pragma once

#include "bn_run_cuda.h"

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

// Constants of normalization `which` of x, measured unless it is frozen.
template <class T>
BnAffineSlots<Wide<T>> affines_of(BnRunOnCuda<T>& run, const BnLayout& layout, const T* x, int which,
                                  const BnNorm<T>& norm) {
  if (!norm.frozen) run.points(layout, BnMomentsPass<T>{x});
  return run.affines(which, norm);
}

}  // namespace rlv2v
