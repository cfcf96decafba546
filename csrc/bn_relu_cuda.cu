#include "bn_moments_cuda.h"

namespace rlv2v {
namespace {

template <class T>
struct BnReluPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 4;
  const T* x;
  T* y;
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
    for (int l = 0; l < Access::L; ++l) values.at[0][l] = relu_of(affine[l](values.at[0][l]));
    access.store(y, values);
    return {};
  }
};

template <class A, int L>
struct BnReluOperands {
  BnValues<A, 1, L> grad_y, x;
};

template <class T>
struct BnReluSumsPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 2;
  const T *grad_y, *x;
  BnAffineSlots<A> affines;

  using Constants = BnAffine<A>;
  __device__ Constants constants(int64_t slot) const { return affines[slot]; }

  template <class Access>
  __device__ BnReluOperands<A, Access::L> load(const Access& access) const {
    return {access.full(grad_y), access.full(x)};
  }
  template <class Access, class Lanes>
  __device__ BnProducts<A, 1, Access::L> compute(const Access&, const BnReluOperands<A, Access::L>& of,
                                                 const Lanes& affine) const {
    BnProducts<A, 1, Access::L> products;
#pragma unroll
    for (int l = 0; l < Access::L; ++l) {
      const A value = of.x.at[0][l];
      products.grad.at[0][l] = relu_grad_of(of.grad_y.at[0][l], affine[l](value));
      products.deviation.at[0][l] = value - affine[l].mean;
    }
    return products;
  }
};

template <class T>
struct BnReluGradPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 2;
  const T *grad_y, *x;
  T* grad_x;
  BnAffineSlots<A> affines;
  BnGradAffineSlots<A> grad_affines;

  struct Constants {
    BnAffine<A> affine;
    BnGradAffine<A> grad;
  };
  __device__ Constants constants(int64_t slot) const { return {affines[slot], grad_affines[slot]}; }

  template <class Access>
  __device__ BnReluOperands<A, Access::L> load(const Access& access) const {
    return {access.full(grad_y), access.full(x)};
  }
  template <class Access, class Lanes>
  __device__ BnNothing compute(const Access& access, const BnReluOperands<A, Access::L>& of, const Lanes& lanes) const {
    BnValues<A, 1, Access::L> values;
#pragma unroll
    for (int l = 0; l < Access::L; ++l) {
      const A value = of.x.at[0][l];
      values.at[0][l] = lanes[l].grad(relu_grad_of(of.grad_y.at[0][l], lanes[l].affine(value)), value);
    }
    access.store(grad_x, values);
    return {};
  }
};

template <class T>
int run_on_cuda(const BnReluFwd<T>& call, const BnLaunch& on) {
  BnRunOnCuda<T> run(call.layout, on, {call.x, call.y});
  const auto affines = affines_of(run, call.layout, call.x, 0, call.norm);
  run.points(call.layout, BnReluPass<T>{call.x, call.y, affines});
  return run.error();
}

template <class T>
int run_on_cuda(const BnReluBwd<T>& call, const BnLaunch& on) {
  const BnLayout& layout = call.layout;
  BnRunOnCuda<T> run(layout, on, {call.grad_y, call.x, call.grad_x});
  const auto affines = run.affines(0, call.norm.given());
  run.points(layout, BnReluSumsPass<T>{call.grad_y, call.x, affines});
  const auto grad_affines = run.grad_affines(0, layout.count(), call.norm, call.grad_norm);
  run.points(layout, BnReluGradPass<T>{call.grad_y, call.x, call.grad_x, affines, grad_affines});
  return run.error();
}

}  // namespace

RLV2V_BN_DEFINE_LAUNCH(BnReluFwd)
RLV2V_BN_DEFINE_LAUNCH(BnReluBwd)

}  // namespace rlv2v
