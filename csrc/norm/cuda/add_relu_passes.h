// The passes that compute y = relu(norm(x) + skip) anew: over points with a skip as large as x, over 2x2 windows with
// one of half the height and width.
#pragma once

#include "norm/cuda/passes.h"

namespace rlv2v {

template <class A, int P, int L>
struct BnSumOperands {
  BnValues<A, P, L> x, skip;

  template <class Lanes>
  __device__ BnValues<A, P, L> y(const Lanes& lanes) const {
    BnValues<A, P, L> values;
#pragma unroll
    for (int p = 0; p < P; ++p)
#pragma unroll
      for (int l = 0; l < L; ++l) values.at[p][l] = relu_of(lanes[l].affine(x.at[p][l]) + skip.at[p][l]);
    return values;
  }
};

// What all of them read.
template <class T>
struct BnSumInputs {
  const T *x, *skip;
  BnAffineSlots<Wide<T>> affines;

  template <class Access>
  __device__ BnSumOperands<Wide<T>, Access::P, Access::L> load(const Access& access) const {
    return {access.full(x), access.skip(skip)};
  }
};

// The moments of y.
template <class T>
struct BnAddReluMomentsPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 2;
  BnSumInputs<T> in;

  struct Constants {
    BnAffine<A> affine;
  };
  __device__ Constants constants(int64_t slot) const { return {in.affines[slot]}; }

  template <class Access>
  __device__ auto load(const Access& access) const {
    return in.load(access);
  }
  template <class Access, class Operands, class Lanes>
  __device__ auto compute(const Access&, const Operands& of, const Lanes& lanes) const {
    return of.y(lanes);
  }
};

// z = again(y), or y.
template <class T>
struct BnAddReluPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 2;
  BnSumInputs<T> in;
  T* z;
  bool renormalize;
  BnAffineSlots<A> again;

  struct Constants {
    BnAffine<A> affine, again;
  };
  __device__ Constants constants(int64_t slot) const {
    return {in.affines[slot], renormalize ? again[slot] : BnAffine<A>{}};
  }

  template <class Access>
  __device__ auto load(const Access& access) const {
    return in.load(access);
  }
  template <class Access, class Operands, class Lanes>
  __device__ BnNothing compute(const Access& access, const Operands& of, const Lanes& lanes) const {
    auto values = of.y(lanes);
    if (renormalize)
#pragma unroll
      for (int p = 0; p < Access::P; ++p)
#pragma unroll
        for (int l = 0; l < Access::L; ++l) values.at[p][l] = lanes[l].again(values.at[p][l]);
    access.store(z, values);
    return {};
  }
};

template <class A, int P, int L>
struct BnSumGradOperands {
  BnValues<A, P, L> grad_z;
  BnSumOperands<A, P, L> of;
};

// The sums that the gradient through the second normalization is made of.
template <class T>
struct BnAddReluSumsPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 2;
  BnSumInputs<T> in;
  const T* grad_z;
  BnAffineSlots<A> again;

  struct Constants {
    BnAffine<A> affine;
    A mean_again;
  };
  __device__ Constants constants(int64_t slot) const { return {in.affines[slot], again[slot].mean}; }

  template <class Access>
  __device__ BnSumGradOperands<A, Access::P, Access::L> load(const Access& access) const {
    return {access.full(grad_z), in.load(access)};
  }
  template <class Access, class Operands, class Lanes>
  __device__ BnProducts<A, Access::P, Access::L> compute(const Access&, const Operands& of, const Lanes& lanes) const {
    BnProducts<A, Access::P, Access::L> products{of.grad_z, of.of.y(lanes)};
#pragma unroll
    for (int p = 0; p < Access::P; ++p)
#pragma unroll
      for (int l = 0; l < Access::L; ++l) products.deviation.at[p][l] -= lanes[l].mean_again;
    return products;
  }
};

// The gradient before the ReLU, which is that of a skip as large as x; of a low skip, the sum of each window. Returns
// the sums for the gradient through the first normalization.
template <class T>
struct BnAddReluGradPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 1;
  BnSumInputs<T> in;
  const T* grad_z;
  T *grad_sum, *grad_low;
  bool renormalize;
  BnGradAffineSlots<A> through_again;

  struct Constants {
    BnAffine<A> affine;
    BnGradAffine<A> through_again;
  };
  __device__ Constants constants(int64_t slot) const {
    return {in.affines[slot], renormalize ? through_again[slot] : BnGradAffine<A>{}};
  }

  template <class Access>
  __device__ BnSumGradOperands<A, Access::P, Access::L> load(const Access& access) const {
    return {access.full(grad_z), in.load(access)};
  }
  template <class Access, class Operands, class Lanes>
  __device__ BnProducts<A, Access::P, Access::L> compute(const Access& access, const Operands& of,
                                                         const Lanes& lanes) const {
    BnProducts<A, Access::P, Access::L> products{of.grad_z, of.of.x};
    const auto y = of.of.y(lanes);
#pragma unroll
    for (int p = 0; p < Access::P; ++p)
#pragma unroll
      for (int l = 0; l < Access::L; ++l) {
        A& grad = products.grad.at[p][l];
        if (renormalize) grad = lanes[l].through_again(grad, y.at[p][l]);
        grad = relu_grad_of(grad, y.at[p][l]);
        products.deviation.at[p][l] -= lanes[l].affine.mean;
      }
    access.store(grad_sum, products.grad);
    access.store_window_sums(grad_low, products.grad);
    return products;
  }
};

// The gradient through a normalization; grad_x may be grad.
template <class T>
struct BnGradApplyPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 2;
  BnGradInputs<T> in;
  T* grad_x;
  BnGradAffineSlots<A> affines;

  using Constants = BnGradAffine<A>;
  __device__ Constants constants(int64_t slot) const { return affines[slot]; }

  template <class Access>
  __device__ auto load(const Access& access) const {
    return in.load(access);
  }
  template <class Access, class Lanes>
  __device__ BnNothing compute(const Access& access, const BnGradOperands<A, Access::L>& of,
                               const Lanes& affine) const {
    BnValues<A, 1, Access::L> values;
#pragma unroll
    for (int l = 0; l < Access::L; ++l) values.at[0][l] = affine[l](of.grad.at[0][l], of.x.at[0][l]);
    access.store(grad_x, values);
    return {};
  }
};

}  // namespace rlv2v
