// The passes that several operators share (pass.h): measuring, applying, the gradient, and y = relu(norm(x) + skip)
// computed anew.
#pragma once

#include "norm/cuda/pass_queue.h"

namespace rlv2v {

// The moments of x.
template <class T>
struct MomentsPass {
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

// z = norm(x), or z = relu(norm(x)).
template <class T, bool kRelu>
struct ApplyPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 4;
  const T* x;
  T* z;
  AffineSlots<A> affines;

  using Constants = Affine<A>;
  __device__ Constants constants(int64_t slot) const { return affines[slot]; }

  template <class Access>
  __device__ auto load(const Access& access) const {
    return access.full(x);
  }
  template <class Access, class Lanes>
  __device__ Nothing compute(const Access& access, Values<A, 1, Access::L> values, const Lanes& affine) const {
#pragma unroll
    for (int l = 0; l < Access::L; ++l) {
      const A applied = affine[l](values.at[0][l]);
      values.at[0][l] = kRelu ? relu_of(applied) : applied;
    }
    access.store(z, values);
    return {};
  }
};

// The gradient of what a normalization gave, and the normalization's input.
template <class A, int L>
struct GradOperands {
  Values<A, 1, L> grad, x;
};

template <class T>
struct GradInputs {
  const T *grad, *x;

  template <class Access>
  __device__ GradOperands<Wide<T>, Access::L> load(const Access& access) const {
    return {access.full(grad), access.full(x)};
  }
};

// The gradient through a normalization. grad_x may be grad.
template <class T>
struct GradApplyPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 2;
  GradInputs<T> in;
  T* grad_x;
  GradAffineSlots<A> affines;

  using Constants = GradAffine<A>;
  __device__ Constants constants(int64_t slot) const { return affines[slot]; }

  template <class Access>
  __device__ auto load(const Access& access) const {
    return in.load(access);
  }
  template <class Access, class Lanes>
  __device__ Nothing compute(const Access& access, const GradOperands<A, Access::L>& operands,
                             const Lanes& affine) const {
    Values<A, 1, Access::L> values;
#pragma unroll
    for (int l = 0; l < Access::L; ++l) values.at[0][l] = affine[l](operands.grad.at[0][l], operands.x.at[0][l]);
    access.store(grad_x, values);
    return {};
  }
};

// What y is computed from: over points with a skip as large as x, or over 2x2 windows with a low skip.
template <class A, int P, int L>
struct SkipOperands {
  Values<A, P, L> x, skip;

  template <class Lanes>
  __device__ Values<A, P, L> y(const Lanes& lanes) const {
    Values<A, P, L> values;
#pragma unroll
    for (int p = 0; p < P; ++p)
#pragma unroll
      for (int l = 0; l < L; ++l) values.at[p][l] = relu_of(lanes[l].affine(x.at[p][l]) + skip.at[p][l]);
    return values;
  }
};

template <class T>
struct SkipInputs {
  const T *x, *skip;
  AffineSlots<Wide<T>> affines;

  template <class Access>
  __device__ SkipOperands<Wide<T>, Access::P, Access::L> load(const Access& access) const {
    return {access.full(x), access.skip(skip)};
  }
};

// The constants of a normalization of x, which is measured unless it is frozen.
template <class T>
AffineSlots<Wide<T>> affines_of(PassQueue<T>& queue, const NormLayout& layout, const T* x, Which which,
                                const Norm<T>& norm) {
  if (!norm.frozen) queue.points(layout, MomentsPass<T>{x});
  return queue.affines(which, norm);
}

}  // namespace rlv2v
