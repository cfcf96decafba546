#include "norm/cuda/passes.h"

namespace rlv2v {
namespace {

template <class T>
struct BnReluSumsPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 2;
  BnGradInputs<T> in;
  BnAffineSlots<A> affines;

  using Constants = BnAffine<A>;
  __device__ Constants constants(int64_t slot) const { return affines[slot]; }

  template <class Access>
  __device__ auto load(const Access& access) const {
    return in.load(access);
  }
  template <class Access, class Lanes>
  __device__ BnProducts<A, 1, Access::L> compute(const Access&, const BnGradOperands<A, Access::L>& of,
                                                 const Lanes& affine) const {
    BnProducts<A, 1, Access::L> products;
#pragma unroll
    for (int l = 0; l < Access::L; ++l) {
      const A value = of.x.at[0][l];
      products.grad.at[0][l] = relu_grad_of(of.grad.at[0][l], affine[l](value));
      products.deviation.at[0][l] = value - affine[l].mean;
    }
    return products;
  }
};

template <class T>
struct BnReluGradPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 2;
  BnGradInputs<T> in;
  T* grad_x;
  BnAffineSlots<A> affines;
  BnGradAffineSlots<A> grad_affines;

  struct Constants {
    BnAffine<A> affine;
    BnGradAffine<A> grad;
  };
  __device__ Constants constants(int64_t slot) const { return {affines[slot], grad_affines[slot]}; }

  template <class Access>
  __device__ auto load(const Access& access) const {
    return in.load(access);
  }
  template <class Access, class Lanes>
  __device__ BnNothing compute(const Access& access, const BnGradOperands<A, Access::L>& of, const Lanes& lanes) const {
    BnValues<A, 1, Access::L> values;
#pragma unroll
    for (int l = 0; l < Access::L; ++l) {
      const A value = of.x.at[0][l];
      values.at[0][l] = lanes[l].grad(relu_grad_of(of.grad.at[0][l], lanes[l].affine(value)), value);
    }
    access.store(grad_x, values);
    return {};
  }
};

template <class T>
int run_on_cuda(const BnReluFwd<T>& call, const BnLaunch& on) {
  BnRunOnCuda<T> run(call.layout, on, {call.x, call.y});
  const auto affines = affines_of(run, call.layout, call.x, 0, call.norm);
  run.points(call.layout, BnApplyPass<T, true>{call.x, call.y, affines});
  return run.error();
}

template <class T>
int run_on_cuda(const BnReluBwd<T>& call, const BnLaunch& on) {
  const BnLayout& layout = call.layout;
  BnRunOnCuda<T> run(layout, on, {call.grad_y, call.x, call.grad_x});
  const BnGradInputs<T> in{call.grad_y, call.x};
  const auto affines = run.affines(0, call.norm.given());
  run.points(layout, BnReluSumsPass<T>{in, affines});
  const auto grad_affines = run.grad_affines(0, layout.count(), call.norm, call.grad_norm);
  run.points(layout, BnReluGradPass<T>{in, call.grad_x, affines, grad_affines});
  return run.error();
}

}  // namespace

RLV2V_BN_DEFINE_LAUNCH(BnReluFwd)
RLV2V_BN_DEFINE_LAUNCH(BnReluBwd)

}  // namespace rlv2v
